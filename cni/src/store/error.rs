//! Why the store could not do it, for people.
//!
//! Must not know which code of CNI an error becomes.

use std::{
    fmt, io,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnetwork::IpNetwork;
use thiserror::Error;

use crate::record::{Attachment, AttachmentId, PodRef, PortMapping, Protocol};

/// Why the store could not do it.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file or folder could not be made, read, written, renamed or removed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process keeps the lock.
    #[error("{} has been locked for {} s; see who holds it: fuser -v {}", path.display(), waited.as_secs(), path.display())]
    Busy {
        /// The folder that is locked.
        path: PathBuf,
        /// How long this one waited.
        waited: Duration,
    },
    /// No range to take an address from.
    #[error("no range of addresses to take one from: the node needs spec.podCIDRs, or the request ipRanges")]
    NoRanges,
    /// Every address is in use.
    #[error("no free address in {}: {used} in use; held for longest by {}", list(ranges), list(oldest))]
    Exhausted {
        /// The ranges of this family.
        ranges: Vec<IpNetwork>,
        /// How many of their addresses are in use.
        used: usize,
        /// The three oldest holders.
        oldest: Vec<Holder>,
    },
    /// A fixed address that pods of this node cannot have.
    #[error(
        "{address} cannot be given: it is not in {}, or is the first or last of a range, or belongs to the node",
        list(ranges)
    )]
    Unusable {
        /// The address.
        address: IpAddr,
        /// The ranges.
        ranges: Vec<IpNetwork>,
    },
    /// Two fixed addresses of one family.
    #[error("{first} and {second} were asked for: a pod has one address of each family")]
    TwoOfAFamily {
        /// The one.
        first: IpAddr,
        /// The other.
        second: IpAddr,
    },
    /// Somebody has the address.
    #[error("address {address} is held by {holder}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: Box<Holder>,
    },
    /// Somebody has the port of the host.
    #[error("host port {} is held by {holder}; use another hostPort or hostIP", port(mapping))]
    PortTaken {
        /// What was asked for.
        mapping: PortMapping,
        /// Who has it.
        holder: Box<Holder>,
    },
    /// The id has an attachment that is not the same one.
    #[error("{holder} is attached already; delete it first (CNI DEL)")]
    Attached {
        /// What is remembered of it.
        holder: Box<Holder>,
    },
    /// The id has an attachment, but its file cannot be read.
    #[error("{id} is attached already, and its file {} is damaged; delete it first (CNI DEL)", path.display())]
    Damaged {
        /// Whose.
        id: AttachmentId,
        /// The file.
        path: PathBuf,
    },
    /// Two ids have the same hash, hence the same device.
    #[error("{id} would have the same host device as {holder}; the runtime must choose another container id")]
    Collision {
        /// Who asks.
        id: AttachmentId,
        /// Who has the name.
        holder: Box<Holder>,
    },
    /// There is nothing to commit.
    #[error("{0} was deleted while it was being attached")]
    Gone(AttachmentId),
}

/// Who holds something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The attachment's id; `None` if its file is damaged.
    pub id: Option<AttachmentId>,
    /// Its pod.
    pub pod: PodRef,
    /// The host's end of it.
    pub host_device: String,
    /// Seconds since its reservation.
    pub age: u64,
}

impl Holder {
    pub(super) fn of(attachment: &Attachment) -> Box<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        Box::new(Self {
            id: Some(attachment.id.clone()),
            pod: attachment.pod.clone(),
            host_device: attachment.host_device.clone(),
            age: now.saturating_sub(attachment.since),
        })
    }

    /// The holder of a damaged file: only the device is known.
    pub(super) fn unknown(host_device: String) -> Box<Self> {
        Box::new(Self { id: None, pod: PodRef::default(), host_device, age: 0 })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(id) = &self.id else { return write!(f, "device {} (damaged record)", self.host_device) };
        if !self.pod.name.is_empty() {
            write!(f, "pod {}/{}, ", self.pod.namespace, self.pod.name)?;
        }
        let (count, unit) = match self.age {
            age if age < 120 => (age, "s"),
            age if age < 7200 => (age / 60, "min"),
            age if age < 172_800 => (age / 3600, "h"),
            age => (age / 86_400, "d"),
        };
        write!(f, "{id} (for {count} {unit})")
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn port(mapping: &PortMapping) -> String {
    let protocol = match mapping.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    };
    let address = mapping.host_ip.map_or_else(String::new, |address| format!(" of {address}"));
    format!("{}/{protocol}{address}", mapping.host_port)
}
