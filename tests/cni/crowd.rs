//! Many pods at once: each gets what is its own, and nothing is left of them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use sheave_tests::cni::{Kind, Pod, Stage, Subject, exchange};

use crate::add::addresses_of;
use crate::suite::{Candidate, unchanged};

/// Calls at a time.
const AT_ONCE: usize = 50;
/// Room for what the issue asks for.
const RANGES: [&str; 2] = ["10.244.0.0/22", "fd00:10:244::/64"];

#[test]
fn five_hundred_pods_at_once_leave_nothing() {
    crowd(&Candidate::new(Subject::sheave().unwrap()).unwrap(), 500).unwrap();
}

#[test]
fn twenty_pods_of_the_reference_plugin_leave_nothing() {
    crowd(&Candidate::new(Subject::reference(Kind::Ptp).unwrap()).unwrap(), 20).unwrap();
}

fn crowd(candidate: &Candidate, count: usize) -> Result<()> {
    // A descriptor for each namespace.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let stage = Stage::ranged(&candidate.subject, &RANGES)?;
    let config = stage.config(candidate.newest());
    let before = stage.census()?;
    let pods: Vec<Pod> = (0..count).map(|_| stage.pod()).collect::<Result<_>>()?;
    let results = each(&pods, |pod| addresses_of(&stage.add(&config, pod)?))?;
    let addresses: BTreeSet<&String> = results.iter().flatten().collect();
    ensure!(addresses.len() == 2 * count, "{} addresses for {count} pods", addresses.len());
    for (pod, addresses) in pods.iter().zip(&results).step_by(count / 20) {
        exchange(&stage.node, &pod.netns, addresses[0].parse()?).with_context(|| pod.container.clone())?;
    }
    ensure!(stage.census()?.same_as(&before).is_err(), "nothing was made");
    remove(&stage, &config, pods)?;
    unchanged(&stage, &before)
}

/// Half of the namespaces end before DEL is called, and some are called twice.
fn remove(stage: &Stage, config: &Value, pods: Vec<Pod>) -> Result<()> {
    let mut number = 0;
    let end = |pod: Pod| {
        number += 1;
        if number % 2 == 0 { pod.end() } else { Ok(pod) }
    };
    let pods: Vec<Pod> = pods.into_iter().map(end).collect::<Result<_>>()?;
    each(&pods, |pod| stage.del(config, pod))?;
    each(&pods[..pods.len() / 10], |pod| stage.del(config, pod))?;
    Ok(())
}

/// Calls `work` for every pod, [`AT_ONCE`] at a time.
fn each<T: Send>(pods: &[Pod], work: impl Fn(&Pod) -> Result<T> + Sync) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        while let Some((index, pod)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|it| Some((it, pods.get(it)?)))
        {
            done.push((index, work(pod).with_context(|| pod.container.clone())?));
        }
        Ok(done)
    };
    let done: Result<Vec<Vec<(usize, T)>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let mut done: Vec<(usize, T)> = done?.into_iter().flatten().collect();
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, value)| value).collect())
}
