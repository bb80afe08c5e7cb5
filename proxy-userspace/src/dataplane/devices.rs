//! The programs' places on network devices: put there, exchanged in place and removed, on both sides of each device.
//!
//! A place is a pinned tcx link, or before kernel 6.6 a filter below the qdisc clsact; both outlive the agent. Must not
//! know which devices are wanted, nor what the programs do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    os::fd::BorrowedFd,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    LinkAction, clsact,
    load::{LoadError, Loaded},
    pins::{Pins, PinsError},
    tcx,
};

/// What is behind a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceRole {
    /// Other machines; for the loopback device, the host itself.
    Node,
    /// A pod.
    Pod,
}

/// How programs get onto devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceHook {
    /// Pinned tcx links (kernel 6.6).
    Tcx,
    /// Filters below the qdisc clsact.
    Clsact,
}

/// A side of a device, seen from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// Packets that leave through the device.
    Egress,
    /// Packets that come from it.
    Ingress,
}

/// Which of our programs on one side of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    /// The guard of a pod, before all others: what it drops nobody else must see. Always a filter, as the plugin attaches
    /// it, for whom a link takes too long.
    Guard,
    /// The packet path.
    Path,
}

/// A side of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The kernel's index of the device.
    pub(super) index: u32,
    pub(super) side: Side,
    pub(super) layer: Layer,
}

/// Why a program is not on a device.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The kernel refused to attach.
    #[error("cannot attach {program} to device {index}{}", attach_hint(.source))]
    Attach {
        /// The program.
        program: &'static str,
        /// The kernel's index of the device.
        index: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The link could not be pinned, exchanged or unpinned.
    #[error("cannot {action} the link of {side} of device {index}")]
    Link {
        /// What was tried.
        action: &'static str,
        /// `ingress` or `egress`.
        side: &'static str,
        /// The kernel's index of the device.
        index: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A filter could not be listed or removed.
    #[error("cannot {action} the filters of clsact")]
    Filter {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The pins.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// The programs.
    #[error(transparent)]
    Load(#[from] LoadError),
}

fn attach_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENODEV) => ": it is gone, or in another network namespace",
        Some(libc::ERANGE | libc::E2BIG) => ": 63 programs are attached there already (see bpftool net)",
        Some(libc::EPERM) => ": run the agent as root, or with CAP_BPF and CAP_NET_ADMIN",
        _ => "",
    }
}

impl DeviceError {
    /// Whether the device does not exist (any more), so that there is nothing to be attached to.
    pub fn is_device_gone(&self) -> bool {
        let (Self::Attach { source, .. } | Self::Link { source, .. } | Self::Filter { source, .. }) = self
        else {
            return false;
        };
        matches!(source.raw_os_error(), Some(libc::ENODEV | libc::ENOLINK))
    }
}

impl Side {
    /// In the order of attaching: replies can be translated before requests are.
    pub(super) const ALL: [Self; 2] = [Self::Egress, Self::Ingress];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

impl fmt::Display for DeviceRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Pod => "pod",
        })
    }
}

impl DeviceHook {
    fn other(self) -> Self {
        match self {
            Self::Tcx => Self::Clsact,
            Self::Clsact => Self::Tcx,
        }
    }
}

impl fmt::Display for DeviceHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// The program of `names::DEVICE_PROGRAMS` for a place.
fn program_name(role: DeviceRole, side: Side) -> &'static str {
    match (role, side) {
        (DeviceRole::Node, Side::Ingress) => "node_ingress",
        (DeviceRole::Node, Side::Egress) => "node_egress",
        (DeviceRole::Pod, Side::Ingress) => "pod_ingress",
        (DeviceRole::Pod, Side::Egress) => "pod_egress",
    }
}

/// The devices that have programs of this agent. Every call works on the network namespace of its thread.
#[derive(Debug)]
pub(super) struct Devices {
    hook: DeviceHook,
    pod_hook: DeviceHook,
    roles: BTreeMap<u32, DeviceRole>,
}

impl Devices {
    /// None yet. Without a wish, tcx where the kernel has it; not for pods that our plugin wires.
    ///
    /// The kernel attaches a tcx link only after a grace period (some 12 ms) in which nobody changes any device, which
    /// is more than all the rest of adding a pod. And what is at tcx comes before the filters of clsact: a redirection
    /// there would bypass a guard here.
    pub(super) fn new(wish: Option<DeviceHook>, own_pods: bool) -> Self {
        let best = || if tcx::is_supported() { DeviceHook::Tcx } else { DeviceHook::Clsact };
        let hook = wish.unwrap_or_else(best);
        let pod_hook = if own_pods { DeviceHook::Clsact } else { hook };
        Self { hook, pod_hook, roles: BTreeMap::new() }
    }

    pub(super) fn hook(&self, role: DeviceRole) -> DeviceHook {
        match role {
            DeviceRole::Node => self.hook,
            DeviceRole::Pod => self.pod_hook,
        }
    }

    pub(super) fn roles(&self) -> &BTreeMap<u32, DeviceRole> {
        &self.roles
    }

    /// Puts the role's programs on both sides; a second call repairs or changes the role. What an earlier agent, or the
    /// plugin, put at the other hook goes: nothing may be translated twice. Returns the more thorough of the two actions.
    pub(super) fn attach(
        &mut self,
        index: u32,
        role: DeviceRole,
        loaded: &Loaded,
        pins: &Pins,
    ) -> Result<LinkAction, DeviceError> {
        let action = self.put_on_both(index, role, loaded, pins)?;
        if self.roles.get(&index) != Some(&role) {
            take_off(index, self.hook(role).other(), pins)?;
        }
        self.roles.insert(index, role);
        Ok(action)
    }

    fn put_on_both(
        &self,
        index: u32,
        role: DeviceRole,
        loaded: &Loaded,
        pins: &Pins,
    ) -> Result<LinkAction, DeviceError> {
        let place = |side| Place { index, side, layer: Layer::Path };
        let egress = self.put(place(Side::Egress), role, loaded, pins)?;
        let ingress = self.put(place(Side::Ingress), role, loaded, pins)?;
        Ok(if egress == LinkAction::Updated { ingress } else { egress })
    }

    fn put(
        &self,
        place: Place,
        role: DeviceRole,
        loaded: &Loaded,
        pins: &Pins,
    ) -> Result<LinkAction, DeviceError> {
        let name = program_name(role, place.side);
        let program: BorrowedFd<'_> = loaded.program(name)?;
        match self.hook(role) {
            DeviceHook::Tcx => tcx::attach(name, program, place, pins),
            DeviceHook::Clsact => clsact::attach(name, program, place),
        }
    }

    /// Takes our programs off every device but `wanted`, also those that an earlier agent put there. Returns the
    /// devices. A filter on a device that `is_newer` stays: the plugin put it there. A link there is left of a device that
    /// is gone.
    pub(super) fn keep_only(
        &mut self,
        wanted: impl Fn(u32) -> bool,
        is_newer: impl Fn(u32) -> bool,
        pins: &Pins,
    ) -> Result<BTreeSet<u32>, DeviceError> {
        let mut lost = BTreeSet::new();
        for hook in [DeviceHook::Tcx, DeviceHook::Clsact] {
            let mut places = match hook {
                DeviceHook::Tcx => tcx::places(pins)?,
                DeviceHook::Clsact => clsact::places()?,
            };
            places.retain(|place| place.layer == Layer::Path);
            places.retain(|place| hook == DeviceHook::Tcx || !is_newer(place.index));
            places.retain(|place| !wanted(place.index) || self.is_elsewhere(place.index, hook));
            // Ingress before egress, so that no request is translated whose reply is not.
            places.sort_by_key(|place| (place.index, std::cmp::Reverse(place.side)));
            places.iter().try_for_each(|place| detach(*place, hook, pins))?;
            lost.extend(places.into_iter().map(|place| place.index).filter(|index| !wanted(*index)));
        }
        self.roles.retain(|index, _| wanted(*index));
        Ok(lost)
    }

    /// Whether the device has its programs at the other hook, so that those here are an earlier agent's.
    fn is_elsewhere(&self, index: u32, hook: DeviceHook) -> bool {
        self.roles.get(&index).is_some_and(|role| self.hook(*role) != hook)
    }

    /// Gives every device the programs of another variant. A device that is gone is somebody else's to notice.
    pub(super) fn exchange(&self, loaded: &Loaded, pins: &Pins) -> Result<(), DeviceError> {
        for (index, role) in &self.roles {
            match self.put_on_both(*index, *role, loaded, pins) {
                Err(error) if !error.is_device_gone() => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }
}

fn detach(place: Place, hook: DeviceHook, pins: &Pins) -> Result<(), DeviceError> {
    match hook {
        DeviceHook::Tcx => tcx::detach(place, pins),
        DeviceHook::Clsact => clsact::detach(place),
    }
}

/// Takes our packet path off both sides of a device, ingress first as in [`Devices::keep_only`].
fn take_off(index: u32, hook: DeviceHook, pins: &Pins) -> Result<(), DeviceError> {
    let place = |side| Place { index, side, layer: Layer::Path };
    Side::ALL.into_iter().rev().try_for_each(|side| detach(place(side), hook, pins))
}

#[cfg(test)]
mod tests {
    use proxy_common::names::DEVICE_PROGRAMS;

    use super::*;

    #[test]
    fn every_program_has_one_place() {
        let roles = [DeviceRole::Node, DeviceRole::Pod];
        let mut named: Vec<_> =
            roles.iter().flat_map(|role| Side::ALL.map(|side| program_name(*role, side))).collect();
        let mut programs = DEVICE_PROGRAMS.to_vec();
        named.sort_unstable();
        programs.sort_unstable();
        assert_eq!(named, programs);
    }

    #[test]
    fn only_a_missing_device_counts_as_gone() {
        let attach = |errno| DeviceError::Attach {
            program: "node_ingress",
            index: 7,
            source: io::Error::from_raw_os_error(errno),
        };
        assert!(attach(libc::ENODEV).is_device_gone());
        assert!(!attach(libc::ERANGE).is_device_gone());
        assert!(attach(libc::ERANGE).to_string().contains("bpftool net"));
    }
}
