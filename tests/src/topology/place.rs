//! A place in the topology from which programs send and where they serve: a network namespace and, on a node, a cgroup.
//!
//! A process is in one cgroup, and the places of two nodes are in two: so the groups are threaded ones, and each thread
//! joins that of the place it works for. Must not know: how places are connected.

use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};

use super::addresses::Pair;
use crate::netns::Netns;

/// A client, a node's own namespace, or a pod.
#[derive(Debug)]
pub struct Place {
    /// Its name in scenarios.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its addresses.
    pub addresses: Pair,
    /// The node that it is on or is, counted from 1; 0 for those outside.
    pub node: u8,
    /// The `cgroup.threads` file of its node's group.
    pub(super) group: Option<PathBuf>,
    pub(super) ports: AtomicU16,
}

/// Ports for clients: none that a kernel chooses, that a node gives to others or at which Services are.
const CLIENT_PORTS: Range<u16> = 33_000..50_000;

impl Place {
    /// Runs `work` on a thread of its own at this place and waits for it. A panic goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let group = self.group.clone();
        self.netns.run(move || {
            join(group.as_deref());
            work()
        })
    }

    /// Starts `work` on a thread of its own at this place.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let group = self.group.clone();
        self.netns.spawn(move || {
            join(group.as_deref());
            work()
        })
    }

    /// A port for a client here that none has had for a long time: a node remembers its flow for a while, and would take
    /// what comes back to the same port from the same backend by another way for an answer in it.
    pub fn next_port(&self) -> u16 {
        let number = self.ports.fetch_add(1, Ordering::Relaxed);
        CLIENT_PORTS.start + number % (CLIENT_PORTS.end - CLIENT_PORTS.start)
    }

    /// Whether it is a node's own namespace, which may send from any address of the node.
    #[must_use]
    pub fn is_node(&self) -> bool {
        self.name.starts_with("node")
    }

    /// Whether sockets made here meet the programs of an agent.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.group.is_some()
    }

    /// Its address in the family of `other`.
    #[must_use]
    pub fn like(&self, other: IpAddr) -> IpAddr {
        self.addresses.like(other)
    }
}

/// Moves the calling thread into the group.
#[expect(clippy::expect_used, reason = "a test that cannot place its own thread has nothing to go on with")]
fn join(group: Option<&std::path::Path>) {
    if let Some(threads) = group {
        std::fs::write(threads, "0")
            .with_context(|| threads.display().to_string())
            .expect("cannot join a cgroup of the test");
    }
}
