//! The `masquerade` LPM trie: which addresses are pods of this node, and which see pods' own addresses.
//!
//! Must not know what is done to a packet.

use crate::addr::Ipv6Be;

/// Value of `masquerade`; what no prefix has is outside of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum MasqueradeKind {
    /// A pod of this node: what it sends to the outside gets the node's address.
    Pod = 1,
    /// Reached with the pod's own address.
    Exempt = 2,
}

shared_struct! {
    /// Key data of `masquerade` (after the trie's prefix length, which counts 96 more for IPv4).
    pub struct MasqueradeKey {
        /// The address, IPv4-mapped for IPv4.
        pub address: Ipv6Be,
    }
}
