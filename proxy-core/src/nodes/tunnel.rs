//! What both ends of a tunnel must agree on without asking each other: Ethernet and inner addresses.
//!
//! Must not know which packets go through it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use proxy_common::fnv1a;

/// What the outer headers take: Ethernet 14 and VXLAN 8 and UDP 8, and IPv4 20 or IPv6 40 (RFC 7348, 4.3).
pub(super) fn overhead(underlay: IpAddr) -> u32 {
    if underlay.is_ipv4() { 50 } else { 70 }
}

/// The Ethernet address of a node's end of the tunnel: locally administered, unicast, from the node's name by FNV-1a.
/// So nobody has to publish it, and a device that is made anew has the same.
pub fn vtep_mac(node: &str) -> [u8; 6] {
    let hash = fnv1a(node.bytes());
    let part = |place: u32| u8::try_from((hash >> (8 * place)) & 0xff).unwrap_or_default();
    [0x06, part(4), part(3), part(2), part(1), part(0)]
}

/// A node's address inside of the tunnel for one of its prefixes: the prefix's first, which no pod gets.
pub(super) fn gateway(network: IpNetwork) -> IpAddr {
    network.network()
}

/// Whether that address is the node's own: in a prefix of one or two addresses it is a pod's.
pub(super) fn has_own_address(network: IpNetwork) -> bool {
    match network {
        IpNetwork::V4(v4) => v4.prefix() <= 30,
        IpNetwork::V6(v6) => v6.prefix() <= 126,
    }
}
