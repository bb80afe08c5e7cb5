//! STATUS: could a pod be added now? Kubelet has it asked every five seconds: a few files are looked at, no more.
//!
//! A node without free addresses is ready: otherwise Kubernetes would evict the pods that run. Must not know the pods.

use std::time::Duration;

use super::{Refusal, Task, add, ipam};
use crate::{
    facts::NodeFacts,
    spec::{Code, Error, Verb},
};

/// A node stays ready for so long without an agent: it is being exchanged or restarted, and pods without host ports can
/// be added all the same. Kubernetes would report the node and stop sending pods to it.
const GRACE: Duration = Duration::from_secs(30);

/// Looks.
pub(super) fn status(task: &Task<'_>) -> Result<(), Error> {
    let facts = task.world.facts().map_err(not_ready)?;
    if facts.obstacle.is_none() {
        pinned(task, &facts)?;
    }
    if !task.world.agent_runs() && !task.world.agent_lived_within(GRACE) {
        return Err(Refusal::NotReady.into());
    }
    add::usable(&facts).map_err(|refusal| not_ready(refusal.into()))?;
    if task.network.ipam.is_none() && facts.pod_cidrs.is_empty() {
        return Err(not_ready(Refusal::NoPodCidr.into()));
    }
    ipam::forward(task, Verb::Status)
}

/// What pods that run need too.
fn pinned(task: &Task<'_>, facts: &NodeFacts) -> Result<(), Refusal> {
    match task.world.missing_pins(&facts.pins).first() {
        Some(missing) => Err(Refusal::Broken(missing.display().to_string())),
        None => Ok(()),
    }
}

fn not_ready(error: Error) -> Error {
    Error { code: Code::NotReady as u32, ..error }
}
