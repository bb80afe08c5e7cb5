//! A pod's network: the pair of devices, its addresses, routes and neighbours, the guard and the packet path on it.
//!
//! `plan` says which steps in which order, `run` makes and undoes them, `kernel` is what they do. Must not know
//! where addresses come from.

mod check;
mod error;
mod filter;
#[cfg(test)]
mod first_packet_tests;
mod guard;
mod held;
mod kernel;
#[cfg(test)]
pub(crate) mod lab;
mod message;
mod netlink;
mod netns;
mod path;
#[cfg(test)]
mod path_tests;
mod plan;
mod removal;
#[cfg(test)]
mod repair_tests;
mod run;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod second_tests;
mod setting;
#[cfg(test)]
mod tests;
mod way_out;

use std::{net::IpAddr, path::Path};

pub use self::{
    error::{Refusal, WireError},
    held::Held,
    plan::{GATEWAY4, GATEWAY6, endpoint, gateway},
};
use self::{kernel::Kernel, netns::Namespace};
use crate::{
    facts::Pins,
    record::{Attachment, NetnsId},
};

/// Marks every route of ours (`rtm_protocol`, linux/rtnetlink.h): a number that no program is known to use.
pub const SHEAVE_PROTOCOL: u8 = 158;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wired {
    /// The kernel's index of the host's end.
    pub host_index: u32,
    /// Addresses that the pod sends from by a rule and a table of their own: it had a default route of their family
    /// before, which stays.
    pub by_rule: Vec<IpAddr>,
}

/// Which namespace is at this path. `None`: nothing, or no network namespace.
///
/// # Errors
/// It exists and cannot be entered.
pub fn identify(netns: &Path) -> Result<Option<NetnsId>, WireError> {
    Ok(Namespace::open(netns)?.map(|namespace| namespace.id))
}

/// Wires. On failure everything is undone in reverse. What an earlier attempt for the same attachment left behind, such
/// as one that was killed, is removed first.
///
/// # Errors
/// See [`WireError`]; among them that the interface exists already.
pub fn connect(attachment: &Attachment, pins: &Pins) -> Result<Wired, WireError> {
    let namespace = open(attachment)?;
    match wire(attachment, &namespace, pins) {
        Err(WireError::Exists { .. }) if removal::remains(attachment)? => {
            removal::disconnect(attachment, Some(pins))?;
            wire(attachment, &namespace, pins)
        }
        other => other,
    }
}

fn open(attachment: &Attachment) -> Result<Namespace, WireError> {
    let path = &attachment.netns_path;
    let namespace = Namespace::open(path)?.ok_or_else(|| WireError::Gone(path.clone()))?;
    if namespace.id != attachment.netns {
        return Err(WireError::OtherNamespace(path.clone()));
    }
    if proxy_kernel::netns_cookie().is_ok_and(|own| own == namespace.id.cookie) {
        return Err(WireError::OwnNamespace(path.clone()));
    }
    Ok(namespace)
}

fn wire(attachment: &Attachment, namespace: &Namespace, pins: &Pins) -> Result<Wired, WireError> {
    let steps = plan::plan(attachment)?;
    let mut kernel = Kernel::open(namespace, pins)?;
    run::run(&steps, &mut kernel)?;
    Ok(Wired { host_index: kernel.host_index, by_rule: kernel.by_rule })
}

/// Makes again what somebody else took away from the host's end: that it is up, the routes to the pod, what is known of
/// its MAC address. Returns what was missing, a sentence each. A device that is gone is not made anew.
///
/// # Errors
/// It cannot be looked at, or not be made.
pub fn repair(attachment: &Attachment, pins: &Pins) -> Result<Vec<String>, WireError> {
    let (missing, host_index) = check::missing_on_host(attachment)?;
    if !missing.is_empty() {
        let namespace = open(attachment)?;
        let mut kernel = Kernel::open(&namespace, pins)?;
        kernel.host_index = host_index;
        run::mend(&plan::host_side(attachment), &mut kernel)?;
    }
    Ok(missing)
}

/// Whether the kernel has an address of the attachment lead to another pod: then all addresses of that family that do.
/// So they are where what was remembered of a pod is lost, although it lives.
///
/// # Errors
/// The kernel cannot be asked.
pub fn held_by_others(attachment: &Attachment) -> Result<Vec<Held>, WireError> {
    held::by_others(attachment)
}

/// Removes whatever exists of it, from the host's side; the pod's end goes with the host's.
///
/// # Errors
/// Something exists and cannot be removed.
pub fn disconnect(attachment: &Attachment, pins: Option<&Pins>) -> Result<(), WireError> {
    removal::disconnect(attachment, pins)
}

/// What differs from how it was wired, a sentence each; a MAC address, sysctl or route that a later plugin of the chain
/// changed is none of them.
///
/// # Errors
/// It cannot be looked at.
pub fn check(attachment: &Attachment, pins: &Pins) -> Result<Vec<String>, WireError> {
    check::check(attachment, pins)
}
