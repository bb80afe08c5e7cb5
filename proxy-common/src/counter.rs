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
