//! A delegated IPAM plugin: what it is asked, and what is understood of its answers.
//!
//! Of its result the addresses and the name servers are taken; routes and gateways are not, as a pod of ours has one
//! gateway that answers for everything. Must not know how a plugin is run.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::Value;

use super::{IpamError, Refusal, Task};
use crate::spec::{Dns, Error, Verb, lookup};

/// What a plugin gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lease {
    /// One of each family at most.
    pub(super) addresses: Vec<IpAddr>,
    /// What it says of name servers.
    pub(super) dns: Dns,
}

/// ADD.
pub(super) fn lease(task: &Task<'_>, plugin: &str) -> Result<Lease, Error> {
    let result = task.world.call(plugin, Verb::Add, task.stdin)?;
    Ok(Lease { addresses: addresses(plugin, &result)?, dns: dns(&result) })
}

/// DEL. A plugin that is not installed any more cannot be asked again with more success: that is logged, and no error.
pub(super) fn release(task: &Task<'_>, plugin: &str) -> Result<(), Error> {
    match task.world.call(plugin, Verb::Del, task.stdin) {
        Ok(_) => Ok(()),
        Err(error @ IpamError::Missing { .. }) => {
            task.world.log(&format!("{error}; its addresses of {} stay taken", task.call.id));
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// CHECK, GC and STATUS.
pub(super) fn forward(task: &Task<'_>, verb: Verb) -> Result<(), Error> {
    let Some(plugin) = &task.network.ipam else { return Ok(()) };
    task.world.call(plugin, verb, task.stdin)?;
    Ok(())
}

/// The first address of each family.
fn addresses(plugin: &str, result: &Value) -> Result<Vec<IpAddr>, Refusal> {
    let mut found: Vec<IpAddr> = Vec::new();
    for text in texts_of(result, "ips", "address") {
        let address = text
            .parse::<IpNetwork>()
            .map_err(|_| Refusal::DelegatedAddress { plugin: plugin.to_owned(), address: text.to_owned() })?;
        if found.iter().all(|other| other.is_ipv4() != address.is_ipv4()) {
            found.push(address.ip());
        }
    }
    if found.is_empty() { Err(Refusal::NoDelegatedAddress(plugin.to_owned())) } else { Ok(found) }
}

fn dns(result: &Value) -> Dns {
    let said = result.as_object().and_then(|it| lookup(it, "dns")).and_then(Value::as_object);
    let get = |key| said.and_then(|dns| lookup(dns, key));
    let texts = |key| {
        let items = get(key).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    Dns {
        nameservers: texts("nameservers"),
        domain: get("domain").and_then(Value::as_str).unwrap_or_default().to_owned(),
        search: texts("search"),
        options: texts("options"),
    }
}

/// The texts under a key of each object in a list of a result.
pub(super) fn texts_of<'a>(result: &'a Value, list: &str, key: &'a str) -> impl Iterator<Item = &'a str> {
    let items = result.as_object().and_then(|it| lookup(it, list)).and_then(Value::as_array);
    let objects = items.into_iter().flatten().filter_map(Value::as_object);
    objects.filter_map(move |item| lookup(item, key)).filter_map(Value::as_str)
}
