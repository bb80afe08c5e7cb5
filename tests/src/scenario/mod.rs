//! Scenarios: what Services there are, and who reaches what at their addresses.
//!
//! A scenario is two files: `NAME.yaml`, the manifests, and `NAME.txt`, the table. A line of the table says in the words
//! of `sheave render` what a client meets:
//!
//! ```text
//! # comment
//! with --masquerade-all
//! client 1c at 192.0.2.11:30080/TCP+UDP -> 10.244.1.10:8080 masqueraded 10.244.2.10:8080
//! client at [2001:db8:f:1::9]:80/TCP -> drop
//! by-packet 1c at 10.96.0.10:81/UDP -> reject
//! ```
//!
//! Before `at` stand the places that ask. After the arrow come all the backends that answer, and no others do; those after
//! `masqueraded` see a node's address instead of the client's where packets are translated (where sockets are, either: a
//! socket is translated before it has an address, so that its own node has nothing to masquerade). `reject` is a reset or a port unreachable at once, `drop` is silence,
//! or at a socket the errno for it. A line holds on both paths unless it begins with `by-packet` or `by-socket`. `with`
//! gives the agents settings for this scenario. Must not know: how the Services are served.

mod parse;
mod run;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};

pub use self::run::failures;

/// One scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// Services and EndpointSlices as YAML.
    pub manifests: String,
    /// What the agents are started with.
    pub settings: Vec<String>,
    /// Who reaches what.
    pub rows: Vec<Row>,
}

/// One line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number, from 1.
    pub line: usize,
    /// On which path it holds; both if `None`.
    pub only: Option<Translation>,
    /// The places that ask.
    pub from: Vec<String>,
    /// Address and port that they ask.
    pub to: SocketAddr,
    /// Over which protocols.
    pub transports: Vec<Transport>,
    /// What they get.
    pub expected: Expected,
}

/// What translates for clients on a node; for those outside it is always packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translation {
    /// The hooks at sockets.
    Sockets,
    /// The programs on devices.
    Packets,
}

/// Over what a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What clients get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Each of these answers some of them, and nobody else does.
    Backends {
        /// They see the client's address.
        kept: BTreeSet<SocketAddr>,
        /// They see a node's.
        masqueraded: BTreeSet<SocketAddr>,
    },
    /// Refused at once.
    Reject,
    /// Silence.
    Drop,
}

impl Scenario {
    /// Reads every scenario of a folder, by name.
    ///
    /// # Errors
    /// A file is missing or malformed.
    pub fn read_all(folder: &Path) -> Result<Vec<Self>> {
        let mut scenarios = Vec::new();
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "txt") {
                scenarios.push(Self::read(&path)?);
            }
        }
        scenarios.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(scenarios)
    }

    fn read(table: &Path) -> Result<Self> {
        let name = table.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = |path: &Path| fs::read_to_string(path).with_context(|| path.display().to_string());
        let (settings, rows) = parse::table(&text(table)?).with_context(|| table.display().to_string())?;
        Ok(Self { name, manifests: text(&table.with_extension("yaml"))?, settings, rows })
    }
}
