//! The packet path's programs for pods, pinned for the plugin, which attaches them before a new pod can send.
//!
//! Must not know what is attached already, nor fail for good: without the pins the agent attaches, later.

use std::{collections::BTreeSet, io, os::fd::AsFd as _, path::Path};

use proxy_common::names::{FLOWS4, POD_PROGRAMS, SERVICES4};
use proxy_kernel::bpf::{self, Access};
use thiserror::Error;
use tracing::{info, warn};

use super::{
    load::{LoadError, Loaded},
    pins::{self, Pins, PinsError},
};

/// One map of each group whose maps come and go together: a program of ours uses both.
const SIGNS: [&str; 2] = [SERVICES4, FLOWS4];

/// Why a program is not pinned, or still is.
#[derive(Debug, Error)]
pub(super) enum PathPinError {
    /// The pin.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// The programs.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// The paths that the plugin is told.
pub(super) fn paths(pins: &Pins) -> cni::facts::PathPins {
    let [ingress, egress] = POD_PROGRAMS.map(|name| pins.program(name));
    cni::facts::PathPins { ingress, egress }
}

/// Pods that come later get the programs of those that are there, whose maps must hold what they should. Where the plugin
/// does not wire pods, what an earlier agent pinned for it goes.
pub(super) fn keep(loaded: &Loaded, pins: &Pins, own_pods: bool) {
    let kept = if own_pods { pin(loaded, pins) } else { unpin(pins) };
    if let Err(error) = kept {
        let error: &dyn std::error::Error = &error;
        warn!(error, "the programs for new pods are not pinned as they should be: those get them later");
    }
}

/// Removes programs whose maps nobody fills any more, before the plugin is told of them: an agent of an earlier version, which
/// knew nothing of these pins, has had other maps meanwhile, and removed the pins of those.
pub(super) fn drop_stale(pins: &Pins) {
    for name in POD_PROGRAMS {
        let pin = pins.program(name);
        let removed =
            is_stale(pins, &pin).and_then(|stale| if stale { pins::remove(&pin) } else { Ok(false) });
        match removed {
            Ok(false) => {}
            Ok(true) => info!(name, "removed a program for new pods: its maps are those of an earlier agent"),
            Err(error) => warn!(%error, name, "cannot tell whether a program for new pods is still of use"),
        }
    }
}

fn is_stale(pins: &Pins, pin: &Path) -> Result<bool, PinsError> {
    let used = match bpf::open_pin(pin, Access::Full).and_then(|program| bpf::program_maps(program.as_fd())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        used => used.map_err(pins::failed("read", pin))?,
    };
    let pinned = SIGNS.map(|sign| ids(pins, sign));
    for pinned in pinned {
        if pinned?.is_disjoint(&used.iter().copied().collect()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The kernel's ids of the pinned maps of this name, of whatever layout and capacity.
fn ids(pins: &Pins, name: &str) -> Result<BTreeSet<u32>, PinsError> {
    let names = pins::list(&pins.maps())?.into_iter();
    let same = names.filter(|pinned| pinned.strip_prefix(name).is_some_and(|rest| rest.starts_with('-')));
    let id = |pinned: String| {
        let map = bpf::open_pin(&pins.maps().join(pinned), Access::Read).ok()?;
        pins::map_id(map.as_fd()).ok()
    };
    Ok(same.filter_map(id).collect())
}

fn pin(loaded: &Loaded, pins: &Pins) -> Result<(), PathPinError> {
    POD_PROGRAMS.into_iter().try_for_each(|name| {
        let pin = pins.program(name);
        Ok(pins::keep_pinned(loaded.program(name)?, &pin).map_err(pins::failed("pin", &pin))?)
    })
}

fn unpin(pins: &Pins) -> Result<(), PathPinError> {
    POD_PROGRAMS.iter().try_for_each(|name| Ok(pins::remove(&pins.program(name)).map(drop)?))
}
