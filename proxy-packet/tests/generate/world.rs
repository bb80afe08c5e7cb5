//! The one place in which all generated and written cases play: a node with two devices to the network, two pods, and the
//! addresses around it, by name, the same in both families.
//!
//! ```text
//! client, stranger, nobody -- router --- eth0 | node | pod0 --- local
//!              remote, narrow (MTU 1300) ---/ |      | pod1 --- local2
//!               second-router, far ----- eth1 |      | lo
//! ```
//!
//! Must not know what is sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proxy_common::{DeviceValue, Ipv4Be, Ipv6Be, PacketSettings, device::NODE_DEFAULT};
use proxy_packet::simulation::{Simulated, Simulation};

/// MTU of the links, but for those told apart below.
pub const MTU: u32 = 1_500;
/// MTU of `eth1`.
pub const SECOND_MTU: u32 = 1_400;
/// MTU of the route to `narrow`.
pub const NARROW_MTU: u32 = 1_300;

/// A device of the node, with its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    Lo = 1,
    Eth0 = 11,
    Eth1 = 12,
    Pod0 = 13,
    Pod1 = 14,
}

impl Device {
    pub const ALL: [Self; 5] = [Self::Lo, Self::Eth0, Self::Eth1, Self::Pod0, Self::Pod1];

    pub fn name(self) -> &'static str {
        match self {
            Self::Lo => "lo",
            Self::Eth0 => "eth0",
            Self::Eth1 => "eth1",
            Self::Pod0 => "pod0",
            Self::Pod1 => "pod1",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|device| device.name() == name)
    }

    pub fn index(self) -> u32 {
        self as u32
    }
}

/// Every address that a case may name: name, IPv4 and IPv6.
const ADDRESSES: [(&str, [u8; 4], [u16; 8]); 26] = [
    // Outside: behind the router on eth0.
    ("client", [198, 51, 100, 7], [0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 7]),
    ("client2", [198, 51, 100, 8], [0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 8]),
    ("stranger", [198, 51, 101, 9], [0x2001, 0xdb8, 0x65, 0, 0, 0, 0, 9]),
    ("nobody", [198, 51, 102, 1], [0x2001, 0xdb8, 0x66, 0, 0, 0, 0, 1]),
    ("router", [192, 0, 2, 254], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe]),
    ("second-router", [192, 0, 3, 254], [0x2001, 0xdb8, 3, 0, 0, 0, 0, 0xfe]),
    ("neighbour", [192, 0, 2, 2], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]),
    ("second-neighbour", [192, 0, 3, 2], [0x2001, 0xdb8, 3, 0, 0, 0, 0, 2]),
    // The node's own.
    ("node", [192, 0, 2, 1], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    ("second", [192, 0, 3, 1], [0x2001, 0xdb8, 3, 0, 0, 0, 0, 1]),
    ("loopback", [127, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1]),
    // Pods of this node.
    ("local", [10, 244, 1, 2], [0xfd00, 0x10, 0x244, 1, 0, 0, 0, 2]),
    ("local2", [10, 244, 1, 3], [0xfd00, 0x10, 0x244, 1, 0, 0, 0, 3]),
    // Pods of other nodes: by eth0, by eth1, by a narrow route, by none, by one that says unreachable.
    ("remote", [10, 244, 2, 2], [0xfd00, 0x10, 0x244, 2, 0, 0, 0, 2]),
    ("remote2", [10, 244, 2, 3], [0xfd00, 0x10, 0x244, 2, 0, 0, 0, 3]),
    ("far", [10, 244, 3, 2], [0xfd00, 0x10, 0x244, 3, 0, 0, 0, 2]),
    ("narrow", [10, 244, 4, 2], [0xfd00, 0x10, 0x244, 4, 0, 0, 0, 2]),
    ("vanished", [10, 244, 8, 2], [0xfd00, 0x10, 0x244, 8, 0, 0, 0, 2]),
    ("lost", [10, 244, 9, 2], [0xfd00, 0x10, 0x244, 9, 0, 0, 0, 2]),
    // Addresses of Services: ClusterIPs and two of a load balancer, which the node would send to the router; one that it
    // would send on by eth1.
    ("vip", [10, 96, 0, 10], [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10]),
    ("vip2", [10, 96, 0, 11], [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x11]),
    ("lb", [203, 0, 113, 10], [0x2001, 0xdb8, 0x71, 0, 0, 0, 0, 0x10]),
    ("lb2", [203, 0, 113, 11], [0x2001, 0xdb8, 0x71, 0, 0, 0, 0, 0x11]),
    ("onward", [203, 0, 114, 10], [0x2001, 0xdb8, 0x72, 0, 0, 0, 0, 0x10]),
    ("nothing", [0; 4], [0; 8]),
    ("group", [224, 0, 0, 9], [0xff02, 0, 0, 0, 0, 0, 0, 9]),
];

/// Names of ClusterIPs.
pub const CLUSTER_IPS: [&str; 2] = ["vip", "vip2"];
/// Names of addresses that the node has.
pub const OWN: [&str; 3] = ["node", "second", "loopback"];
/// Names of pods that the node has.
pub const LOCAL: [&str; 2] = ["local", "local2"];

/// One of the two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ip {
    V4,
    V6,
}

impl Ip {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The address of this name.
    pub fn address(self, name: &str) -> Option<IpAddr> {
        let (_, v4, v6) = ADDRESSES.iter().find(|(known, ..)| *known == name)?;
        Some(match self {
            Self::V4 => Ipv4Addr::from(*v4).into(),
            Self::V6 => Ipv6Addr::from(*v6).into(),
        })
    }

    /// The name of this address.
    pub fn name(address: IpAddr) -> Option<&'static str> {
        let found = ADDRESSES.iter().find(|(_, v4, v6)| match address {
            IpAddr::V4(address) => address == Ipv4Addr::from(*v4),
            IpAddr::V6(address) => address == Ipv6Addr::from(*v6),
        });
        found.map(|(name, ..)| *name)
    }
}

/// A route of the node: the network by the name of an address in it, its length, the device, the router by name, the MTU.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub network: &'static str,
    pub bits: (u32, u32),
    pub device: Device,
    pub router: Option<&'static str>,
    pub mtu: u32,
}

const fn way(network: &'static str, bits: (u32, u32), device: Device, router: Option<&'static str>) -> Way {
    let mtu = if matches!(device, Device::Eth1) { SECOND_MTU } else { MTU };
    Way { network, bits, device, router, mtu }
}

/// A network without a route: to the kernel's question the answer is the same as for the host itself.
pub const WITHOUT_ROUTE: (&str, (u32, u32)) = ("vanished", (24, 64));

/// The node's routes. What none of them has is unreachable: `lost`.
pub const WAYS: [Way; 11] = [
    way("node", (24, 64), Device::Eth0, None),
    way("second", (24, 64), Device::Eth1, None),
    way("client", (16, 44), Device::Eth0, Some("router")),
    way("vip", (24, 64), Device::Eth0, Some("router")),
    way("lb", (24, 64), Device::Eth0, Some("router")),
    way("local", (32, 128), Device::Pod0, None),
    way("local2", (32, 128), Device::Pod1, None),
    way("remote", (24, 64), Device::Eth0, Some("neighbour")),
    way("far", (24, 64), Device::Eth1, Some("second-neighbour")),
    way("onward", (24, 64), Device::Eth1, Some("second-router")),
    Way { mtu: NARROW_MTU, ..way("narrow", (24, 64), Device::Eth0, Some("neighbour")) },
];

/// Settings of all cases, unless told otherwise: pods are inside the cluster, refusals are not limited, few flows that
/// are soon over.
pub const SETTINGS: PacketSettings = PacketSettings {
    flows: 64,
    source_port_first: 1_024,
    source_port_count: 28_976,
    inside4: u32::from_ne_bytes([10, 244, 0, 0]),
    inside4_mask: u32::from_ne_bytes([255, 255, 0, 0]),
    inside4_set: 1,
    inside6: [u32::from_ne_bytes([0xfd, 0, 0, 0x10]), u32::from_ne_bytes([2, 0x44, 0, 0]), 0, 0],
    inside6_mask: [u32::MAX, u32::from_ne_bytes([255, 255, 0, 0]), 0, 0],
    inside6_set: 1,
    // Short ones: a kernel that has just started has no flow that was seen hours ago.
    tcp_new_s: 20,
    tcp_established_s: 100,
    tcp_half_closed_s: 60,
    tcp_closing_s: 40,
    datagram_new_s: 30,
    datagram_s: 90,
    refusals_per_s: u32::MAX,
    ..PacketSettings::DEFAULT
};

/// The node, without Services and flows.
pub fn node() -> Simulation {
    let mut world = Simulation::new();
    world.settings = SETTINGS;
    // Long after the start, so that a flow can be old.
    world.clock_ns = 1_000_000_000_000_000;
    for ip in Ip::BOTH {
        routes(&mut world, ip);
    }
    let value = |name: &str| DeviceValue { source4: v4(name), source6: v6(name), is_tunnel: 0 };
    world.devices.insert(NODE_DEFAULT, value("node"));
    world.devices.insert(Device::Eth0.index(), value("node"));
    world.devices.insert(Device::Eth1.index(), value("second"));
    world
}

/// The IPv4 address of this name.
pub fn v4(name: &str) -> Ipv4Be {
    match Ip::V4.address(name) {
        Some(IpAddr::V4(address)) => address.into(),
        _ => panic!("no address is called {name}"),
    }
}

/// The IPv6 address of this name.
pub fn v6(name: &str) -> Ipv6Be {
    match Ip::V6.address(name) {
        Some(IpAddr::V6(address)) => address.into(),
        _ => panic!("no address is called {name}"),
    }
}

/// A family whose addresses have names.
pub trait Named: Simulated + std::fmt::Debug {
    fn named(name: &str) -> Self;
    fn ip(self) -> IpAddr;
    fn text(self) -> String {
        text(self.ip())
    }
}

impl Named for Ipv4Be {
    fn named(name: &str) -> Self {
        v4(name)
    }

    fn ip(self) -> IpAddr {
        IpAddr::V4(self.into())
    }
}

impl Named for Ipv6Be {
    fn named(name: &str) -> Self {
        v6(name)
    }

    fn ip(self) -> IpAddr {
        IpAddr::V6(self.into())
    }
}

/// The name of an address, or the address.
pub fn text(address: IpAddr) -> String {
    Ip::name(address).map_or_else(|| address.to_string(), str::to_owned)
}

fn routes(world: &mut Simulation, ip: Ip) {
    match ip {
        Ip::V4 => family::<Ipv4Be>(world, |bits| bits.0),
        Ip::V6 => family::<Ipv6Be>(world, |bits| bits.1),
    }
}

fn family<A: Named>(world: &mut Simulation, bits: fn((u32, u32)) -> u32) {
    for way in WAYS {
        let router = way.router.map(A::named);
        world.add_route(A::named(way.network), bits(way.bits), way.device.index(), router, way.mtu);
    }
    let (vanished, lengths) = WITHOUT_ROUTE;
    world.add_route(A::named(vanished), bits(lengths), 0, None, u32::MAX);
    for own in OWN {
        world.add_host_address(A::named(own));
    }
}
