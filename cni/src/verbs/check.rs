//! CHECK: is it still as ADD left it? Answered from what this node has, so that an agent that restarts is no error.
//!
//! What later plugins of a chain may change (MAC addresses, sysctls, routes, more interfaces) is no difference. Must not
//! know how the kernel is asked.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;
use serde_json::Value;

use super::{Refusal, Task, ipam};
use crate::{
    record::{Attachment, Stage},
    spec::{Error, Verb, interface_in},
};

/// Checks.
pub(super) fn check(task: &Task<'_>) -> Result<(), Error> {
    let previous = task.network.previous()?.ok_or(Refusal::NoPrevious)?;
    let id = &task.call.id;
    let different =
        |differences: &[String]| Refusal::Different { id: id.clone(), differences: differences.join("; ") };
    let Some(record) = task.world.get(id)?.filter(|record| record.stage == Stage::Wired) else {
        return Err(different(&["nothing is remembered of it".to_owned()]).into());
    };
    ipam::forward(task, Verb::Check)?;
    let mut differences = against_result(&record, previous);
    differences.extend(against_namespace(task, &record)?);
    // In another namespace nothing can be as it was.
    if differences.is_empty() {
        differences.extend(against_kernel(task, &record)?);
    }
    if differences.is_empty() { Ok(()) } else { Err(different(&differences).into()) }
}

fn against_result(record: &Attachment, previous: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    if interface_in(previous, &record.id.ifname).is_none() {
        differences.push(format!("prevResult has no interface {} in a sandbox", record.id.ifname));
    }
    let told = ipam::texts_of(previous, "ips", "address");
    let told: BTreeSet<IpAddr> =
        told.filter_map(|text| text.parse().ok().map(|it: IpNetwork| it.ip())).collect();
    let untold = record.addresses.iter().filter(|address| !told.contains(address));
    differences.extend(untold.map(|address| format!("prevResult does not have its address {address}")));
    differences
}

fn against_namespace(task: &Task<'_>, record: &Attachment) -> Result<Option<String>, Error> {
    let path = &task.call.netns;
    Ok(match task.world.identify(path)? {
        None => Some(format!("{} is no network namespace", path.display())),
        Some(netns) if netns.cookie != record.netns.cookie => {
            Some(format!("{} is another network namespace than that of ADD", path.display()))
        }
        Some(_) => None,
    })
}

fn against_kernel(task: &Task<'_>, record: &Attachment) -> Result<Vec<String>, Error> {
    let facts = task.world.facts()?;
    let mut differences = task.world.check(record, &facts.pins)?;
    if !record.ports.is_empty() && task.world.agent_runs() {
        // The agent answers at once for ports that it serves.
        differences.extend(task.world.serve_ports(&record.id).err().map(|error| error.to_string()));
    }
    Ok(differences)
}
