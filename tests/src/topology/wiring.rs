//! Devices, addresses and routes of the topology.
//!
//! Must not know: who serves or asks.

use anyhow::{Result, ensure};

use super::addresses::{
    ALL_PODS, CLIENT_GATEWAY, CLUSTER_IPS, NODES, NOWHERE, Pair, ROUTER, SECOND_LINK, STRANGER_GATEWAY,
    VIPS_1, VIPS_2, node, pods_of,
};
use super::{Links, Place, Topology, Wiring, pods};
use crate::netns::Netns;

/// The router's device on the clients' links, by the name of the client.
const CLIENT_LINKS: [(&str, Pair, u8, u8); 2] =
    [("client", CLIENT_GATEWAY, 25, 64), ("stranger", STRANGER_GATEWAY, 25, 64)];
/// The router's bridge, to which the nodes are connected.
const BRIDGE: &str = "nodes";

/// A namespace whose addresses can be used at once: without duplicate address detection.
pub(super) fn namespace() -> Result<Netns> {
    let netns = Netns::new()?;
    for devices in ["all", "default"] {
        netns.sysctl(&format!("ipv6/conf/{devices}/accept_dad"), "0")?;
        netns.sysctl(&format!("ipv6/conf/{devices}/router_solicitations"), "0")?;
    }
    // Every error is sent: tests cause more of them than a router expects.
    netns.sysctl("ipv4/icmp_ratelimit", "0")?;
    netns.sysctl("ipv6/icmp/ratelimit", "0")?;
    // What the kernel chooses leaves room for ports that tests choose.
    netns.sysctl("ipv4/ip_local_port_range", "50000 60999")?;
    // Ping sockets for root, both families.
    netns.sysctl("ipv4/ping_group_range", "0 0")?;
    Ok(netns)
}

/// Connects everything, but for pods whose network others make.
pub(super) fn connect(topology: &Topology, links: Links, wiring: Wiring) -> Result<()> {
    for name in ["node1", "node2"] {
        forward(&topology.place(name)?.netns)?;
    }
    forward(&topology.router)?;
    for (name, gateway, bits4, bits6) in CLIENT_LINKS {
        client(&topology.router, topology.place(name)?, gateway, (bits4, bits6), links.client)?;
    }
    bridge(&topology.router, links.underlay)?;
    for number in 1..=NODES {
        underlay(&topology.router, topology.place(&format!("node{number}"))?, links.underlay)?;
    }
    if wiring == Wiring::ByHand {
        for (number, _, letter) in pods() {
            pod(topology, topology.place(&format!("{number}{letter}"))?, links)?;
        }
        for number in 1..=NODES {
            topology.place(&format!("node{number}"))?.netns.ip_lines(&to_other_pods(number))?;
        }
    }
    routes(topology)
}

pub(super) fn second_link(topology: &Topology, node: &Place, links: Links) -> Result<()> {
    ensure!(node.is_node(), "{} is no node", node.name);
    let (router, device) = (&topology.router, format!("{}b", node.name));
    pair(router, &device, &node.netns, "eth1", links.underlay)?;
    let [there, here] = SECOND_LINK;
    router.ip_lines(&[
        format!("addr add {}/30 dev {device}", there.v4),
        format!("addr add {}/64 dev {device} nodad", there.v6),
    ])?;
    node.netns.ip_lines(&[
        format!("addr add {}/30 dev eth1", here.v4),
        format!("addr add {}/64 dev eth1 nodad", here.v6),
        format!("route replace 0.0.0.0/0 via {}", there.v4),
        format!("route replace ::/0 via {}", there.v6),
    ])
}

/// With the first end of a pair its other end, the addresses and the routes are gone too.
pub(super) fn reconnect(topology: &Topology, place: &Place, links: Links) -> Result<()> {
    place.netns.ip("link del eth0")?;
    if !place.is_node() {
        ensure!(place.is_inside(), "{} is outside", place.name);
        return pod(topology, place, links);
    }
    underlay(&topology.router, place, links.underlay)?;
    place.netns.ip_lines(&to_other_pods(place.node))
}

fn forward(netns: &Netns) -> Result<()> {
    netns.sysctl("ipv4/ip_forward", "1")?;
    netns.sysctl("ipv6/conf/all/forwarding", "1")
}

/// A veth pair with both ends up.
fn pair(a: &Netns, left: &str, b: &Netns, right: &str, mtu: u32) -> Result<()> {
    a.ip(&format!("link add {left} mtu {mtu} type veth peer name {right} mtu {mtu} netns {}", b.path()))?;
    a.ip(&format!("link set {left} up"))?;
    b.ip(&format!("link set {right} up"))
}

fn client(router: &Netns, client: &Place, gateway: Pair, bits: (u8, u8), mtu: u32) -> Result<()> {
    let (name, Pair { v4, v6 }) = (&client.name, client.addresses);
    pair(router, name, &client.netns, "eth0", mtu)?;
    let (bits4, bits6) = bits;
    router.ip_lines(&[
        format!("addr add {}/{bits4} dev {name}", gateway.v4),
        format!("addr add {}/{bits6} dev {name} nodad", gateway.v6),
    ])?;
    client.netns.ip_lines(&[
        format!("addr add {v4}/{bits4} dev eth0"),
        format!("addr add {v6}/{bits6} dev eth0 nodad"),
        format!("route add 0.0.0.0/0 via {}", gateway.v4),
        format!("route add ::/0 via {}", gateway.v6),
    ])
}

/// Without snooping, which would have to learn who listens before neighbours are found.
fn bridge(router: &Netns, mtu: u32) -> Result<()> {
    router.ip_lines(&[
        format!("link add {BRIDGE} mtu {mtu} type bridge stp_state 0 mcast_snooping 0"),
        format!("link set {BRIDGE} up"),
        format!("addr add {}/24 dev {BRIDGE}", ROUTER.v4),
        format!("addr add {}/64 dev {BRIDGE} nodad", ROUTER.v6),
    ])
}

fn underlay(router: &Netns, node: &Place, mtu: u32) -> Result<()> {
    let Pair { v4, v6 } = node.addresses;
    pair(router, &node.name, &node.netns, "eth0", mtu)?;
    router.ip(&format!("link set {} master {BRIDGE}", node.name))?;
    node.netns.ip_lines(&[
        format!("addr add {v4}/24 dev eth0"),
        format!("addr add {v6}/64 dev eth0 nodad"),
        format!("route add 0.0.0.0/0 via {}", ROUTER.v4),
        format!("route add ::/0 via {}", ROUTER.v6),
    ])
}

/// As CNI plugins that route do: /32 and /128 addresses, a link-local gateway, the node's address for the node itself.
fn pod(topology: &Topology, pod: &Place, links: Links) -> Result<()> {
    let (node, device, Pair { v4, v6 }) = (node_of(topology, pod)?, device_of(pod), pod.addresses);
    let [first, second] = links.pods;
    pair(&node.netns, &device, &pod.netns, "eth0", if pod.node == 1 { first } else { second })?;
    node.netns.ip_lines(&[
        format!("addr add 169.254.1.1/32 dev {device} scope link"),
        format!("addr add fe80::1/64 dev {device} nodad"),
        format!("route add {v4}/32 dev {device} src {}", node.addresses.v4),
        format!("route add {v6}/128 dev {device} src {}", node.addresses.v6),
    ])?;
    pod.netns.ip_lines(&[
        format!("addr add {v4}/32 dev eth0"),
        format!("addr add {v6}/128 dev eth0 nodad"),
        "route add 169.254.1.1 dev eth0 scope link".to_owned(),
        "route add 0.0.0.0/0 via 169.254.1.1 dev eth0".to_owned(),
        "route add ::/0 via fe80::1 dev eth0".to_owned(),
    ])
}

fn node_of<'a>(topology: &'a Topology, pod: &Place) -> Result<&'a Place> {
    topology.place(&format!("node{}", pod.node))
}

/// The node's end of a pod's link.
fn device_of(pod: &Place) -> String {
    format!("pod-{}", pod.name)
}

/// What the router knows: everything.
fn routes(topology: &Topology) -> Result<()> {
    let mut router: Vec<String> = NOWHERE.map(|nowhere| format!("route add blackhole {nowhere}")).to_vec();
    for number in 1..=NODES {
        router.extend(via(&pods_of(number), node(number)));
    }
    router.extend(via(&VIPS_1, node(1)));
    router.extend(via(&VIPS_2, node(2)));
    router.extend(via(&CLUSTER_IPS, node(1)));
    // Nobody's pod: refused by the router, so that nothing goes in circles between it and the nodes.
    router.extend(ALL_PODS.map(|pods| format!("route add unreachable {pods}")));
    topology.router.ip_lines(&router)
}

fn to_other_pods(number: u8) -> Vec<String> {
    let others = (1..=NODES).filter(|other| *other != number);
    others.flat_map(|other| via(&pods_of(other), node(other))).collect()
}

/// A route's `mtu` counts as its device's when packets are forwarded.
pub(super) fn narrow(topology: &Topology, place: &Place, mtu: u32) -> Result<()> {
    let (at, device) = if place.is_inside() {
        (&node_of(topology, place)?.netns, device_of(place))
    } else {
        (&topology.router, place.name.clone())
    };
    let Pair { v4, v6 } = place.addresses;
    at.ip_lines(&[
        format!("route replace {v4}/32 dev {device} mtu {mtu}"),
        format!("route replace {v6}/128 dev {device} mtu {mtu}"),
    ])
}

fn via(prefixes: &[impl AsRef<str>; 2], gateway: Pair) -> [String; 2] {
    let [v4, v6] = prefixes;
    [
        format!("route add {} via {}", v4.as_ref(), gateway.v4),
        format!("route add {} via {}", v6.as_ref(), gateway.v6),
    ]
}
