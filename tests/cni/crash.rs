//! The plugin killed after every system call: the next DEL leaves nothing, and the next ADD works.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sheave_tests::cni::{Call, Census, IFNAME, Kind, Pod, Stage, Subject, exchange};

use crate::add::addresses_of;
use crate::suite::{Candidate, unchanged};
use crate::tracer::{self, End};

/// Places at which a verb is killed: with more system calls than that, some are left out.
const PLACES: usize = 120;

/// One place: what was left there, and what the next calls make of it.
struct Place<'a> {
    stage: &'a Stage,
    config: &'a Value,
    before: &'a Census,
}

#[test]
fn killed_anywhere_in_add_or_del_the_next_del_leaves_nothing() {
    let candidate = Candidate::new(Subject::sheave().unwrap()).unwrap();
    every_place(&candidate, PLACES).unwrap();
}

#[test]
fn the_reference_plugin_survives_being_killed_at_some_places() {
    let candidate = Candidate::new(Subject::reference(Kind::Ptp).unwrap()).unwrap();
    every_place(&candidate, 4).unwrap();
}

fn every_place(candidate: &Candidate, places: usize) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    // Files that a first call makes for good are there from now on.
    let pod = stage.pod()?;
    stage.add(&config, &pod)?;
    stage.del(&config, &pod)?;
    let before = stage.census()?;
    let place = Place { stage: &stage, config: &config, before: &before };
    for verb in ["ADD", "DEL"] {
        let calls = place.whole(verb)?;
        let step = calls.div_ceil(places);
        eprintln!("{verb}: {calls} system calls, killed after every {step}.");
        for (number, limit) in (1..=calls).step_by(step).enumerate() {
            let tried = place.tried(verb, limit, number % 2 == 1);
            tried.with_context(|| format!("{verb} killed after call {limit} of {calls}"))?;
        }
    }
    Ok(())
}

impl Place<'_> {
    /// How many system calls the verb makes.
    fn whole(&self, verb: &str) -> Result<usize> {
        let pod = self.stage.pod()?;
        if verb == "DEL" {
            self.stage.add(self.config, &pod)?;
        }
        let end = self.traced(&self.stage.call(verb, self.config, &pod), usize::MAX)?;
        self.stage.del(self.config, &pod)?;
        match end {
            End::Itself { status: 0, calls } => Ok(calls),
            other => anyhow::bail!("{verb} under the tracer: {other:?}"),
        }
    }

    fn traced(&self, call: &Call, limit: usize) -> Result<End> {
        let mut command = self.stage.subject.plugin.command(&self.stage.node, call)?;
        command.env("GOMAXPROCS", "1");
        tracer::run(command, call.bytes(), limit)
    }

    fn tried(&self, verb: &str, limit: usize, is_vanished: bool) -> Result<()> {
        let pod = self.stage.pod()?;
        if verb == "DEL" {
            self.stage.add(self.config, &pod)?;
        }
        self.traced(&self.stage.call(verb, self.config, &pod), limit)?;
        // Every other time the runtime has given the namespace up before it asks for the removal.
        let pod = if is_vanished { pod.end()? } else { pod };
        self.stage.del(self.config, &pod).context("the next DEL")?;
        ensure!(!pod.has(IFNAME)?, "{IFNAME} is still there");
        unchanged(self.stage, self.before).context("after the next DEL")?;
        if is_vanished { Ok(()) } else { self.used_again(&pod) }
    }

    /// The same container gets its network after all.
    fn used_again(&self, pod: &Pod) -> Result<()> {
        let result = self.stage.add(self.config, pod).context("the next ADD")?;
        let address = addresses_of(&result)?.into_iter().next().context("no address")?;
        exchange(&self.stage.node, &pod.netns, address.parse()?)?;
        self.stage.del(self.config, pod)
    }
}
