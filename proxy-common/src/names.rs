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
/// Map `flow_keys4`: hash, [`crate::FlowKey`] to [`crate::FlowPlace`].
pub const FLOW_KEYS4: &str = "flow_keys4";
/// Map `flow_keys6`.
pub const FLOW_KEYS6: &str = "flow_keys6";
/// Map `flows4`: array of [`crate::FlowValue`].
pub const FLOWS4: &str = "flows4";
/// Map `flows6`.
pub const FLOWS6: &str = "flows6";
/// Map `flow_filter`: array of `u64`, see [`crate::filter`].
pub const FLOW_FILTER: &str = "flow_filter";
/// Map `address_filter`: memory-mappable array of `u64`, see [`crate::filter`].
pub const ADDRESS_FILTER: &str = "address_filter";
/// Map `pod_ranges`: one [`crate::PodRanges`].
pub const POD_RANGES: &str = "pod_ranges";
/// Map `fragments4`: LRU hash, [`crate::FragmentKey`] to [`crate::FragmentValue`].
pub const FRAGMENTS4: &str = "fragments4";
/// Map `fragments6`.
pub const FRAGMENTS6: &str = "fragments6";
/// Map `devices`: hash, device index to [`crate::DeviceValue`].
pub const DEVICES: &str = "devices";
/// Map `masquerade`: LPM trie of [`crate::MasqueradeKey`], to [`crate::MasqueradeKind`] (`u32`).
pub const MASQUERADE: &str = "masquerade";
/// Map `packet_only`: hash, cookie of a network namespace whose sockets are not translated to 1 (`u8`).
pub const PACKET_ONLY: &str = "packet_only";

/// Map `endpoints`: hash, index of the host's device to [`crate::EndpointValue`].
pub const ENDPOINTS: &str = "endpoints";

/// Programs at the cgroup, each with the same name as its hook; the pinned link has this name too.
pub const PROGRAMS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// Programs on network devices. Node devices lead out of the node, pod devices into a pod, `lo` to the host itself.
pub const DEVICE_PROGRAMS: [&str; 4] = ["node_ingress", "node_egress", "pod_ingress", "pod_egress"];

/// Those of [`DEVICE_PROGRAMS`] for pods, as in [`GUARD_PROGRAMS`].
pub const POD_PROGRAMS: [&str; 2] = ["pod_ingress", "pod_egress"];

/// Programs on the host's end of a pod that our plugin wired: what comes out of it, what goes into it. Pinned, so that
/// the plugin attaches them without an agent.
pub const GUARD_PROGRAMS: [&str; 2] = ["guard_ingress", "guard_egress"];

/// Iterator program that lists the sockets of `sock_peers` to the agent; not attached to a hook, not pinned.
pub const LIST_SOCKETS: &str = "list_sockets";

/// Read-only global of the programs: cookie of the host's network namespace (`u64`).
pub const GLOBAL_HOST_NETNS: &str = "HOST_NETNS_COOKIE";
/// Read-only global of the programs: 1 to send an event for each decision (`u8`).
pub const GLOBAL_MONITOR: &str = "MONITOR";

/// Read-only global: whose sockets are translated, see [`crate::settings::SocketLb`] (`u32`).
pub const GLOBAL_SOCKET_LB: &str = "SOCKET_LB";
/// Read-only global: [`crate::settings::PacketSettings`].
pub const GLOBAL_PACKET: &str = "PACKET";

/// Read-only global of the guard: how long a packet beyond a pod's limit may be delayed, nanoseconds (`u64`); 0: it is
/// dropped.
pub const GLOBAL_PACING: &str = "PACING_NS";

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
/// Default capacity of `flows4` and of `flows6`, in flows: what kube-proxy asks of nf_conntrack at least
/// (`conntrack.min`).
pub const DEFAULT_FLOWS: u32 = 131_072;
/// Keys of a flow: one for each direction.
pub const KEYS_PER_FLOW: u32 = 2;
/// Capacity of `fragments4` and of `fragments6`, in datagrams.
pub const FRAGMENTS: u32 = 8_192;
/// Capacity of `devices`.
pub const DEVICES_MAX: u32 = 4_096;
/// Capacity of `masquerade`, in prefixes: some for each node.
pub const MASQUERADE_MAX: u32 = 65_536;
/// Capacity of `packet_only`.
pub const PACKET_ONLY_MAX: u32 = 4_096;
/// Capacity of `endpoints`.
pub const ENDPOINTS_MAX: u32 = 4_096;
/// Size of `events` in bytes.
pub const EVENTS_BYTES: u32 = 262_144;

/// Position in the ring and backend id that the agent's start-up probe uses; never allocated to a Service.
pub const PROBE_SLOT: u32 = 0;
