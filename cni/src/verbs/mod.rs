//! The verbs: what a call does, in which order, and how it is undone.
//!
//! Everything outside of the process is behind the traits of `world`, so that every failure of every step can be tested.
//! Must not know netlink, files or sockets.

mod add;
mod check;
mod del;
mod gc;
mod ipam;
mod machine;
mod refusal;
mod status;
mod world;

#[cfg(test)]
mod doubles;
#[cfg(test)]
mod tests;

use std::{
    panic::{self, UnwindSafe},
    path::Path,
};

use serde_json::Value;

use crate::{
    config::{Document, Network},
    spec::{Call, CallError, Code, Error, Verb, Version, version_answer},
};
pub use machine::Machine;
pub use refusal::Refusal;
pub use world::{Failed, IpamError, Ipams, Node, Storage, Wiring, World};

/// What the process leaves behind: at most one JSON document, and whether it succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output.
    pub document: Option<Value>,
    /// The exit status is 0.
    pub success: bool,
}

impl Outcome {
    fn done(document: Option<Value>) -> Self {
        Self { document, success: true }
    }

    /// An error, told in a version of the specification.
    pub fn failed(error: &Error, version: Version) -> Self {
        Self { document: Some(error.document(version)), success: false }
    }
}

/// Answers a call, which may be a wrong one. `stdin` is what came on standard input, `open` gives what works in a run
/// folder.
pub fn answer<W: World>(
    call: Result<Call, CallError>,
    stdin: &[u8],
    open: impl FnOnce(&Path) -> W,
) -> Outcome {
    let document = Document::parse(stdin);
    let version = document.as_ref().ok().and_then(Document::version).unwrap_or(Version::NEWEST);
    let told = |error: Error| Outcome::failed(&error, version);
    let call = match call {
        Ok(call) => call,
        Err(error) => return told(error.into()),
    };
    if call.verb == Verb::Version {
        let request = serde_json::from_slice(stdin).unwrap_or_default();
        return Outcome::done(Some(version_answer(&request)));
    }
    let network = document.and_then(|document| Network::read(document, call.verb));
    let network = match network {
        Ok(network) => network,
        Err(error) => return told(error.into()),
    };
    let world = open(&network.run_dir);
    network.overlooked.iter().for_each(|sentence| world.log(sentence));
    match perform(&Task { call: &call, network: &network, stdin, world: &world }) {
        Ok(document) => Outcome::done(document),
        Err(error) => told(error),
    }
}

/// Runs what gives an outcome; if it panics, that is the outcome. What the panic says is on standard error by then.
pub fn guarded(run: impl FnOnce() -> Option<Outcome> + UnwindSafe) -> Option<Outcome> {
    panic::catch_unwind(run).unwrap_or_else(|_| {
        let error = "sheave-cni broke down; what it says of it is on standard error: please report it";
        Some(Outcome::failed(&Error::new(Code::Internal, error), Version::NEWEST))
    })
}

/// What a verb works with.
struct Task<'a> {
    call: &'a Call,
    network: &'a Network,
    stdin: &'a [u8],
    world: &'a dyn World,
}

fn perform(task: &Task<'_>) -> Result<Option<Value>, Error> {
    match task.call.verb {
        Verb::Add => return add::add(task).map(Some),
        Verb::Check => check::check(task)?,
        Verb::Del => del::del(task)?,
        Verb::Gc => gc::gc(task)?,
        Verb::Status => status::status(task)?,
        Verb::Version => {}
    }
    Ok(None)
}
