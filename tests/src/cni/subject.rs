//! The plugins that are looked at, and what each has to be told to give a pod the same network.
//!
//! Must not know: what is asked of them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::call::Plugin;

/// Where distributions put the reference plugins.
const REFERENCE_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Which plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Sheave,
    /// The reference plugin `ptp` with `host-local`.
    Ptp,
    /// The reference plugin `bridge` with `host-local`.
    Bridge,
}

/// A plugin and where its parts are.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Which.
    pub kind: Kind,
    /// Its program.
    pub plugin: Plugin,
    /// The folder with the programs that it may call.
    pub folder: PathBuf,
}

impl Subject {
    /// Ours, as it was built beside the agent.
    ///
    /// # Errors
    /// It has not been built.
    pub fn sheave() -> Result<Self> {
        let test = std::env::current_exe()?;
        let profile = test.parent().and_then(Path::parent).context("the test is not in a target folder")?;
        let program = profile.join("sheave-cni");
        if !program.exists() {
            bail!("no {}: run `cargo xtask test`, which builds it", program.display());
        }
        Ok(Self::at(Kind::Sheave, &program, Path::new(reference_folder().unwrap_or_default())))
    }

    /// Ours, of any build.
    #[must_use]
    pub fn sheave_at(program: &Path) -> Self {
        Self::at(Kind::Sheave, program, Path::new(reference_folder().unwrap_or_default()))
    }

    /// A reference plugin.
    ///
    /// # Errors
    /// It is not installed.
    pub fn reference(kind: Kind) -> Result<Self> {
        let Some(folder) = reference_folder() else {
            bail!("no ptp in {REFERENCE_FOLDERS:?}: apt-get install containernetworking-plugins");
        };
        let folder = Path::new(folder);
        Ok(Self::at(kind, &folder.join(if kind == Kind::Bridge { "bridge" } else { "ptp" }), folder))
    }

    fn at(kind: Kind, program: &Path, folder: &Path) -> Self {
        Self { kind, plugin: Plugin::new(program), folder: folder.to_owned() }
    }

    /// The network configuration of this version, for a state folder and these pod ranges.
    #[must_use]
    pub fn config(&self, state: &Path, ranges: &[&str], version: &str) -> Value {
        let ranges: Vec<Value> = ranges.iter().map(|range| json!([{ "subnet": range }])).collect();
        let ipam = json!({
            "type": "host-local",
            "dataDir": state,
            "ranges": ranges,
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        });
        match self.kind {
            Kind::Sheave => {
                json!({ "cniVersion": version, "name": "pods", "type": "sheave-cni", "runDir": state })
            }
            Kind::Ptp => json!({ "cniVersion": version, "name": "pods", "type": "ptp", "ipam": ipam }),
            Kind::Bridge => json!({
                "cniVersion": version, "name": "pods", "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam,
            }),
        }
    }

    /// How the names of the files begin that stay, whatever pods there are.
    #[must_use]
    pub fn keeps(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Sheave => {
                &["node.json", "agent.lock", "control.sock", "addresses", "exhausted", ".fresh", "boot"]
            }
            Kind::Ptp | Kind::Bridge => &["lock", "last_reserved_ip."],
        }
    }
}

fn reference_folder() -> Option<&'static str> {
    REFERENCE_FOLDERS.into_iter().find(|folder| Path::new(folder).join("ptp").exists())
}
