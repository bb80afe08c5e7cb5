//! What the verbs need of the machine: traits, so that tests can put doubles in their place.
//!
//! Must not know any of it.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use thiserror::Error;

use crate::{
    agent::PortsError,
    facts::{NodeFacts, Pins},
    record::{Attachment, AttachmentId, NetnsId},
    spec::{Code, Error, Verb},
    store::Wish,
    wire::{Held, Wired},
};

/// A step failed. What came before it is undone, unless what it did could not be undone itself: then the record must
/// stay, as it is how DEL and the agent find the rest.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Why.
    pub error: Error,
    /// Something of it is still there.
    pub remains: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, remains: false }
    }
}

/// What is remembered: see [`crate::store::Store`].
pub trait Storage {
    /// Takes addresses and ports.
    fn reserve(&self, attachment: Attachment, wish: &Wish) -> Result<Attachment, Error>;
    /// Remembers that it is wired, and which addresses leave the pod by rules of their own.
    fn commit(&self, id: &AttachmentId, by_rule: &[IpAddr]) -> Result<(), Error>;
    /// What is remembered of one.
    fn get(&self, id: &AttachmentId) -> Result<Option<Attachment>, Error>;
    /// All.
    fn list(&self) -> Result<Vec<Attachment>, Error>;
    /// Forgets one that is still what was seen of it.
    fn release_unchanged(&self, seen: &Attachment) -> Result<bool, Error>;
    /// Forgets one.
    fn release(&self, id: &AttachmentId) -> Result<(), Error>;
}

/// Devices and namespaces: see [`crate::wire`].
pub trait Wiring {
    /// Which namespace is at the path.
    fn identify(&self, netns: &Path) -> Result<Option<NetnsId>, Error>;
    /// The cookie of the plugin's own.
    fn own_cookie(&self) -> Result<u64, Error>;
    /// If an address of it leads to another pod's device: all that do, see [`crate::wire::held_by_others`].
    fn held_by_others(&self, attachment: &Attachment) -> Result<Vec<Held>, Error>;
    /// Wires; undoes itself on failure, if it can.
    fn connect(&self, attachment: &Attachment, pins: &Pins) -> Result<Wired, Failed>;
    /// Removes what exists.
    fn disconnect(&self, attachment: &Attachment, pins: Option<&Pins>) -> Result<(), Error>;
    /// What differs, a sentence each.
    fn check(&self, attachment: &Attachment, pins: &Pins) -> Result<Vec<String>, Error>;
    /// Pins that are named and not there.
    fn missing_pins(&self, pins: &Pins) -> Vec<PathBuf>;
}

/// The node, its agent and its clock.
pub trait Node {
    /// Seconds since 1970.
    fn now(&self) -> u64;
    /// What the agent wrote.
    fn facts(&self) -> Result<NodeFacts, Error>;
    /// Whether an agent runs.
    fn agent_runs(&self) -> bool;
    /// Whether an agent gave a sign of life at most so long ago.
    fn agent_lived_within(&self, age: Duration) -> bool;
    /// Has the agent serve the host ports of an attachment.
    fn serve_ports(&self, id: &AttachmentId) -> Result<(), PortsError>;
    /// A line for the runtime's log.
    fn log(&self, line: &str);
}

/// IPAM plugins of others.
pub trait Ipams {
    /// Calls one with the verb, our variables and this input.
    fn call(&self, plugin: &str, verb: Verb, stdin: &[u8]) -> Result<Value, IpamError>;
}

/// Why a delegated call failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IpamError {
    /// It is not installed.
    #[error(
        "IPAM plugin `{plugin}` is in no folder of CNI_PATH ({path}): install it, or correct `ipam.type`"
    )]
    Missing {
        /// Its name.
        plugin: String,
        /// Where it was looked for.
        path: String,
    },
    /// It cannot be run, or said what is not JSON.
    #[error("IPAM plugin `{plugin}`: {reason}")]
    Broken {
        /// Its name.
        plugin: String,
        /// What happened.
        reason: String,
    },
    /// It refused.
    #[error("IPAM plugin `{plugin}`: {}", error.msg)]
    Refused {
        /// Its name.
        plugin: String,
        /// What it said.
        error: Error,
    },
}

impl From<IpamError> for Error {
    fn from(error: IpamError) -> Self {
        let msg = error.to_string();
        match error {
            IpamError::Missing { .. } => Self::new(Code::Config, msg),
            IpamError::Broken { .. } => Self::new(Code::Delegate, msg),
            IpamError::Refused { error, .. } => Self { msg, ..error },
        }
    }
}

/// All of it.
pub trait World: Storage + Wiring + Node + Ipams {}

impl<T: Storage + Wiring + Node + Ipams> World for T {}
