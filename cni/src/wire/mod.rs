//! A pod's network: the pair of devices, its addresses, routes and neighbours, the guard on it.
//!
//! Must not know where addresses come from.

use std::path::Path;

use thiserror::Error;

use crate::{
    facts::Pins,
    record::{Attachment, NetnsId},
};

/// Why the wiring failed; it was undone.
#[derive(Debug, Error)]
pub enum WireError {
    /// To be replaced.
    #[error("the wiring is not built yet")]
    Nothing,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wired {
    /// The kernel's index of the host's end.
    pub host_index: u32,
}

/// Which namespace is at this path. `None`: nothing, or no network namespace.
///
/// # Errors
/// It exists and cannot be entered.
pub fn identify(_netns: &Path) -> Result<Option<NetnsId>, WireError> {
    Err(WireError::Nothing)
}

/// Wires. On failure everything is undone in reverse.
///
/// # Errors
/// See [`WireError`]; among them that the interface exists already.
pub fn connect(_attachment: &Attachment, _pins: &Pins) -> Result<Wired, WireError> {
    Err(WireError::Nothing)
}

/// Removes whatever exists of it, from the host's side; the pod's end goes with the host's.
///
/// # Errors
/// Something exists and cannot be removed.
pub fn disconnect(_attachment: &Attachment, _pins: Option<&Pins>) -> Result<(), WireError> {
    Err(WireError::Nothing)
}

/// What differs from how it was wired, a sentence each; a MAC address, sysctl or route that a later plugin of the chain
/// changed is none of them.
///
/// # Errors
/// It cannot be looked at.
pub fn check(_attachment: &Attachment, _pins: &Pins) -> Result<Vec<String>, WireError> {
    Err(WireError::Nothing)
}
