//! The addresses of the topology: documentation ranges outside, private ones for pods and Services.
//!
//! Must not know: how they are set.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One place's address in each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Pair {
    const fn new(v4: [u8; 4], v6: [u16; 8]) -> Self {
        let [a, b, c, d] = v4;
        let [e, f, g, h, i, j, k, l] = v6;
        Self { v4: Ipv4Addr::new(a, b, c, d), v6: Ipv6Addr::new(e, f, g, h, i, j, k, l) }
    }

    /// Both of them.
    #[must_use]
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The one of the same family as `other`.
    #[must_use]
    pub fn like(self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }
}

/// The client outside.
pub const CLIENT: Pair = Pair::new([198, 51, 100, 10], [0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x10]);
/// A client outside in another network.
pub const STRANGER: Pair = Pair::new([198, 51, 100, 138], [0x2001, 0xdb8, 0xd, 0, 0, 0, 0, 0x10]);
/// The router on the client's link.
pub const CLIENT_GATEWAY: Pair = Pair::new([198, 51, 100, 1], [0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 1]);
/// The router on the stranger's link.
pub const STRANGER_GATEWAY: Pair = Pair::new([198, 51, 100, 129], [0x2001, 0xdb8, 0xd, 0, 0, 0, 0, 1]);
/// The router on the nodes' link.
pub const ROUTER: Pair = Pair::new([192, 0, 2, 254], [0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0xfe]);

/// The router's and a node's end of a second link between them.
pub const SECOND_LINK: [Pair; 2] = [
    Pair::new([192, 0, 2, 241], [0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 1]),
    Pair::new([192, 0, 2, 242], [0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 2]),
];

/// How many nodes there are; they are counted from 1.
pub const NODES: u8 = 2;

/// Prefix of what the router sends to node 1: load balancer and external addresses.
pub const VIPS_1: [&str; 2] = ["203.0.113.0/25", "2001:db8:f:1::/64"];
/// Prefix of what the router sends to node 2.
pub const VIPS_2: [&str; 2] = ["203.0.113.128/25", "2001:db8:f:2::/64"];
/// The ClusterIPs, which the router sends to node 1.
pub const CLUSTER_IPS: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
/// Addresses that nobody has: the router loses what is sent there.
pub const NOWHERE: [&str; 2] = ["198.18.0.0/15", "2001:db8:e::/64"];

/// A node's address on the link with the router and the other node.
#[must_use]
pub const fn node(number: u8) -> Pair {
    Pair::new([192, 0, 2, 10 + number], [0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x10 + number as u16])
}

/// A node's address inside the tunnel: the first one of its pods' prefixes.
#[must_use]
pub const fn in_tunnel(number: u8) -> Pair {
    Pair::new([10, 244, number, 0], [0xfd00, 0x10, 0x244, number as u16, 0, 0, 0, 0])
}

/// The `index`-th pod of a node, counted from 0.
#[must_use]
pub const fn pod(node: u8, index: u8) -> Pair {
    Pair::new([10, 244, node, 10 + index], [0xfd00, 0x10, 0x244, node as u16, 0, 0, 0, 0xa + index as u16])
}

/// The prefixes of all pods of a node.
#[must_use]
pub fn pods_of(node: u8) -> [String; 2] {
    [format!("10.244.{node}.0/24"), format!("fd00:10:244:{node}::/64")]
}

/// The prefixes of all pods of all nodes.
pub const ALL_PODS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];
