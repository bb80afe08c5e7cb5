//! One write to the kernel maps, and what a reading of all of them returns.
//!
//! Must not know why a write is made.

use ipnetwork::IpNetwork;
use proxy_common::{BackendId, BackendValue, Ipv4Be, Ipv6Be, ServiceKey, ServiceValue};

/// One write. Each is one system call, but for [`MapOp::WriteRing`], which is plain memory stores into a range that
/// no record refers to yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Put a backend into a free place, or clear a place (`BackendValue::FREE`) that nothing refers to.
    Backend(BackendOp),
    /// Fill a range of the ring that no record refers to.
    WriteRing {
        /// First position.
        base: u32,
        /// Backend ids.
        ids: Vec<BackendId>,
    },
    /// Admit a client prefix for a service id.
    PutSourceRange {
        /// Service id.
        service_id: u32,
        /// Admitted clients.
        network: IpNetwork,
    },
    /// Forget an admitted prefix; absent is success.
    DeleteSourceRange {
        /// Service id.
        service_id: u32,
        /// The prefix.
        network: IpNetwork,
    },
    /// Publish or remove a service record or an address record: the write that readers see.
    Service(ServiceOp),
}

/// A write to `backends4` or `backends6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendOp {
    /// Write to `backends4`.
    V4(BackendId, BackendValue<Ipv4Be>),
    /// Write to `backends6`.
    V6(BackendId, BackendValue<Ipv6Be>),
}

/// A write to `services4` or `services6`: `None` deletes, and deleting the absent is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceOp {
    /// Write to `services4`.
    V4(ServiceKey<Ipv4Be>, Option<ServiceValue>),
    /// Write to `services6`.
    V6(ServiceKey<Ipv6Be>, Option<ServiceValue>),
}

/// Everything the kernel maps hold, as read at start or for an audit.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RealisedDump {
    /// Records of `services4`, in any order.
    pub services4: Vec<(ServiceKey<Ipv4Be>, ServiceValue)>,
    /// Records of `services6`, in any order.
    pub services6: Vec<(ServiceKey<Ipv6Be>, ServiceValue)>,
    /// The whole ring, position by position.
    pub ring: Vec<BackendId>,
    /// Places of `backends4` in use.
    pub backends4: Vec<(BackendId, BackendValue<Ipv4Be>)>,
    /// Places of `backends6` in use.
    pub backends6: Vec<(BackendId, BackendValue<Ipv6Be>)>,
    /// Admitted prefixes.
    pub source_ranges: Vec<(u32, IpNetwork)>,
}
