//! What a kernel program tells `sheave monitor`: one record for each decision at a socket.
//!
//! Must not know how a record is printed.

use crate::addr::{Ipv6Be, PortBe};

/// The hook that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hook {
    /// `connect(2)`.
    Connect = 0,
    /// `sendmsg(2)` on an unconnected UDP socket.
    Sendmsg = 1,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Sent to `backend`.
    Translated = 0,
    /// `ECONNREFUSED`: no endpoint.
    RefusedNoEndpoint = 1,
    /// `ECONNREFUSED`: no such port.
    RefusedUnknownPort = 2,
    /// `EHOSTUNREACH`: no endpoint on this node.
    DroppedNoLocalEndpoint = 3,
    /// `ECONNREFUSED`: record unreadable.
    RefusedUnstable = 4,
    /// `EHOSTUNREACH`: the client is in no source range.
    DroppedSourceRange = 5,
}

shared_struct! {
    /// One record of the ring buffer `events`.
    pub struct SocketEvent {
        /// `bpf_ktime_get_ns`.
        pub timestamp_ns: u64,
        /// Cookie of the client's network namespace.
        pub netns_cookie: u64,
        /// The address the program asked for; IPv4-mapped for IPv4.
        pub frontend: Ipv6Be,
        /// The backend chosen, or unspecified.
        pub backend: Ipv6Be,
        /// Port the program asked for.
        pub frontend_port: PortBe,
        /// Port of the backend, or 0.
        pub backend_port: PortBe,
        /// See [`crate::ServiceValue::service_id`]; 0 if unknown.
        pub service_id: u32,
        /// Process id (thread group) of the client, as the initial pid namespace counts.
        pub pid: u32,
        /// IP protocol number.
        pub protocol: u8,
        /// See [`Hook`].
        pub hook: u8,
        /// See [`Verdict`].
        pub verdict: u8,
        /// Reserved, 0.
        pub reserved: u8,
        /// The client's command name, NUL-padded.
        pub command: [u8; 16],
    }
}
