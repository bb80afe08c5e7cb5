//! What the agent tells the plugin of the node, in a file that outlives the agent but not a reboot.
//!
//! Must not know how the agent finds it out.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where everything below lies unless the network configuration has `runDir`.
pub const DEFAULT_RUN_DIR: &str = "/run/sheave";
/// The plugin's part of the run folder.
pub const CNI_DIR: &str = "cni";
/// The facts, in [`CNI_DIR`].
pub const FILE: &str = "node.json";
/// The form of the file.
pub const VERSION: u32 = 1;

/// The facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// [`VERSION`].
    pub version: u32,
    /// The node's name.
    pub node: String,
    /// `spec.podCIDRs`: pods get one address of each family from these; several of a family are used in this order.
    pub pod_cidrs: Vec<IpNetwork>,
    /// MTU for pods, bytes: what the way to other nodes leaves.
    pub mtu: u32,
    /// What is pinned for the plugin.
    pub pins: Pins,
    /// The node's own addresses, never given to a pod.
    #[serde(default)]
    pub node_addresses: Vec<IpAddr>,
    /// Why no pod can be served yet; `None` once everything is in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
}

/// Paths of what the agent pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pins {
    /// [`proxy_common::ENDPOINT_SCHEMA_HASH`] of the agent: with another one the plugin must not write `endpoints`.
    pub schema: u32,
    /// Map `endpoints`.
    pub endpoints: PathBuf,
    /// Map `packet_only`.
    pub packet_only: PathBuf,
    /// Program for what comes out of a pod.
    pub guard_ingress: PathBuf,
    /// Program for what goes into a pod; only pods with a limit in that direction need it.
    pub guard_egress: PathBuf,
    /// Programs of the packet path; `None` where the agent does not want them on pods, or knows nothing of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathPins>,
}

/// Paths of the packet path's programs for a pod's device. They are pinned once the agent's maps hold what they should: until
/// then the plugin attaches none, and the agent does it later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathPins {
    /// Program for what comes out of a pod.
    pub ingress: PathBuf,
    /// Program for what goes into a pod.
    pub egress: PathBuf,
}

/// Why there are no facts.
#[derive(Debug, Error)]
pub enum FactsError {
    /// No agent has run since the node was started.
    #[error("{} does not exist: start the agent (`sheave agent --pod-network`), or set `runDir` to its --run-dir", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: {reason}; restart the agent", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl NodeFacts {
    /// Path of the file.
    pub fn path(run_dir: &Path) -> PathBuf {
        run_dir.join(CNI_DIR).join(FILE)
    }

    /// Reads what the agent wrote.
    ///
    /// # Errors
    /// See [`FactsError`].
    pub fn read(run_dir: &Path) -> Result<Self, FactsError> {
        let path = Self::path(run_dir);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(FactsError::Missing(path)),
            Err(source) => return Err(FactsError::File { path, source }),
        };
        let facts: Self = serde_json::from_slice(&text)
            .map_err(|error| FactsError::Content { path: path.clone(), reason: error.to_string() })?;
        if facts.version != VERSION {
            let reason = format!("version {} instead of {VERSION}", facts.version);
            return Err(FactsError::Content { path, reason });
        }
        Ok(facts)
    }

    /// Replaces the file in one step.
    ///
    /// # Errors
    /// The folder cannot be made or written.
    pub fn write(&self, run_dir: &Path) -> io::Result<()> {
        let path = Self::path(run_dir);
        let folder = path.parent().unwrap_or(run_dir);
        fs::create_dir_all(folder)?;
        let fresh = folder.join(format!(".{FILE}.{}", std::process::id()));
        fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&fresh, &path)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn facts() -> NodeFacts {
        let pin = |name| PathBuf::from("/sys/fs/bpf/sheave").join(name);
        NodeFacts {
            version: VERSION,
            node: "a".into(),
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd00:10:244:1::/64".parse().unwrap()],
            mtu: 1450,
            pins: Pins {
                schema: 7,
                endpoints: pin("endpoints"),
                packet_only: pin("packet_only"),
                guard_ingress: pin("guard_ingress"),
                guard_egress: pin("guard_egress"),
                path: Some(PathPins { ingress: pin("pod_ingress"), egress: pin("pod_egress") }),
            },
            node_addresses: vec!["192.0.2.1".parse().unwrap()],
            obstacle: Some("no podCIDR yet".into()),
        }
    }

    #[test]
    fn what_the_agent_wrote_is_read_and_the_next_text_replaces_it() {
        let folder = TempDir::new().unwrap();
        for facts in [facts(), NodeFacts { obstacle: None, node_addresses: Vec::new(), ..facts() }] {
            facts.write(folder.path()).unwrap();
            assert_eq!(NodeFacts::read(folder.path()).unwrap(), facts);
        }
        let files = fs::read_dir(folder.path().join(CNI_DIR)).unwrap();
        assert_eq!(files.map(|file| file.unwrap().file_name()).collect::<Vec<_>>(), [FILE]);
    }

    #[test]
    fn without_a_file_the_agent_is_to_be_started() {
        let folder = TempDir::new().unwrap();
        let error = NodeFacts::read(folder.path()).unwrap_err();
        assert!(matches!(&error, FactsError::Missing(path) if *path == NodeFacts::path(folder.path())));
        assert!(error.to_string().contains("start the agent"));
    }

    #[test]
    fn a_file_of_another_form_is_refused() {
        let folder = TempDir::new().unwrap();
        facts().write(folder.path()).unwrap();
        let path = NodeFacts::path(folder.path());
        let whole = fs::read_to_string(&path).unwrap();
        let spoilt = [
            whole.replace("\"version\": 1", "\"version\": 2"),
            whole.replace("10.244.1.0/24", "10.244.1.0/240"),
            whole.replace("\"mtu\"", "\"mtU\""),
            whole[..whole.len() / 2].to_owned(),
            String::new(),
        ];
        for text in spoilt {
            assert_ne!(text, whole);
            fs::write(&path, text).unwrap();
            assert!(matches!(NodeFacts::read(folder.path()), Err(FactsError::Content { .. })));
        }
    }

    #[test]
    fn an_agent_that_pins_no_packet_path_is_understood() {
        let folder = TempDir::new().unwrap();
        let earlier = NodeFacts { pins: Pins { path: None, ..facts().pins }, ..facts() };
        earlier.write(folder.path()).unwrap();
        assert!(!fs::read_to_string(NodeFacts::path(folder.path())).unwrap().contains("path"));
        assert_eq!(NodeFacts::read(folder.path()).unwrap(), earlier);
    }

    #[test]
    fn fields_of_a_later_agent_do_no_harm() {
        let folder = TempDir::new().unwrap();
        facts().write(folder.path()).unwrap();
        let path = NodeFacts::path(folder.path());
        let text = fs::read_to_string(&path).unwrap().replacen('{', "{\"later\": [1],", 1);
        fs::write(&path, text).unwrap();
        assert_eq!(NodeFacts::read(folder.path()).unwrap(), facts());
    }
}
