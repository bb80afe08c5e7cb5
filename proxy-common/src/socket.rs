//! Per-socket state, kept in the kernel's socket storage and freed with the socket.
//!
//! Addresses are kept as IPv6 (IPv4-mapped for IPv4), because an `AF_INET6` socket meets IPv4 in both forms.
//! Must not know which hook reads or writes it.

use crate::addr::{Address as _, Ipv6Be, PortBe};

shared_struct! {
    /// Value of `sock_peers`: the Service that a connected socket (TCP or UDP) thinks it talks to.
    pub struct SocketPeer {
        /// The address the program connected to.
        pub frontend: Ipv6Be,
        /// The address the kernel really connected to.
        pub backend: Ipv6Be,
        /// Port of the frontend.
        pub frontend_port: PortBe,
        /// Port of the backend.
        pub backend_port: PortBe,
        /// See [`crate::ServiceValue::service_id`].
        pub service_id: u32,
        /// See [`crate::BackendId`].
        pub backend_id: u32,
        /// IP protocol number.
        pub protocol: u32,
        /// When the program connected, `bpf_ktime_get_ns`: of two Services that share a backend, the one asked last answers.
        pub since_ns: u64,
    }
}

shared_struct! {
    /// What the program `list_sockets` tells of each socket in `sock_peers`.
    pub struct TranslatedSocket {
        /// The socket's cookie, as `SO_COOKIE` and sock_diag give it.
        pub cookie: u64,
        /// The Service it thinks it talks to.
        pub peer: SocketPeer,
    }
}

impl SocketPeer {
    /// The socket is connected to no Service.
    pub const NONE: Self = Self {
        frontend: Ipv6Be::UNSPECIFIED,
        backend: Ipv6Be::UNSPECIFIED,
        frontend_port: PortBe::ANY,
        backend_port: PortBe::ANY,
        service_id: 0,
        backend_id: 0,
        protocol: 0,
        since_ns: 0,
    };
}

/// How many Services one unconnected UDP socket can talk to at a time and still stay with each one's backend.
/// The one used longest ago gives way.
pub const UDP_FLOWS_PER_SOCKET: usize = 8;

shared_struct! {
    /// One Service that an unconnected UDP socket sends to. All zero = free.
    pub struct UdpFlow {
        /// The address the program sends to.
        pub frontend: Ipv6Be,
        /// The address its datagrams really go to.
        pub backend: Ipv6Be,
        /// Port of the frontend.
        pub frontend_port: PortBe,
        /// Port of the backend.
        pub backend_port: PortBe,
        /// See [`crate::ServiceValue::service_id`].
        pub service_id: u32,
        /// See [`crate::BackendId`].
        pub backend_id: u32,
        /// Generation of the service record under which the backend was last known to be usable.
        pub generation: u32,
        /// When it was last used, `bpf_ktime_get_ns`; 0 = free.
        pub last_used_ns: u64,
    }
}

shared_struct! {
    /// Value of `udp_flows`.
    pub struct UdpFlows {
        /// The flows, in no order.
        pub flows: [UdpFlow; UDP_FLOWS_PER_SOCKET],
    }
}
