//! Names and default sizes of maps, programs and pins.
//!
//! Must not know where the pins are mounted or who opens them.

/// Map `services4`: hash, [`crate::ServiceKey`] to [`crate::ServiceValue`].
pub const SERVICES4: &str = "services4";
/// Map `services6`.
pub const SERVICES6: &str = "services6";
/// Map `ring`: memory-mappable array of backend ids.
pub const RING: &str = "ring";
/// Map `backends4`: array of [`crate::BackendValue`].
pub const BACKENDS4: &str = "backends4";
/// Map `backends6`.
pub const BACKENDS6: &str = "backends6";
/// Map `affinity`: LRU hash, [`crate::AffinityKey`] to [`crate::AffinityValue`].
pub const AFFINITY: &str = "affinity";
/// Map `source_ranges`: LPM trie of [`crate::SourceRangeKey`].
pub const SOURCE_RANGES: &str = "source_ranges";
/// Map `sock_peers`: socket storage of [`crate::SocketPeer`].
pub const SOCK_PEERS: &str = "sock_peers";
/// Map `udp_flows`: socket storage of [`crate::UdpFlows`].
pub const UDP_FLOWS: &str = "udp_flows";
/// Map `counters`: per-CPU array of `u64`, see [`crate::Counter`].
pub const COUNTERS: &str = "counters";
/// Map `events`: ring buffer of [`crate::SocketEvent`].
pub const EVENTS: &str = "events";

/// Programs, each with the same name as its hook; the pinned link has this name too.
pub const PROGRAMS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// Iterator program that lists the sockets of `sock_peers` to the agent; not attached to a hook, not pinned.
pub const LIST_SOCKETS: &str = "list_sockets";

/// Read-only global of the programs: cookie of the host's network namespace (`u64`).
pub const GLOBAL_HOST_NETNS: &str = "HOST_NETNS_COOKIE";
/// Read-only global of the programs: 1 to send an event for each decision (`u8`).
pub const GLOBAL_MONITOR: &str = "MONITOR";

/// Default capacity of `services4` and of `services6`, in records.
pub const DEFAULT_SERVICES: u32 = 262_144;
/// Default capacity of `ring`, in backend ids (8 bytes each: the kernel rounds array elements up).
pub const DEFAULT_RING: u32 = 1_048_576;
/// Default capacity of `backends4` and of `backends6`.
pub const DEFAULT_BACKENDS: u32 = 262_144;
/// Default capacity of `affinity`, in clients.
pub const DEFAULT_AFFINITY: u32 = 65_536;
/// Default capacity of `source_ranges`, in prefixes.
pub const DEFAULT_SOURCE_RANGES: u32 = 65_536;
/// Size of `events` in bytes.
pub const EVENTS_BYTES: u32 = 262_144;

/// Position in the ring and backend id that the agent's start-up probe uses; never allocated to a Service.
pub const PROBE_SLOT: u32 = 0;
