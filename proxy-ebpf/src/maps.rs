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
    AffinityKey, AffinityValue, BackendValue, DeviceValue, EndpointValue, FlowKey, FlowPlace, FlowValue,
    FragmentKey, FragmentValue, Ipv4Be, Ipv6Be, MasqueradeKey, PacketSettings, PodRanges, ServiceKey,
    ServiceValue, SocketLb, SocketPeer, SourceRangeKey, UdpFlows,
    counter::COUNTER_SLOTS,
    filter,
    names::{
        DEFAULT_AFFINITY, DEFAULT_BACKENDS, DEFAULT_FLOWS, DEFAULT_RING, DEFAULT_SERVICES,
        DEFAULT_SOURCE_RANGES, DEVICES_MAX, ENDPOINTS_MAX, EVENTS_BYTES, FRAGMENTS, KEYS_PER_FLOW,
        MASQUERADE_MAX, PACKET_ONLY_MAX,
    },
};
use proxy_packet::Work;

use crate::{limit::Window, sum::Bytes};

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

/// Admitted client prefixes of a service id. Written by the agent, read by the packet path and at the host's sockets; a
/// pod's socket has no address yet that could be compared. When full the agent refuses the Service whole. Pinned.
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

/// Addresses and ports of a packet to the place of its flow, IPv4. Written and read by the packet path. When full (or
/// out of memory) a new flow is dropped and counted; the table has a key for each direction of each flow, so that
/// `flows4` is full first. Pinned. Not preallocated: the table costs what it holds.
#[map(name = "flow_keys4")]
pub static FLOW_KEYS4: HashMap<FlowKey<Ipv4Be>, FlowPlace> =
    HashMap::with_max_entries(DEFAULT_FLOWS * KEYS_PER_FLOW, BPF_F_NO_PREALLOC);

/// Addresses and ports of a packet to the place of its flow, IPv6. As [`FLOW_KEYS4`].
#[map(name = "flow_keys6")]
pub static FLOW_KEYS6: HashMap<FlowKey<Ipv6Be>, FlowPlace> =
    HashMap::with_max_entries(DEFAULT_FLOWS * KEYS_PER_FLOW, BPF_F_NO_PREALLOC);

/// The connection table, IPv4: place to flow. Written and read by the packet path, read by the agent. When full a new
/// flow takes the place of one that is not established; if there is none it is dropped and counted. Pinned.
#[map(name = "flows4")]
pub static FLOWS4: Array<FlowValue<Ipv4Be>> = Array::with_max_entries(DEFAULT_FLOWS, 0);

/// The connection table, IPv6. As [`FLOWS4`].
#[map(name = "flows6")]
pub static FLOWS6: Array<FlowValue<Ipv6Be>> = Array::with_max_entries(DEFAULT_FLOWS, 0);

/// Which packets may be replies of a flow, see [`proxy_common::filter`]. Bits are set by the packet path before it enters a
/// flow's reply key, and read by it before it looks for one. It is not cleared; the fuller it is, the more packets pay a
/// look-up that finds nothing. Pinned.
#[map(name = "flow_filter")]
pub static FLOW_FILTER: Array<u64> = Array::with_max_entries(filter::FLOW_FILTER, 0);

/// Which addresses may have an address record, of both families, see [`proxy_common::filter`]. Bits are set by the agent,
/// through a memory mapping, before it writes a service record, and read by the packet path before it looks for one. It is
/// not cleared; the fuller it is, the more packets pay a look-up that finds nothing. Pinned.
#[map(name = "address_filter")]
pub static ADDRESS_FILTER: Array<u64> = Array::with_max_entries(filter::ADDRESS_FILTER, BPF_F_MMAPABLE);

/// Where pods' addresses are, as one element. Written by the agent before [`MASQUERADE`], read by the packet path before it
/// looks there. When full, any address counts as a pod's. Pinned.
#[map(name = "pod_ranges")]
pub static POD_RANGES: Array<PodRanges> = Array::with_max_entries(1, 0);

/// Fragmented datagram to the ports of its first fragment, IPv4. Written and read by the packet path. When full the
/// datagram seen longest ago is forgotten, and the rest of its fragments dropped and counted. Pinned.
#[map(name = "fragments4")]
pub static FRAGMENTS4: LruHashMap<FragmentKey<Ipv4Be>, FragmentValue> =
    LruHashMap::with_max_entries(FRAGMENTS, 0);

/// Fragmented datagram to the ports of its first fragment, IPv6. As [`FRAGMENTS4`].
#[map(name = "fragments6")]
pub static FRAGMENTS6: LruHashMap<FragmentKey<Ipv6Be>, FragmentValue> =
    LruHashMap::with_max_entries(FRAGMENTS, 0);

/// Index of a network device to this node's addresses on it. Written by the agent, read by the packet path and, for
/// source ranges, at the host's sockets. When full the agent leaves devices out, for which the node's default address
/// serves. Pinned.
#[map(name = "devices")]
pub static DEVICES: HashMap<u32, DeviceValue> = HashMap::with_max_entries(DEVICES_MAX, BPF_F_NO_PREALLOC);

/// Prefix to [`proxy_common::MasqueradeKind`]. Written by the agent, read by the packet path where packets leave the node.
/// When full the agent says so, and what it leaves out counts as outside of the cluster. Pinned.
#[map(name = "masquerade")]
pub static MASQUERADE: LpmTrie<MasqueradeKey, u32> =
    LpmTrie::with_max_entries(MASQUERADE_MAX, BPF_F_NO_PREALLOC);

/// Cookie of a network namespace whose sockets are left alone, to 1. Written by the agent, read by connect and sendmsg.
/// When full the agent says so, and the sockets of further ones are translated. Pinned.
#[map(name = "packet_only")]
pub static PACKET_ONLY: HashMap<u64, u8> = HashMap::with_max_entries(PACKET_ONLY_MAX, BPF_F_NO_PREALLOC);

/// Index of the host's end of a pod to what the pod may send and receive. Written by the plugin, read by the guard, which
/// keeps the account of limits in it. When full the plugin refuses the pod. Pinned.
#[map(name = "endpoints")]
pub static ENDPOINTS: HashMap<u32, EndpointValue> =
    HashMap::with_max_entries(ENDPOINTS_MAX, BPF_F_NO_PREALLOC);

/// The packet at hand, IPv4: one for each CPU, which handles one packet at a time. Nobody else's business, not pinned.
#[map(name = "work4")]
pub static WORK4: PerCpuArray<Work<Ipv4Be>> = PerCpuArray::with_max_entries(1, 0);

/// The packet at hand, IPv6. As [`WORK4`].
#[map(name = "work6")]
pub static WORK6: PerCpuArray<Work<Ipv6Be>> = PerCpuArray::with_max_entries(1, 0);

/// Bytes of a packet that are being summed. One for each CPU, as [`WORK4`]; not pinned.
#[map(name = "bytes")]
pub static BYTES: PerCpuArray<Bytes> = PerCpuArray::with_max_entries(1, 0);

/// How many refusals this CPU has sent in this second. Written and read by the packet path. Not pinned.
#[map(name = "refusals")]
pub static REFUSALS: PerCpuArray<Window> = PerCpuArray::with_max_entries(1, 0);

/// Cookie of the host's network namespace; set by the loader.
#[unsafe(no_mangle)]
static HOST_NETNS_COOKIE: u64 = 0;

/// 1 in the variant that sends events; set by the loader. Read-only for the verifier, which removes the code
/// otherwise: monitoring costs nothing while nobody monitors.
#[unsafe(no_mangle)]
static MONITOR: u8 = 0;

/// See [`SocketLb`]; set by the loader.
#[unsafe(no_mangle)]
static SOCKET_LB: u32 = SocketLb::All as u32;

/// The packet path's settings; set by the loader.
#[unsafe(no_mangle)]
static PACKET: PacketSettings = PacketSettings::DEFAULT;

/// How long a packet of a pod beyond its limit may wait for its time instead of being dropped, nanoseconds; set by the
/// loader where the node's devices have queues that keep packets until then.
#[unsafe(no_mangle)]
static PACING_NS: u64 = 0;

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

/// See [`PACING_NS`].
#[inline(always)]
pub fn pacing_ns() -> u64 {
    // SAFETY: a plain static; volatile because the loader replaces its value.
    unsafe { core::ptr::read_volatile(&raw const PACING_NS) }
}

/// Whose sockets are translated, see [`SocketLb`].
#[inline(always)]
pub fn socket_lb() -> u32 {
    // SAFETY: a plain static; volatile because the loader replaces its value.
    unsafe { core::ptr::read_volatile(&raw const SOCKET_LB) }
}

/// The word at an index of [`PacketSettings`], 0 outside.
#[inline(always)]
pub fn setting(word: usize) -> u32 {
    if word >= size_of::<PacketSettings>() / 4 {
        return 0;
    }
    // SAFETY: inside a plain static of words; volatile because the loader replaces its value.
    unsafe { (&raw const PACKET).cast::<u32>().add(word).read_volatile() }
}

/// UDP port of the tunnel between nodes, 0 if there is none.
#[inline(always)]
pub fn tunnel_port() -> u32 {
    setting(core::mem::offset_of!(PacketSettings, tunnel_port) / 4)
}

/// Index of the host's loopback device.
#[inline(always)]
pub fn loopback() -> u32 {
    setting(core::mem::offset_of!(PacketSettings, loopback) / 4)
}
