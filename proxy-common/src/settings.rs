//! Settings of the kernel programs: constants that the loader writes before the verifier sees them, so that what is
//! switched off costs nothing.
//!
//! Must not know where a setting comes from.

/// Whose sockets are translated at the socket; the others' packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u32)]
pub enum SocketLb {
    /// Everybody's in the attached cgroup.
    #[default]
    All = 0,
    /// Only those in the host's network namespace.
    Host = 1,
    /// Nobody's.
    Off = 2,
}

shared_struct! {
    /// The packet path's settings. Times are in seconds.
    pub struct PacketSettings {
        /// 1: every translated packet gets the node's address as its source.
        pub masquerade_all: u32,
        /// First source port given to translated flows, host byte order.
        pub source_port_first: u32,
        /// How many source ports follow from the first; a power of two is not needed, 0 is not allowed.
        pub source_port_count: u32,
        /// Number of places in `flows4` and in `flows6`.
        pub flows: u32,
        /// Clients with this IPv4 prefix are inside the cluster whatever device they come from: address, network byte order.
        pub inside4: u32,
        /// Mask of `inside4`, network byte order; with `inside4_set` 0 nobody is.
        pub inside4_mask: u32,
        /// As `inside4`, IPv6.
        pub inside6: [u32; 4],
        /// As `inside4_mask`, IPv6.
        pub inside6_mask: [u32; 4],
        /// 1: `inside4` is set.
        pub inside4_set: u32,
        /// 1: `inside6` is set.
        pub inside6_set: u32,
        /// Until a TCP handshake is complete.
        pub tcp_new_s: u32,
        /// An established TCP connection without a packet.
        pub tcp_established_s: u32,
        /// After one side of a TCP connection ended its stream.
        pub tcp_half_closed_s: u32,
        /// After both did, or after a reset.
        pub tcp_closing_s: u32,
        /// A datagram flow (UDP, SCTP) without an answer.
        pub datagram_new_s: u32,
        /// A datagram flow with answers.
        pub datagram_s: u32,
        /// 1: the host's own processes are served by packets (`--socket-lb=off`).
        pub host_by_packet: u32,
        /// Index of the loopback device of the host.
        pub loopback: u32,
        /// UDP port of the tunnel between nodes, host byte order, to which no pod may send; 0: there is none.
        pub tunnel_port: u32,
        /// How many resets and ICMP errors each CPU sends in a second at most.
        pub refusals_per_s: u32,
        /// 1: what pods send out of the cluster leaves with the node's address; the map `masquerade` says who and where to.
        pub masquerade: u32,
        /// 1: what arrives for a pod and is not translated goes straight into it, past the host's stack.
        pub shortcut: u32,
    }
}

impl PacketSettings {
    /// Defaults: kube-proxy's times where it has one (`conntrack.tcpEstablishedTimeout`, `tcpCloseWaitTimeout`), the
    /// kernel's (`nf_conntrack_udp_timeout`, `_stream`) otherwise.
    pub const DEFAULT: Self = Self {
        masquerade_all: 0,
        source_port_first: 12_000,
        source_port_count: 18_000,
        flows: crate::names::DEFAULT_FLOWS,
        inside4: 0,
        inside4_mask: 0,
        inside6: [0; 4],
        inside6_mask: [0; 4],
        inside4_set: 0,
        inside6_set: 0,
        tcp_new_s: 60,
        tcp_established_s: 86_400,
        tcp_half_closed_s: 3_600,
        tcp_closing_s: 60,
        datagram_new_s: 30,
        datagram_s: 120,
        host_by_packet: 0,
        loopback: 1,
        tunnel_port: 0,
        refusals_per_s: 1_000,
        masquerade: 0,
        shortcut: 0,
    };
}
