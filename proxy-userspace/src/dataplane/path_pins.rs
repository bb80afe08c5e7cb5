//! The packet path's programs for pods, pinned for the plugin, which attaches them before a new pod can send.
//!
//! Must not know what is attached already, nor fail for good: without the pins the agent attaches, later.

use proxy_common::names::POD_PROGRAMS;
use thiserror::Error;
use tracing::warn;

use super::{
    load::{LoadError, Loaded},
    pins::{self, Pins, PinsError},
};

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

fn pin(loaded: &Loaded, pins: &Pins) -> Result<(), PathPinError> {
    POD_PROGRAMS.into_iter().try_for_each(|name| {
        let pin = pins.program(name);
        Ok(pins::keep_pinned(loaded.program(name)?, &pin).map_err(pins::failed("pin", &pin))?)
    })
}

fn unpin(pins: &Pins) -> Result<(), PathPinError> {
    POD_PROGRAMS.iter().try_for_each(|name| Ok(pins::remove(&pins.program(name)).map(drop)?))
}
