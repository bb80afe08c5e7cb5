//! A census of a node: devices, addresses, routes, neighbours, rules, files and pins.
//!
//! Must not know: who made them.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::netns::Netns;

/// What there is on a node, a line each. Files that a plugin keeps for the whole node are not counted, nor what the kernel
/// makes of a device or address by itself, in its own time.
#[derive(Clone, PartialEq, Eq)]
pub struct Census(BTreeSet<String>);

impl Census {
    /// Counts what is in this namespace, and the files below these folders but for those that begin with one of
    /// `keeps`.
    ///
    /// # Errors
    /// `ip` fails, or a folder cannot be read.
    pub fn take(netns: &Netns, folders: &[&Path], keeps: &[&str]) -> Result<Self> {
        let mut lines = BTreeSet::new();
        for device in ask(netns, &["address", "show"])? {
            let name = text(&device, "ifname");
            lines.insert(format!("device {name}"));
            let addresses = device.get("addr_info").and_then(Value::as_array).into_iter().flatten();
            for address in addresses.filter(|address| text(address, "scope") != "link") {
                let (local, length) = (text(address, "local"), text(address, "prefixlen"));
                lines.insert(format!("address {local}/{length} of {name}"));
            }
        }
        for family in ["-4", "-6"] {
            let routes = ask(netns, &[family, "route", "show", "table", "all"])?;
            for route in routes.iter().filter(|route| text(route, "protocol") != "kernel") {
                let words = ["type", "dst", "gateway", "dev", "table", "protocol"];
                lines.insert(format!("route {family} {}", words.map(|key| text(route, key)).join(" ")));
            }
            for neighbour in ask(netns, &[family, "neighbour", "show", "nud", "permanent"])? {
                let words = ["dst", "dev", "lladdr"];
                lines.insert(format!("neighbour {}", words.map(|key| text(&neighbour, key)).join(" ")));
            }
            for rule in ask(netns, &[family, "rule", "show"])? {
                lines.insert(format!("rule {family} {rule}"));
            }
        }
        for folder in folders {
            files(folder, keeps, &mut lines)?;
        }
        Ok(Self(lines))
    }

    /// With these lines besides.
    #[must_use]
    pub fn with(mut self, lines: Vec<String>) -> Self {
        self.0.extend(lines);
        self
    }

    /// That nothing came or went since `before`.
    ///
    /// # Errors
    /// Something did: what.
    pub fn same_as(&self, before: &Self) -> Result<()> {
        let came: Vec<&String> = self.0.difference(&before.0).collect();
        let went: Vec<&String> = before.0.difference(&self.0).collect();
        ensure!(came.is_empty() && went.is_empty(), "came: {came:?}; went: {went:?}");
        Ok(())
    }
}

impl fmt::Debug for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.0).finish()
    }
}

/// What `ip -json` with these words answers inside the namespace.
///
/// # Errors
/// `ip` fails.
pub fn ask(netns: &Netns, words: &[&str]) -> Result<Vec<Value>> {
    let output =
        netns.run(|| Command::new("ip").arg("-json").args(words).output()).context("cannot run ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // With IPv6 there is a dump that iproute2 calls incomplete when a device goes meanwhile.
    ensure!(output.status.success(), "ip {}: {}", words.join(" "), said.trim());
    if output.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("ip -json {}", words.join(" ")))
}

fn text(object: &Value, key: &str) -> String {
    match object.get(key) {
        None => String::new(),
        Some(Value::String(word)) => word.clone(),
        Some(other) => other.to_string(),
    }
}

fn files(folder: &Path, keeps: &[&str], lines: &mut BTreeSet<String>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let (entry, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if kind.is_dir() {
            files(&entry, keeps, lines)?;
        } else if !keeps.iter().any(|start| name.starts_with(start)) {
            lines.insert(format!("file {}", entry.display()));
        }
    }
    Ok(())
}
