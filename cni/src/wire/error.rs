//! What can go wrong with the wiring, in words for whoever runs the node.
//!
//! Must not know what a failure means to a runtime.

use std::{io, path::PathBuf};

use thiserror::Error;

pub use super::netlink::Refusal;

/// Why the wiring failed; it was undone.
#[derive(Debug, Error)]
pub enum WireError {
    /// There is nothing at the path.
    #[error("{} is no network namespace: it has been removed, or the runtime gave a wrong CNI_NETNS", .0.display())]
    Gone(PathBuf),
    /// The path was used again.
    #[error("{} is not the network namespace any more that it was when the pod was added", .0.display())]
    OtherNamespace(PathBuf),
    /// A pod in the host's namespace needs no plugin.
    #[error("{} is the network namespace of this plugin itself: CNI_NETNS must be the pod's", .0.display())]
    OwnNamespace(PathBuf),
    /// It exists and cannot be entered.
    #[error("cannot enter the network namespace {}: {source}; the plugin needs CAP_SYS_ADMIN", path.display())]
    Enter {
        /// Path of the namespace.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The interface is there already.
    #[error("interface {ifname} exists already in the pod's network namespace: it must be removed first")]
    Exists {
        /// Its name.
        ifname: String,
    },
    /// No such MTU.
    #[error("MTU {mtu} is not between {least} and {largest}: set `mtu` in the network configuration")]
    Mtu {
        /// What was wanted.
        mtu: u32,
        /// The smallest for the pod's addresses.
        least: u32,
        /// The largest.
        largest: u32,
    },
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(io::Error),
    /// The kernel refused.
    #[error("cannot {attempt}: {source}")]
    Kernel {
        /// What was attempted, on what.
        attempt: String,
        /// What the kernel said.
        source: Refusal,
    },
    /// A kernel setting.
    #[error("cannot set net.{} to {value}: {source}", key.replace('/', "."))]
    Setting {
        /// Path below `/proc/sys/net`.
        key: String,
        /// The value.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// The agent is of another version.
    #[error(
        "the agent's map of endpoints has layout {theirs:#x}, this plugin knows {ours:#x}: install the plugin again with `sheave install-cni`"
    )]
    Schema {
        /// Of the agent.
        theirs: u32,
        /// Of the plugin.
        ours: u32,
    },
    /// Something pinned is missing or cannot be used.
    #[error("cannot {attempt} {}: {source}; start the agent, which pins it", path.display())]
    Pin {
        /// What was attempted.
        attempt: &'static str,
        /// What is pinned, or is to be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It failed and could not be undone either.
    #[error("{cause}; it could not be undone: {}", left.join("; "))]
    NotUndone {
        /// Why it failed.
        cause: Box<WireError>,
        /// Why what could not be undone.
        left: Vec<String>,
    },
}

impl WireError {
    pub(super) fn kernel(attempt: String) -> impl FnOnce(Refusal) -> Self {
        |source| Self::Kernel { attempt, source }
    }
}
