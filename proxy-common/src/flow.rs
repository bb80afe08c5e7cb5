//! The packet path's connection table: one record for both directions of a flow, and the two keys that lead to it.
//!
//! `flows4`/`flows6` are arrays of [`FlowValue`]; `flow_keys4`/`flow_keys6` lead from a packet's addresses and ports to a
//! place in them. An evicted record takes both directions with it: there is no half of a flow. Must not know how a
//! place is chosen or when a flow ends.

use crate::addr::{Address, Ipv4Be, Ipv6Be, PortBe};

/// Which packets of a flow a key matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Way {
    /// From the client to the frontend, before translation.
    Forward = 0,
    /// From the backend to the source address that the backend sees, before translation back.
    Reply = 1,
}

/// How far a flow is. Decides its time-out and whether it may be given up for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FlowState {
    /// No packet: the place is free.
    Free = 0,
    /// The client has sent; the backend has not answered.
    New = 1,
    /// Both have sent, but nothing proves yet that the client receives: a TCP handshake before its last
    /// acknowledgement, the first answer of a datagram protocol.
    Answered = 2,
    /// Both receive what the other sends.
    Established = 3,
    /// One side of a TCP connection has ended its stream; the other may go on sending.
    HalfClosed = 4,
    /// A TCP connection that both sides ended, or one of them reset.
    Closing = 5,
}

/// Bits of [`FlowValue::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowFlags(pub u8);

impl FlowFlags {
    /// The backend sees an address of this node: replies come back to the node and are forwarded by it.
    pub const SOURCE_IS_NODE: u8 = 1;
    /// The client is a process in the host's network namespace.
    pub const FROM_HOST: u8 = 1 << 1;
    /// The client has ended its stream (TCP FIN).
    pub const CLIENT_ENDED: u8 = 1 << 2;
    /// The backend has ended its stream (TCP FIN).
    pub const BACKEND_ENDED: u8 = 1 << 3;
    /// The record was made from a packet in the middle of a TCP connection.
    pub const REBUILT: u8 = 1 << 4;
    /// Begun by a pod of this node towards the outside, not through a Service: the frontend is the backend. Without
    /// [`Self::SOURCE_IS_NODE`] the pod only answers, and keeps its address.
    pub const MASQUERADED: u8 = 1 << 5;

    /// Whether `bit` is set.
    #[inline(always)]
    pub const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

shared_struct! {
    /// Key of `flow_keys4` / `flow_keys6`: a packet's addresses and ports as they are on the wire before translation.
    pub struct FlowKey<A: Address> for [Ipv4Be, Ipv6Be] {
        /// Source address.
        pub source: A,
        /// Destination address.
        pub destination: A,
        /// Source port.
        pub source_port: PortBe,
        /// Destination port.
        pub destination_port: PortBe,
        /// IP protocol number.
        pub protocol: u8,
        /// See [`Way`].
        pub way: u8,
        /// Reserved, 0.
        pub reserved: u16,
    }
}

shared_struct! {
    /// Value of `flow_keys4` / `flow_keys6`.
    pub struct FlowPlace {
        /// Index into `flows4` / `flows6`.
        pub slot: u32,
        /// Must equal [`FlowValue::serial`], or the place has been given to another flow.
        pub serial: u32,
    }
}

shared_struct! {
    /// Value of `flows4` / `flows6`. All zero = free.
    ///
    /// The client sends `client -> frontend`; the backend sees `source -> backend`. `source` is the client itself
    /// unless the reply would not come back this way, or unless another flow already uses the client's port towards
    /// this backend (then only the port differs).
    pub struct FlowValue<A: Address> for [Ipv4Be, Ipv6Be] {
        /// The client's address.
        pub client: A,
        /// The Service address that the client uses.
        pub frontend: A,
        /// Where its packets go.
        pub backend: A,
        /// The address the backend answers to.
        pub source: A,
        /// The client's port.
        pub client_port: PortBe,
        /// The Service's port.
        pub frontend_port: PortBe,
        /// The backend's port.
        pub backend_port: PortBe,
        /// The port the backend answers to.
        pub source_port: PortBe,
        /// IP protocol number.
        pub protocol: u8,
        /// See [`FlowState`].
        pub state: u8,
        /// See [`FlowFlags`].
        pub flags: u8,
        /// Scope under which the Service was looked up, see [`crate::Scope`].
        pub scope: u8,
        /// Tells this flow from those that had the place before; never 0 in use.
        pub serial: u32,
        /// See [`crate::ServiceValue::service_id`].
        pub service_id: u32,
        /// Generation of the service record under which the backend was last known to be usable.
        pub generation: u32,
        /// The backend's id.
        pub backend_id: u32,
        /// TCP: the acknowledgement number (host byte order) that completes the handshake; 0 if the backend has not answered
        /// the client's last SYN.
        pub completing_ack: u32,
        /// When a packet of the flow was seen last: `bpf_ktime_get_ns` in whole seconds.
        pub seen_s: u32,
        /// [`FlowFlags::FROM_HOST`]: the device on which replies must appear; else 0.
        pub device: u32,
    }
}

impl<A: Address> FlowKey<A> {
    /// To be overwritten.
    pub const NONE: Self = Self {
        source: A::UNSPECIFIED,
        destination: A::UNSPECIFIED,
        source_port: PortBe::ANY,
        destination_port: PortBe::ANY,
        protocol: 0,
        way: 0,
        reserved: 0,
    };
}

impl FlowPlace {
    /// To be overwritten.
    pub const NONE: Self = Self { slot: 0, serial: 0 };
}

impl<A: Address> FlowValue<A> {
    /// A free place.
    pub const FREE: Self = Self {
        client: A::UNSPECIFIED,
        frontend: A::UNSPECIFIED,
        backend: A::UNSPECIFIED,
        source: A::UNSPECIFIED,
        client_port: PortBe::ANY,
        frontend_port: PortBe::ANY,
        backend_port: PortBe::ANY,
        source_port: PortBe::ANY,
        protocol: 0,
        state: FlowState::Free as u8,
        flags: 0,
        scope: 0,
        serial: 0,
        service_id: 0,
        generation: 0,
        backend_id: 0,
        completing_ack: 0,
        seen_s: 0,
        device: 0,
    };

    /// The key of the client's packets.
    #[inline(always)]
    pub fn forward_key(&self) -> FlowKey<A> {
        FlowKey {
            source: self.client,
            destination: self.frontend,
            source_port: self.client_port,
            destination_port: self.frontend_port,
            protocol: self.protocol,
            way: Way::Forward as u8,
            reserved: 0,
        }
    }

    /// The key of the backend's packets.
    #[inline(always)]
    pub fn reply_key(&self) -> FlowKey<A> {
        FlowKey {
            source: self.backend,
            destination: self.source,
            source_port: self.backend_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            way: Way::Reply as u8,
            reserved: 0,
        }
    }

    /// The flags.
    #[inline(always)]
    pub const fn flags(&self) -> FlowFlags {
        FlowFlags(self.flags)
    }
}

impl FlowState {
    /// All of them, by number.
    pub const ALL: [Self; 6] =
        [Self::Free, Self::New, Self::Answered, Self::Established, Self::HalfClosed, Self::Closing];

    /// The name in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::New => "new",
            Self::Answered => "answered",
            Self::Established => "established",
            Self::HalfClosed => "half-closed",
            Self::Closing => "closing",
        }
    }
}

shared_struct! {
    /// Key of `fragments4` / `fragments6`: the fragments of one datagram (RFC 791, 3.2; RFC 8200, 4.5).
    pub struct FragmentKey<A: Address> for [Ipv4Be, Ipv6Be] {
        /// Source address.
        pub source: A,
        /// Destination address.
        pub destination: A,
        /// Identification, as the header has it (IPv4: 16 bits).
        pub identification: u32,
        /// IP protocol number.
        pub protocol: u32,
    }
}

shared_struct! {
    /// Value of `fragments4` / `fragments6`: what only the first fragment tells.
    pub struct FragmentValue {
        /// Source port.
        pub source_port: PortBe,
        /// Destination port.
        pub destination_port: PortBe,
        /// When the first fragment was seen: `bpf_ktime_get_ns` in whole seconds.
        pub seen_s: u32,
        /// IP protocol number of what the ports belong to.
        pub protocol: u32,
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_two_keys_of_a_flow_never_meet() {
        let a = |last| Ipv4Be::from(Ipv4Addr::new(192, 0, 2, last));
        let flow = FlowValue { client: a(1), frontend: a(2), backend: a(2), source: a(1), ..FlowValue::FREE };
        assert_ne!(flow.forward_key(), flow.reply_key());
        let looped =
            FlowValue { client: a(1), frontend: a(1), backend: a(1), source: a(1), ..FlowValue::FREE };
        assert_ne!(looped.forward_key(), looped.reply_key());
    }

    #[test]
    fn states_are_numbered_in_order() {
        for (number, state) in FlowState::ALL.iter().enumerate() {
            assert_eq!(*state as usize, number);
        }
    }
}
