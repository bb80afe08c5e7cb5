//! The `source_ranges` LPM trie: which clients a Service's `loadBalancerSourceRanges` admit.
//!
//! Must not know how a miss is answered.

use crate::addr::Ipv6Be;

shared_struct! {
    /// Key data of `source_ranges` (after the trie's prefix length): the service id, then the client's address as
    /// IPv6. The prefix length counts both: 32 bits of id, plus 96 and the IPv4 prefix length, or the IPv6 one.
    pub struct SourceRangeKey {
        /// See [`crate::ServiceValue::service_id`]; compared bit for bit, so any byte order does.
        pub service_id: u32,
        /// The client's address, IPv4-mapped for IPv4.
        pub client: Ipv6Be,
    }
}
