//! Every map and global of the programs. Sizes are the defaults; the loader overrides them from the configuration.
//!
//! Must not hold logic.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use proxy_common::{
    AffinityKey, AffinityValue, BackendValue, Ipv4Be, Ipv6Be, ServiceKey, ServiceValue, SocketPeer,
    SourceRangeKey, UdpFlows,
    counter::COUNTER_SLOTS,
    names::{
        DEFAULT_AFFINITY, DEFAULT_BACKENDS, DEFAULT_RING, DEFAULT_SERVICES, DEFAULT_SOURCE_RANGES,
        EVENTS_BYTES,
    },
};

/// Frontend to service record, IPv4. Written by the agent, read by connect and sendmsg. When full the agent refuses
/// the Service whole. Pinned. Not preallocated: the table costs what it holds.
#[map(name = "services4")]
pub static SERVICES4: HashMap<ServiceKey<Ipv4Be>, ServiceValue> =
    HashMap::with_max_entries(DEFAULT_SERVICES, BPF_F_NO_PREALLOC);

/// Frontend to service record, IPv6. As [`SERVICES4`].
#[map(name = "services6")]
pub static SERVICES6: HashMap<ServiceKey<Ipv6Be>, ServiceValue> =
    HashMap::with_max_entries(DEFAULT_SERVICES, BPF_F_NO_PREALLOC);

/// Position to backend id; each service record names a range. Written by the agent through a memory mapping, read by
/// connect and sendmsg. When full the agent refuses the Service whole. Pinned.
#[map(name = "ring")]
pub static RING: Array<u32> = Array::with_max_entries(DEFAULT_RING, BPF_F_MMAPABLE);

/// Backend id to address, IPv4. Written by the agent, read by connect and sendmsg. When full the agent refuses the
/// Service whole. Pinned.
#[map(name = "backends4")]
pub static BACKENDS4: Array<BackendValue<Ipv4Be>> = Array::with_max_entries(DEFAULT_BACKENDS, 0);

/// Backend id to address, IPv6. As [`BACKENDS4`].
#[map(name = "backends6")]
pub static BACKENDS6: Array<BackendValue<Ipv6Be>> = Array::with_max_entries(DEFAULT_BACKENDS, 0);

/// Client and service id to the backend used last. Written and read by connect and sendmsg. When full the client seen
/// longest ago is forgotten and chooses anew. Pinned.
#[map(name = "affinity")]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityValue> =
    LruHashMap::with_max_entries(DEFAULT_AFFINITY, 0);

/// Admitted client prefixes of a service id. Written by the agent for the packet path; the socket hooks do not ask it,
/// as a socket has no source address yet when they run. When full the agent refuses the Service whole. Pinned.
#[map(name = "source_ranges")]
pub static SOURCE_RANGES: LpmTrie<SourceRangeKey, u32> =
    LpmTrie::with_max_entries(DEFAULT_SOURCE_RANGES, BPF_F_NO_PREALLOC);

/// Socket to the Service it is connected to. Written by connect, read by getpeername and recvmsg and, through
/// `list_sockets`, by the agent. Bounded by the number of sockets and freed with them. Pinned.
#[btf_map(name = "sock_peers")]
pub static SOCK_PEERS: SkStorage<SocketPeer> = SkStorage::new();

/// UDP socket to the Services it sends to without connecting. Written by sendmsg, read by recvmsg. Bounded by the
/// number of sockets and freed with them. Pinned.
#[btf_map(name = "udp_flows")]
pub static UDP_FLOWS: SkStorage<UdpFlows> = SkStorage::new();

/// Counter number to count. Written by every program, read by the agent. Pinned.
#[map(name = "counters")]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_SLOTS, 0);

/// One record for each decision while somebody monitors. When full, records are lost and counted. Pinned.
#[map(name = "events")]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// Cookie of the host's network namespace; set by the loader.
#[unsafe(no_mangle)]
static HOST_NETNS_COOKIE: u64 = 0;

/// 1 in the variant that sends events; set by the loader. Read-only for the verifier, which removes the code
/// otherwise: monitoring costs nothing while nobody monitors.
#[unsafe(no_mangle)]
static MONITOR: u8 = 0;

/// The cookie of the host's network namespace.
#[inline(always)]
pub fn host_netns_cookie() -> u64 {
    // SAFETY: a plain static; volatile because the loader replaces its value.
    unsafe { core::ptr::read_volatile(&raw const HOST_NETNS_COOKIE) }
}

/// Whether this variant sends events.
#[inline(always)]
pub fn monitoring() -> bool {
    // SAFETY: a plain static; volatile because the loader replaces its value.
    unsafe { core::ptr::read_volatile(&raw const MONITOR) != 0 }
}
