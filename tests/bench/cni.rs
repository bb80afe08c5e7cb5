//! ADD and DEL: what a runtime waits for, from starting the first program to the end of the last one.
//!
//! Ours beside the chains `ptp` + `host-local` + `portmap` and `bridge` + `host-local` + `portmap`, a pod of each in turn.
//! libcni's own part is in none of the figures. A pod's namespace is new, and the removal of those that were used is not
//! in the figures either.

use std::io::Write as _;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cni::facts::Pins;
use serde_json::{Value, json};
use sheave_tests::cni::{Call, Kind, Plugin, Pod, Stage, Subject};
use sheave_tests::plane::{Host, Plane};

use crate::statistics::Samples;

/// Fewer of those that wait for duplicate address detection: more than a second each.
const ALONE_SLOW: usize = 8;
/// Pods at a time.
const CROWD: usize = 50;
const DUAL: [&str; 2] = ["10.244.0.0/22", "fd00:10:244::/64"];
const IPV4: [&str; 1] = ["10.244.0.0/22"];
const VERSION: &str = "1.0.0";

/// What a runtime calls one after the other.
struct Chain {
    name: &'static str,
    stage: Stage,
    config: Value,
    /// The plugin behind, which changes nothing when no port is asked for.
    follower: Option<(Plugin, Value)>,
    is_ours: bool,
    is_slow: bool,
    /// Which chain it is a multiple of.
    base: usize,
    /// What was used and is not removed while something is measured.
    used: Vec<Pod>,
    alone: [Vec<f64>; 2],
    crowd: [Vec<f64>; 2],
    /// Milliseconds from the first call to the end of the last, for all of a crowd.
    whole: [Vec<f64>; 2],
}

/// How long the kernel is given to remove the namespaces of pods that were used.
const PAUSE: Duration = Duration::from_secs(1);

/// `beside`: another build of the plugin, measured in turn with this one.
pub(crate) fn run(plugin: &Path, beside: Option<&Path>, alone: usize, crowds: usize) -> Result<()> {
    println!("\n## cni\n");
    ensure!(plugin.exists(), "no {}: `cargo xtask bench` builds it", plugin.display());
    let ours = Subject::sheave_at(plugin);
    // The real guard, as an agent pins it.
    let host = Host::new()?;
    let mut chains = vec![
        Chain::new("sheave-cni, both families", &ours, &DUAL, 0)?,
        Chain::new("sheave-cni, IPv4", &ours, &IPV4, 1)?,
        Chain::new("ptp chain, IPv4", &Subject::reference(Kind::Ptp)?, &IPV4, 1)?,
        Chain::new("bridge chain, IPv4", &Subject::reference(Kind::Bridge)?, &IPV4, 1)?,
        Chain::new("ptp chain, both families", &Subject::reference(Kind::Ptp)?, &DUAL, 0)?,
        Chain::new("bridge chain, both families", &Subject::reference(Kind::Bridge)?, &DUAL, 0)?,
    ];
    if let Some(other) = beside.map(Subject::sheave_at) {
        chains.push(Chain::new("the other build, both families", &other, &DUAL, 0)?);
        chains.push(Chain::new("the other build, IPv4", &other, &IPV4, 1)?);
    }
    let mut plane = Plane::on(&host, &chains[0].stage.node)?;
    let pins =
        chains[0].stage.node.run(|| plane.data.repair_guards().and_then(|_| plane.data.guard_pins()))?;
    // And the packet path, which `Plane::on` has pinned.
    let pins = Pins { path: Some(plane.data.path_pins()), ..pins };
    // One chain works at a time, so that they may share it.
    for chain in chains.iter_mut().filter(|chain| chain.is_ours) {
        chain.stage.tell(pins.clone())?;
    }
    for number in 0..=alone {
        // The first call of each is not counted: it makes folders and bridges.
        for chain in chains.iter_mut().filter(|chain| !chain.is_slow || number <= ALONE_SLOW) {
            chain.one(number > 0)?;
        }
    }
    chains.iter_mut().for_each(|chain| chain.used.clear());
    for _ in 0..crowds {
        for chain in &mut chains {
            thread::sleep(PAUSE);
            chain.crowd()?;
        }
    }
    print(&chains, alone, crowds);
    Ok(())
}

impl Chain {
    fn new(name: &'static str, subject: &Subject, ranges: &[&str], base: usize) -> Result<Self> {
        let is_ours = subject.kind == Kind::Sheave;
        let stage = Stage::ranged(subject, ranges)?;
        // The stage spares tests this wait; a node has it.
        stage.node.sysctl("ipv6/conf/default/accept_dad", "1")?;
        let config = stage.config(VERSION);
        let follower = (!is_ours).then(|| {
            let config = json!({
                "cniVersion": VERSION, "name": "pods", "type": "portmap", "capabilities": { "portMappings": true },
            });
            (Plugin::new(subject.folder.join("portmap")), config)
        });
        let is_slow = !is_ours && ranges.len() > 1;
        let nothing = || [Vec::new(), Vec::new()];
        Ok(Self {
            name,
            stage,
            config,
            follower,
            is_ours,
            is_slow,
            base,
            used: Vec::new(),
            alone: nothing(),
            crowd: nothing(),
            whole: nothing(),
        })
    }

    fn pod(&self) -> Result<Pod> {
        let pod = self.stage.pod()?;
        pod.netns.sysctl("ipv6/conf/default/accept_dad", "1")?;
        Ok(pod)
    }

    fn add(&self, pod: &Pod) -> Result<Duration> {
        let (first, result) = self.timed(&self.stage.subject.plugin, "ADD", &self.config, pod)?;
        let Some((plugin, config)) = &self.follower else { return Ok(first) };
        let mut config = config.clone();
        config["prevResult"] = result.context("no result")?;
        Ok(first + self.timed(plugin, "ADD", &config, pod)?.0)
    }

    fn del(&self, pod: &Pod) -> Result<Duration> {
        let second = match &self.follower {
            Some((plugin, config)) => self.timed(plugin, "DEL", config, pod)?.0,
            None => Duration::ZERO,
        };
        Ok(second + self.timed(&self.stage.subject.plugin, "DEL", &self.config, pod)?.0)
    }

    fn timed(
        &self,
        plugin: &Plugin,
        verb: &str,
        config: &Value,
        pod: &Pod,
    ) -> Result<(Duration, Option<Value>)> {
        let call: Call = self.stage.call(verb, config, pod);
        let mut command = plugin.command(&self.stage.node, &call)?;
        let start = Instant::now();
        let mut child = command.spawn().with_context(|| plugin.program().display().to_string())?;
        child.stdin.take().context("no pipe")?.write_all(call.bytes())?;
        let output = child.wait_with_output()?;
        let took = start.elapsed();
        ensure!(output.status.success(), "{} {verb}: {output:?}", self.name);
        Ok((took, serde_json::from_slice(&output.stdout).ok()))
    }

    fn one(&mut self, counts: bool) -> Result<()> {
        let pod = self.pod()?;
        let took = [self.add(&pod)?, self.del(&pod)?];
        for (took, samples) in took.into_iter().zip(&mut self.alone).filter(|_| counts) {
            samples.push(milliseconds(took));
        }
        self.used.push(pod);
        Ok(())
    }

    fn crowd(&mut self) -> Result<()> {
        let pods: Vec<Pod> = (0..CROWD).map(|_| self.pod()).collect::<Result<_>>()?;
        let (added, adding) = at_once(&pods, |pod| self.add(pod))?;
        let (removed, removing) = at_once(&pods, |pod| self.del(pod))?;
        self.crowd[0].extend(added);
        self.crowd[1].extend(removed);
        self.whole[0].push(adding);
        self.whole[1].push(removing);
        Ok(())
    }
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// A thread for each pod; what each took, and what all took together.
fn at_once(pods: &[Pod], work: impl Fn(&Pod) -> Result<Duration> + Sync) -> Result<(Vec<f64>, f64)> {
    let ready = Barrier::new(pods.len() + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = pods
            .iter()
            .map(|pod| {
                scope.spawn(|| {
                    ready.wait();
                    work(pod)
                })
            })
            .collect();
        ready.wait();
        let start = Instant::now();
        let took: Result<Vec<f64>> = threads
            .into_iter()
            .map(|it| it.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?.map(milliseconds))
            .collect();
        Ok((took?, milliseconds(start.elapsed())))
    })
}

fn print(chains: &[Chain], alone: usize, crowds: usize) {
    println!(
        "milliseconds; alone: {alone} pods in turn ({ALONE_SLOW} where duplicate address detection is waited for); \
         crowd: {CROWD} at once, {crowds} times\n"
    );
    println!(
        "| plugins | verb | alone min | p50 | p99 | times ours | crowd p50 | p99 | all {CROWD} | times ours |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    );
    for chain in chains {
        for (index, verb) in ["ADD", "DEL"].into_iter().enumerate() {
            let of = |values: &Vec<f64>| Samples::new(values.iter().copied());
            let (alone, crowd) = (of(&chain.alone[index]), of(&chain.crowd[index]));
            let (whole, ours) = (of(&chain.whole[index]), &chains[chain.base]);
            println!(
                "| {} | {verb} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} | {:.0} | {:.1} |",
                chain.name,
                alone.quantile(0.0),
                alone.median(),
                alone.quantile(0.99),
                alone.median() / of(&ours.alone[index]).median(),
                crowd.median(),
                crowd.quantile(0.99),
                whole.median(),
                whole.median() / of(&ours.whole[index]).median(),
            );
        }
    }
}
