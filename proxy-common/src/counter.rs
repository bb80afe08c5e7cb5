//! The numbered list of what the kernel programs count: outcomes, and a reason for everything refused or dropped.
//!
//! Numbers are part of the contract: append, never renumber. Must not know where a count is shown.

macro_rules! counters {
    ($( $(#[$meta:meta])* $name:ident = $number:literal, $label:literal; )+) => {
        /// Index into the per-CPU array `counters`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Counter { $( $(#[$meta])* $name = $number, )+ }

        impl Counter {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// The name used as a metric's label and in tables.
            pub const fn label(self) -> &'static str {
                match self { $( Self::$name => $label, )+ }
            }
        }
    };
}

counters! {
    /// A TCP connect was translated.
    ConnectTcp = 0, "connect_tcp";
    /// A UDP connect was translated.
    ConnectUdp = 1, "connect_udp";
    /// The first datagram of an unconnected UDP flow was translated.
    SendNew = 2, "sendmsg_new";
    /// A later datagram of an unconnected UDP flow was translated.
    SendKept = 3, "sendmsg_kept";
    /// An unconnected UDP flow moved because its backend was no longer usable.
    SendMoved = 4, "sendmsg_moved";
    /// A reply's source became the Service's address again.
    Receive = 5, "recvmsg";
    /// The session affinity of the client decided.
    AffinityHit = 6, "affinity_hit";
    /// Refused: the Service has no endpoint.
    RefusedNoEndpoint = 7, "refused_no_endpoint";
    /// Refused: the address is a Service's, the port is not.
    RefusedUnknownPort = 8, "refused_unknown_port";
    /// Dropped: traffic policy Local and no endpoint on this node.
    DroppedNoLocalEndpoint = 9, "dropped_no_local_endpoint";
    /// Refused: the record changed under every attempt to read it.
    RefusedUnstable = 10, "refused_unstable_record";
    /// An event was lost because nobody emptied the ring buffer in time.
    EventLost = 11, "event_lost";
    /// A packet of a client was translated to a backend.
    PacketForward = 12, "packet_forward";
    /// A packet of a backend was translated back.
    PacketReply = 13, "packet_reply";
    /// An ICMP error about a translated packet was translated.
    PacketError = 14, "packet_icmp_error";
    /// A flow began.
    FlowNew = 15, "flow_new";
    /// A flow got another backend because its own had left.
    FlowMoved = 16, "flow_moved";
    /// A TCP flow was found again from a packet in its middle.
    FlowRebuilt = 17, "flow_rebuilt";
    /// A flow that had not been answered yet gave its place to a new one.
    FlowEvicted = 18, "flow_evicted";
    /// Dropped: every place tried in the flow table is held by an established flow.
    DroppedFlowTableFull = 19, "dropped_flow_table_full";
    /// Dropped: no free source port towards this backend.
    DroppedNoSourcePort = 20, "dropped_no_source_port";
    /// Dropped: the node has no address of this family to send from.
    DroppedNoSourceAddress = 21, "dropped_no_source_address";
    /// Dropped: `loadBalancerSourceRanges` do not admit the client.
    DroppedSourceRange = 22, "dropped_source_range";
    /// Dropped: headers that end too early or contradict each other.
    DroppedMalformed = 23, "dropped_malformed";
    /// Dropped: more IPv6 extension headers than are followed.
    DroppedHeaders = 24, "dropped_too_many_headers";
    /// Dropped: a later fragment of a datagram whose first has not come.
    DroppedFragment = 25, "dropped_fragment_without_first";
    /// Dropped: a Service's address that the node would only send back to the router it came from.
    DroppedLoop = 26, "dropped_routing_loop";
    /// Dropped: no route to the backend or back to the client.
    DroppedNoRoute = 27, "dropped_no_route";
    /// Answered with ICMP "packet too big": it does not fit the next link.
    DroppedTooBig = 28, "dropped_too_big";
    /// Answered with ICMP "time exceeded": its hop limit is used up.
    DroppedHopLimit = 29, "dropped_hop_limit";
    /// Dropped: a TCP reset or a datagram of a flow that is not known, which cannot start one.
    DroppedNoFlow = 30, "dropped_no_flow";
    /// Dropped: the packet could not be rewritten (out of memory, or it is shorter than it says).
    DroppedRewrite = 31, "dropped_rewrite_failed";
    /// Dropped: more answers of refusal than the limit of this second.
    DroppedRefusalLimit = 32, "dropped_refusal_limit";
    /// Dropped: out of or into a pod of which the guard has no record.
    DroppedPodUnknown = 33, "dropped_pod_unknown";
    /// Dropped: a pod sent with another's MAC address.
    DroppedPodMac = 34, "dropped_pod_mac";
    /// Dropped: a pod sent with another's IP address.
    DroppedPodAddress = 35, "dropped_pod_address";
    /// Dropped: a pod sent without a source address (DHCP, or IPv6 before its link-local address is ready).
    DroppedPodUnspecified = 36, "dropped_pod_unspecified";
    /// Dropped: a pod claimed another's address by ARP or a neighbour advertisement.
    DroppedPodNeighbour = 37, "dropped_pod_neighbour";
    /// Dropped: a pod sent a router advertisement or a redirect.
    DroppedPodRouter = 38, "dropped_pod_router";
    /// Dropped: a pod sent neither IP nor ARP, or with the tag of a VLAN.
    DroppedPodProtocol = 39, "dropped_pod_protocol";
    /// Dropped: a pod sent more than its limit.
    DroppedPodSendLimit = 40, "dropped_pod_send_limit";
    /// Dropped: more for a pod than its limit.
    DroppedPodReceiveLimit = 41, "dropped_pod_receive_limit";
    /// Dropped: a pod sent to the port of the tunnel between nodes.
    DroppedPodTunnel = 42, "dropped_pod_tunnel";
}

/// How many entries the map `counters` has: more than [`Counter::ALL`], so that a new reason needs no new map.
pub const COUNTER_SLOTS: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_fit_the_map() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index, "{}", counter.label());
        }
        assert!(Counter::ALL.len() <= COUNTER_SLOTS as usize);
    }
}
