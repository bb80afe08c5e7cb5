//! The `endpoints` map: the pods of this node that our plugin wired, by the host's end of their pair.
//!
//! Must not know who writes it.

use crate::addr::{Ipv4Be, Ipv6Be};

shared_struct! {
    /// Value of `endpoints`; the key is the index of the host's device (`u32`). Rates are in bytes per second; with 0 a
    /// direction has no limit.
    pub struct EndpointValue {
        /// The pod's address; unspecified if it has none.
        pub address4: Ipv4Be,
        /// As `address4`, IPv6.
        pub address6: Ipv6Be,
        /// The pod's MAC address.
        pub mac: [u8; 6],
        /// Reserved, 0.
        pub reserved: [u8; 6],
        /// What may leave the pod in a second.
        pub from_rate: u64,
        /// What may leave it at once, bytes.
        pub from_burst: u64,
        /// What may come to the pod in a second.
        pub to_rate: u64,
        /// What may come at once, bytes.
        pub to_burst: u64,
        /// The programs' own: when the next packet from the pod would be due at that rate, nanoseconds of the monotonic
        /// clock. 0 at the beginning.
        pub from_due: u64,
        /// As `from_due`, to the pod.
        pub to_due: u64,
    }
}
