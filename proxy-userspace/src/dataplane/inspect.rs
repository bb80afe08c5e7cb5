//! The data plane of an agent that is gone, read from its pins.
//!
//! Must not write, nor need the agent's configuration.

use std::{collections::BTreeMap, io, os::fd::AsFd, path::Path};

use aya_obj::ParseError;
use proxy_common::{Counter, PacketSettings};
use proxy_core::diff::RealisedDump;
use serde::Serialize;
use thiserror::Error;

use super::{
    ApplyError, Capacities, DeviceHook, Flow, MapUsage, ProgramInfo, ReadError, clsact,
    definition::MapDefinition,
    devices::{Layer, Place},
    handles::MapHandles,
    links::HOOKS,
    load::OBJECT,
    observer::Observer,
    pins::{Pins, PinsError},
    sys::{self, Access},
    tcx,
};

/// Why there is nothing to look at.
#[derive(Debug, Error)]
pub enum InspectError {
    /// No pinned maps of this version.
    #[error(
        "no maps of this version are pinned under {0}: no agent has run here since boot, or it was another version"
    )]
    Nothing(String),
    /// The pins cannot be listed.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// A map.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The embedded object.
    #[error("the embedded eBPF object is broken")]
    Object(#[from] ParseError),
}

/// A pinned link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkStatus {
    /// The program's name, which is that of its hook.
    pub program: String,
    /// Whether the link is there and its cgroup too.
    pub attached: bool,
    /// The kernel's id of the cgroup; 0 if it is gone.
    pub cgroup_id: u64,
    /// The kernel's id of the program; 0 if there is no link.
    pub program_id: u32,
}

/// One side of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceStatus {
    /// The kernel's index of the device.
    pub index: u32,
    /// `ingress` or `egress`.
    pub side: &'static str,
    /// Name of the program; `None` if the device is gone.
    pub program: Option<String>,
    /// How it is attached.
    pub hook: DeviceHook,
}

/// What an agent left in the kernel, opened to read.
pub struct Inspection {
    observer: Observer,
    links: Vec<LinkStatus>,
    devices: Vec<DeviceStatus>,
}

/// Opens what is pinned under `pin_dir`. Needs the same rights as the agent.
///
/// # Errors
/// Nothing of this version is pinned there, or it cannot be opened.
pub fn inspect(pin_dir: &Path) -> Result<Inspection, InspectError> {
    let pins = Pins::new(pin_dir);
    let definitions = MapDefinition::all(OBJECT, &Capacities::default())?;
    let links: Vec<LinkStatus> = HOOKS.iter().map(|hook| link_status(&pins, hook.program)).collect();
    let on_devices = tcx::programs(&pins);
    let programs = links.iter().map(|link| link.program_id).chain(on_devices.keys().copied());
    let in_use = programs.flat_map(maps_of).collect();
    let handles = MapHandles::of_pins(&pins, &definitions, &in_use)?;
    if handles.iter().next().is_none() {
        return Err(InspectError::Nothing(pin_dir.display().to_string()));
    }
    let devices = devices(&pins, &on_devices);
    // Nobody knows the time-outs of an agent that is gone.
    let observer = Observer::new(handles, pins, None, PacketSettings::DEFAULT)?;
    Ok(Inspection { observer, links, devices })
}

/// Filters can only be told in the network namespace of the agent.
fn devices(pins: &Pins, programs: &BTreeMap<u32, String>) -> Vec<DeviceStatus> {
    let is_path = |place: &Place| place.layer == Layer::Path;
    let linked = tcx::status(pins).into_iter().filter(|(place, _)| is_path(place));
    let linked = linked.map(|(place, program)| DeviceStatus {
        index: place.index,
        side: place.side.name(),
        program: program.and_then(|id| programs.get(&id).cloned()),
        hook: DeviceHook::Tcx,
    });
    let filtered = clsact::programs().into_iter().filter(|(place, _)| is_path(place));
    let filtered = filtered.map(|(place, program)| DeviceStatus {
        index: place.index,
        side: place.side.name(),
        program: Some(program),
        hook: DeviceHook::Clsact,
    });
    linked.chain(filtered).collect()
}

/// The kernel's ids of the maps that a program uses; none if there is no such program.
fn maps_of(program: u32) -> Vec<u32> {
    sys::program_by_id(program).and_then(|program| sys::program_maps(program.as_fd())).unwrap_or_default()
}

fn link_status(pins: &Pins, program: &'static str) -> LinkStatus {
    let info = sys::open_pin(&pins.link(program), Access::Full).and_then(|link| sys::link_info(link.as_fd()));
    let info: io::Result<sys::LinkInfo> = info;
    let info = info.unwrap_or_default();
    let cgroup_id = info.cgroup().map_or(0, |(id, _)| id);
    LinkStatus {
        program: program.to_owned(),
        attached: cgroup_id != 0,
        cgroup_id,
        program_id: info.program_id,
    }
}

impl Inspection {
    /// Everything the service maps hold.
    ///
    /// # Errors
    /// A map is missing or could not be read.
    pub fn dump(&self) -> Result<RealisedDump, ApplyError> {
        self.observer.dump()
    }

    /// How full the maps are.
    ///
    /// # Errors
    /// A map could not be read.
    pub fn usage(&self) -> Result<Vec<MapUsage>, ReadError> {
        self.observer.usage()
    }

    /// What the programs counted.
    ///
    /// # Errors
    /// The map could not be read.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, ReadError> {
        self.observer.counters()
    }

    /// The programs that are attached.
    ///
    /// # Errors
    /// A program could not be examined.
    pub fn programs(&self) -> Result<Vec<ProgramInfo>, ReadError> {
        self.observer.programs()
    }

    /// Every flow that the packet path knows.
    ///
    /// # Errors
    /// A map could not be read.
    pub fn flows(&self) -> Result<Vec<Flow>, ReadError> {
        self.observer.flows()
    }

    /// One entry for each side of each device that has a program of ours.
    pub fn devices(&self) -> &[DeviceStatus] {
        &self.devices
    }

    /// One entry for each hook.
    pub fn links(&self) -> &[LinkStatus] {
        &self.links
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_place_says_that_no_agent_ran() {
        let directory = tempfile::tempdir().unwrap();
        let error = inspect(directory.path()).err().unwrap().to_string();
        assert!(error.contains("no agent has run here"), "{error}");
    }
}
