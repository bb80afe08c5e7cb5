//! The packet path's programs for pods, pinned for the plugin, which attaches them before a new pod can send.
//!
//! Must not know what is attached already, nor fail for good: without the pins the agent attaches, later.

use std::{collections::BTreeSet, io, os::fd::AsFd as _};

use proxy_common::names::{FLOWS4, POD_PROGRAMS, SERVICES4};
use proxy_kernel::bpf::{self, Access};
use thiserror::Error;
use tracing::{info, warn};

use super::{
    load::{LoadError, Loaded},
    pins::{self, Pins, PinsError},
};

/// One map of each group whose maps come and go together: the programs use both, not each of them.
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
    let dropped = are_stale(pins).and_then(|stale| {
        if stale {
            info!("programs for new pods are those of an agent before the last: removed");
            unpin(pins)?;
        }
        Ok(())
    });
    if let Err(error) = dropped {
        let error: &dyn std::error::Error = &error;
        warn!(error, "programs that are pinned for new pods may be those of an agent before the last");
    }
}

fn are_stale(pins: &Pins) -> Result<bool, PathPinError> {
    let mut used = BTreeSet::new();
    for name in POD_PROGRAMS {
        let pin = pins.program(name);
        match bpf::open_pin(&pin, Access::Full).and_then(|program| bpf::program_maps(program.as_fd())) {
            Ok(maps) => used.extend(maps),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(pins::failed("read", &pin)(error).into()),
        }
    }
    let pinned = SIGNS.map(|sign| ids(pins, sign)).into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(!used.is_empty() && pinned.iter().any(|pinned| pinned.is_disjoint(&used)))
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
