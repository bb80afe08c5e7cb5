//! How what a pod sends from an address of ours leaves it: by the default route, or, where the pod has one already, by a
//! table for this interface alone and a rule for the address.
//!
//! The guard of an interface admits its own addresses only, so answers must leave by the interface that they are asked
//! on. Must not know who made the other default route.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage, RouteType},
    rule::{RuleAttribute, RuleMessage},
};

use super::{WireError, message, netlink::Rtnetlink, plan::gateway};

/// Tables of interfaces begin here; then the interface's index. A number that nobody else is known to use.
const TABLES: u32 = 158_000;
/// `RT_TABLE_MAIN` (linux/rtnetlink.h).
const MAIN: u32 = 254;

/// The table of an interface.
fn table(index: u32) -> u32 {
    TABLES.saturating_add(index)
}

/// Makes it. The table, if there had to be one.
pub(super) fn make(pod: &mut Rtnetlink, index: u32, address: IpAddr) -> Result<Option<u32>, WireError> {
    let attempt = || WireError::kernel(format!("make the pod's default route through {}", gateway(address)));
    if defaults(pod, address)?.iter().all(|(_, table)| *table != MAIN) {
        let request = message::default_route(index, gateway(address), MAIN);
        match pod.change(request, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => return Ok(None),
            Err(refusal) if refusal.is(libc::EEXIST) => {}
            Err(refusal) => return Err(attempt()(refusal)),
        }
    }
    let table = table(index);
    let request = message::default_route(index, gateway(address), table);
    pod.change(request, NLM_F_CREATE | NLM_F_REPLACE).map_err(attempt())?;
    match pod.change(RouteNetlinkMessage::NewRule(message::rule(address, table)), NLM_F_CREATE | NLM_F_EXCL) {
        Err(refusal) if !refusal.is(libc::EEXIST) => {
            Err(WireError::kernel(format!("make the pod's rule for what it sends from {address}"))(refusal))
        }
        Ok(()) | Err(_) => Ok(Some(table)),
    }
}

/// Removes the rule; the route goes with its device. One that is gone is fine.
pub(super) fn undo(pod: &mut Rtnetlink, address: IpAddr, table: u32) -> Result<(), WireError> {
    match pod.change(RouteNetlinkMessage::DelRule(message::rule(address, table)), 0) {
        Err(refusal) if !refusal.is(libc::ENOENT) => {
            Err(WireError::kernel(format!("remove the pod's rule for {address}"))(refusal))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What is missing of it, a sentence. A default route that a later plugin of the chain put in place of ours is none.
pub(super) fn missing(
    pod: &mut Rtnetlink,
    index: u32,
    address: IpAddr,
    by_rule: bool,
) -> Result<Option<String>, WireError> {
    let defaults = defaults(pod, address)?;
    if !by_rule {
        let none = || format!("the pod has no default route for the family of {address}");
        return Ok(defaults.is_empty().then(none));
    }
    let table = table(index);
    if !defaults.contains(&(index, table)) {
        return Ok(Some(format!("the pod has no default route for {address} in table {table}")));
    }
    let none = || format!("the pod has no rule that has what it sends from {address} go by table {table}");
    Ok((!has_rule(pod, address, table)?).then(none))
}

/// Device and table of every default route of this address's family.
fn defaults(pod: &mut Rtnetlink, like: IpAddr) -> Result<Vec<(u32, u32)>, WireError> {
    let attempt = WireError::kernel("list the pod's routes".into());
    let all = pod.dump(&message::routes_like(like)).map_err(attempt)?;
    let place =
        |found| if let RouteNetlinkMessage::NewRoute(route) = found { default_of(&route) } else { None };
    Ok(all.into_iter().filter_map(place).collect())
}

fn default_of(route: &RouteMessage) -> Option<(u32, u32)> {
    if route.header.destination_prefix_length != 0 || route.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut device, mut table) = (0, u32::from(route.header.table));
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(it) => device = *it,
            RouteAttribute::Table(it) => table = *it,
            _ => {}
        }
    }
    Some((device, table))
}

fn has_rule(pod: &mut Rtnetlink, address: IpAddr, table: u32) -> Result<bool, WireError> {
    let attempt = WireError::kernel("list the pod's rules".into());
    let all = pod.dump(&RouteNetlinkMessage::GetRule(message::rules_like(address))).map_err(attempt)?;
    let wanted = [RuleAttribute::Source(address), RuleAttribute::Table(table)];
    let is_it = |rule: &RuleMessage| wanted.iter().all(|attribute| rule.attributes.contains(attribute));
    Ok(all.iter().any(|found| matches!(found, RouteNetlinkMessage::NewRule(rule) if is_it(rule))))
}
