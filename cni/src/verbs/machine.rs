//! The machine behind the traits of `world`: the store, the wiring, the agent and IPAM plugins as they really are.
//!
//! Must not know in which order they are used.

use std::{
    cell::OnceCell,
    env,
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use super::{Failed, IpamError, Ipams, Node, Storage, Wiring};
use crate::{
    agent::{self, PortsError},
    facts::{FactsError, NodeFacts, Pins},
    record::{Attachment, AttachmentId, NetnsId},
    spec::{Code, Error, Verb, lookup},
    store::{Store, StoreError, Wish},
    wire::{self, Held, WireError, Wired},
};

/// What works in a run folder.
#[derive(Debug)]
pub struct Machine {
    run_dir: PathBuf,
    /// `CNI_PATH`.
    plugin_path: String,
    store: OnceCell<Store>,
}

impl Machine {
    /// Does nothing yet: a verb that needs no store makes none.
    pub fn new(run_dir: &Path) -> Self {
        let plugin_path = env::var("CNI_PATH").unwrap_or_default();
        Self { run_dir: run_dir.to_owned(), plugin_path, store: OnceCell::new() }
    }

    fn store(&self) -> Result<&Store, Error> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let opened = Store::open(&self.run_dir).map_err(|error| of_store(&error))?;
        Ok(self.store.get_or_init(|| opened))
    }

    fn find(&self, plugin: &str) -> Option<PathBuf> {
        let folders = self.plugin_path.split(':').filter(|folder| !folder.is_empty());
        folders.map(|folder| Path::new(folder).join(plugin)).find(|path| path.is_file())
    }
}

fn of_store(error: &StoreError) -> Error {
    let code = match error {
        StoreError::File { .. } => Code::Io,
        StoreError::Busy { .. } | StoreError::Gone(_) | StoreError::NoRanges => Code::TryLater,
        StoreError::Exhausted { .. } => Code::Exhausted,
        StoreError::Attached { .. } | StoreError::Damaged { .. } | StoreError::Collision { .. } => {
            Code::Attached
        }
        StoreError::Unusable { .. }
        | StoreError::TwoOfAFamily { .. }
        | StoreError::Taken { .. }
        | StoreError::PortTaken { .. } => Code::Config,
    };
    Error::new(code, error.to_string())
}

fn of_wiring(error: &WireError) -> Error {
    let code = match error {
        WireError::Gone(_)
        | WireError::OtherNamespace(_)
        | WireError::OwnNamespace(_)
        | WireError::Enter { .. } => Code::Netns,
        WireError::Exists { .. } => Code::Attached,
        WireError::Mtu { .. } => Code::Config,
        WireError::Schema { .. } | WireError::Pin { .. } => Code::TryLater,
        WireError::Socket(_)
        | WireError::Kernel { .. }
        | WireError::Setting { .. }
        | WireError::NotUndone { .. } => Code::Wiring,
    };
    Error::new(code, error.to_string())
}

fn of_facts(error: &FactsError) -> Error {
    let code = match error {
        FactsError::File { .. } => Code::Io,
        FactsError::Missing(_) | FactsError::Content { .. } => Code::TryLater,
    };
    Error::new(code, error.to_string())
}

impl Storage for Machine {
    fn reserve(&self, attachment: Attachment, wish: &Wish) -> Result<Attachment, Error> {
        self.store()?.reserve(attachment, wish).map_err(|error| of_store(&error))
    }

    fn commit(&self, id: &AttachmentId, by_rule: &[IpAddr]) -> Result<(), Error> {
        self.store()?.commit_with(id, by_rule).map_err(|error| of_store(&error))
    }

    fn get(&self, id: &AttachmentId) -> Result<Option<Attachment>, Error> {
        self.store()?.get(id).map_err(|error| of_store(&error))
    }

    fn list(&self) -> Result<Vec<Attachment>, Error> {
        self.store()?.list().map_err(|error| of_store(&error))
    }

    fn release_unchanged(&self, seen: &Attachment) -> Result<bool, Error> {
        self.store()?.release_unchanged(seen).map_err(|error| of_store(&error))
    }

    fn release(&self, id: &AttachmentId) -> Result<(), Error> {
        self.store()?.release(id).map(drop).map_err(|error| of_store(&error))
    }
}

impl Wiring for Machine {
    fn identify(&self, netns: &Path) -> Result<Option<NetnsId>, Error> {
        wire::identify(netns).map_err(|error| of_wiring(&error))
    }

    fn own_cookie(&self) -> Result<u64, Error> {
        let failed = |error: io::Error| {
            Error::new(Code::Io, format!("cannot read the cookie of the plugin's network namespace: {error}"))
        };
        proxy_kernel::netns_cookie().map_err(failed)
    }

    fn held_by_others(&self, attachment: &Attachment) -> Result<Vec<Held>, Error> {
        wire::held_by_others(attachment).map_err(|error| of_wiring(&error))
    }

    fn connect(&self, attachment: &Attachment, pins: &Pins) -> Result<Wired, Failed> {
        wire::connect(attachment, pins).map_err(|error| Failed {
            error: of_wiring(&error),
            remains: matches!(error, WireError::NotUndone { .. }),
        })
    }

    fn disconnect(&self, attachment: &Attachment, pins: Option<&Pins>) -> Result<(), Error> {
        wire::disconnect(attachment, pins).map_err(|error| of_wiring(&error))
    }

    fn check(&self, attachment: &Attachment, pins: &Pins) -> Result<Vec<String>, Error> {
        wire::check(attachment, pins).map_err(|error| of_wiring(&error))
    }

    fn missing_pins(&self, pins: &Pins) -> Vec<PathBuf> {
        let all = [&pins.endpoints, &pins.packet_only, &pins.guard_ingress, &pins.guard_egress];
        all.into_iter().filter(|path| !path.exists()).cloned().collect()
    }
}

impl Node for Machine {
    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn facts(&self) -> Result<NodeFacts, Error> {
        NodeFacts::read(&self.run_dir).map_err(|error| of_facts(&error))
    }

    fn agent_runs(&self) -> bool {
        agent::is_running(&self.run_dir)
    }

    fn agent_lived_within(&self, age: Duration) -> bool {
        agent::lived_within(&self.run_dir, age)
    }

    fn serve_ports(&self, id: &AttachmentId) -> Result<(), PortsError> {
        agent::serve_ports(&self.run_dir, id)
    }

    fn log(&self, line: &str) {
        // Nobody may be listening, which is no reason to fail.
        drop(writeln!(io::stderr(), "sheave-cni: {line}"));
    }
}

impl Ipams for Machine {
    fn call(&self, plugin: &str, verb: Verb, stdin: &[u8]) -> Result<Value, IpamError> {
        let missing = || IpamError::Missing { plugin: plugin.to_owned(), path: self.plugin_path.clone() };
        let path = self.find(plugin).ok_or_else(missing)?;
        let broken = |reason: String| IpamError::Broken { plugin: plugin.to_owned(), reason };
        let output = run(&path, verb, stdin).map_err(|error| broken(error.to_string()))?;
        let answer: Value = match output.stdout.trim_ascii() {
            [] => Value::Null,
            text => serde_json::from_slice(text)
                .map_err(|error| broken(format!("its answer is not JSON: {error}")))?,
        };
        if output.status.success() {
            return Ok(answer);
        }
        let refusal = refusal(&answer).ok_or_else(|| broken(format!("it ended with {}", output.status)))?;
        Err(IpamError::Refused { plugin: plugin.to_owned(), error: refusal })
    }
}

/// Runs a plugin with our variables but another verb. What it says on standard error goes where ours goes.
fn run(path: &Path, verb: Verb, stdin: &[u8]) -> io::Result<Output> {
    let mut command = Command::new(path);
    command
        .env("CNI_COMMAND", verb.text())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut child = command.spawn()?;
    let pipe = child.stdin.take();
    thread::scope(|scope| {
        scope.spawn(move || {
            // A plugin that answers without reading has no use for the rest.
            pipe.map(|mut pipe| pipe.write_all(stdin))
        });
        child.wait_with_output()
    })
}

fn refusal(answer: &Value) -> Option<Error> {
    let object = answer.as_object()?;
    let text = |key| lookup(object, key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let code = lookup(object, "code")?.as_u64()?.try_into().ok()?;
    Some(Error { code, msg: text("msg"), details: text("details") })
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
