//! Plans: tables for each rule, and properties over generated clusters.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use proptest::prelude::*;

use super::*;
use crate::model::NodeAddress;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn node(name: &str, addresses: &[&str], cidrs: &[&str]) -> NodeObject {
    let address = |it: &&str| NodeAddress { kind: "InternalIP".into(), address: (*it).into() };
    NodeObject {
        name: name.into(),
        addresses: addresses.iter().map(address).collect(),
        pod_cidrs: cidrs.iter().map(|it| (*it).to_owned()).collect(),
        ..NodeObject::default()
    }
}

fn all(nodes: Vec<NodeObject>) -> Nodes {
    nodes.into_iter().map(|node| (node.name.clone(), node)).collect()
}

fn settings(mode: Mode) -> Settings {
    Settings { node_name: "n1".into(), mode, vni: 1, port: 8472, ..Settings::default() }
}

/// Node n1 with both families on device 2, others on the link except those named.
fn underlay(nodes: &Nodes, behind_router: &[&str], lost: &[&str]) -> Underlay {
    let uplink = Uplink { device: 2, mtu: 1500 };
    let way = |address: &IpAddr| {
        let text = address.to_string();
        let is_on_link = !behind_router.contains(&text.as_str());
        (!lost.contains(&text.as_str())).then_some((*address, Way { device: 2, mtu: 1500, is_on_link }))
    };
    Underlay {
        addresses: [(ip("192.0.2.1"), uplink), (ip("2001:db8::1"), uplink)].into(),
        primary: [ip("192.0.2.1"), ip("2001:db8::1")].into(),
        ways: peer_addresses(nodes, &settings(Mode::Auto)).iter().filter_map(way).collect(),
    }
}

fn three() -> Nodes {
    all(vec![
        node("n1", &["192.0.2.1", "2001:db8::1"], &["10.244.1.0/24", "fd00:1::/64"]),
        node("n2", &["192.0.2.2", "2001:db8::2"], &["10.244.2.0/24", "fd00:2::/64"]),
        node("n3", &["198.51.100.3", "2001:db8:b::3"], &["10.244.3.0/24", "fd00:3::/64"]),
    ])
}

const FAR: &[&str] = &["198.51.100.3", "2001:db8:b::3"];

fn target(plan: &Plan, network: &str) -> String {
    match plan.routes.get(&net(network)) {
        None => "none".into(),
        Some(Target::Direct { gateway, device }) => format!("{gateway} on {device}"),
        Some(Target::Tunnel { gateway }) => format!("tunnel {gateway}"),
        Some(Target::Unreachable) => "nowhere".into(),
    }
}

#[test]
fn each_mode_takes_the_ways_that_it_may() {
    let direct = ["192.0.2.2 on 2", "2001:db8::2 on 2"];
    let near = ["tunnel 10.244.2.0", "tunnel fd00:2::"];
    let far = ["tunnel 10.244.3.0", "tunnel fd00:3::"];
    let none = ["none", "none"];
    // Mode, node 2, node 3, own prefix, MTU, tunnel.
    let cases = [
        (Mode::Auto, direct, far, "nowhere", 1450, true),
        (Mode::Direct, direct, none, "nowhere", 1500, false),
        (Mode::Vxlan, near, far, "nowhere", 1450, true),
        (Mode::None, none, none, "none", 1500, false),
    ];
    for (mode, second, third, own, mtu, has_tunnel) in cases {
        let nodes = three();
        let plan = plan(&nodes, &settings(mode), &underlay(&nodes, FAR, &[]));
        assert_eq!(["10.244.2.0/24", "fd00:2::/64"].map(|it| target(&plan, it)), second, "{mode:?}");
        assert_eq!(["10.244.3.0/24", "fd00:3::/64"].map(|it| target(&plan, it)), third, "{mode:?}");
        assert_eq!(target(&plan, "10.244.1.0/24"), own, "{mode:?}");
        assert_eq!((plan.mtu, plan.tunnel.is_some()), (mtu, has_tunnel), "{mode:?}");
        assert_eq!(plan.remarks.is_empty(), mode != Mode::Direct, "{mode:?}: {:?}", plan.remarks);
        assert_eq!(plan.obstacle, None);
        for inside in ["10.244.1.0/24", "fd00:2::/64", "10.244.3.0/24", "192.0.2.2/32", "2001:db8::1/128"] {
            assert!(plan.inside.contains(&net(inside)), "{mode:?}: {inside}");
        }
        assert_eq!(plan.inside.len(), 12, "{mode:?}");
        let tunnels = second.iter().chain(&third).filter(|target| target.starts_with("tunnel")).count();
        assert_eq!(plan.behind_tunnel.len(), tunnels, "{mode:?}");
        assert!(plan.behind_tunnel.is_subset(&plan.inside), "{mode:?}");
    }
}

#[test]
fn the_tunnel_has_an_address_of_each_prefix_and_an_end_for_each_node_behind_it() {
    let nodes = three();
    let tunnel = plan(&nodes, &settings(Mode::Auto), &underlay(&nodes, FAR, &[])).tunnel.unwrap();
    assert_eq!((tunnel.local, tunnel.mtu, tunnel.mac), (ip("192.0.2.1"), 1450, vtep_mac("n1")));
    assert_eq!(tunnel.addresses, BTreeSet::from([ip("10.244.1.0"), ip("fd00:1::")]));
    let gateways = [ip("10.244.3.0"), ip("fd00:3::")].into();
    let peer = TunnelPeer { address: ip("198.51.100.3"), gateways };
    assert_eq!(tunnel.peers, BTreeMap::from([(vtep_mac("n3"), peer)]));
    assert_eq!(vtep_mac("n1")[0] & 0b11, 0b10, "unicast, locally administered");
    assert_ne!(vtep_mac("n1"), vtep_mac("n2"));
    // All nodes must come to the same, whatever version they run.
    assert_eq!(vtep_mac("n1"), [0x06, 0x07, 0xb5, 0x58, 0xd4, 0xc0]);
}

#[test]
fn a_prefix_of_one_or_two_addresses_leaves_none_for_the_tunnel() {
    let mut nodes = three();
    nodes.get_mut("n1").unwrap().pod_cidrs = vec!["10.244.1.7/32".into(), "fd00:1::/127".into()];
    let tunnel = plan(&nodes, &settings(Mode::Auto), &underlay(&nodes, FAR, &[])).tunnel.unwrap();
    assert!(tunnel.addresses.is_empty());
}

#[test]
fn while_a_node_cannot_be_reached_it_gets_no_route_and_pods_the_mtu_that_it_may_need() {
    let nodes = three();
    let plan = plan(&nodes, &settings(Mode::Auto), &underlay(&nodes, FAR, FAR));
    assert_eq!((target(&plan, "10.244.3.0/24").as_str(), plan.mtu), ("none", 1450));
    assert!(plan.tunnel.is_none());
    assert!(plan.remarks.iter().all(|it| it.text.contains("no route to its address")), "{:?}", plan.remarks);
}

#[test]
fn an_underlay_of_ipv6_costs_seventy_bytes_and_carries_both_families() {
    let mut nodes = three();
    for node in nodes.values_mut() {
        node.addresses.retain(|entry| entry.address.contains(':'));
    }
    let mut underlay = underlay(&nodes, FAR, &[]);
    underlay.addresses.remove(&ip("192.0.2.1"));
    underlay.primary.remove(&ip("192.0.2.1"));
    let plan = plan(&nodes, &settings(Mode::Auto), &underlay);
    assert_eq!(target(&plan, "10.244.2.0/24"), "tunnel 10.244.2.0");
    assert_eq!(target(&plan, "fd00:2::/64"), "2001:db8::2 on 2");
    assert_eq!((plan.tunnel.unwrap().local, plan.mtu), (ip("2001:db8::1"), 1430));
}

#[test]
fn the_least_mtu_of_what_is_used_counts_and_the_administrators_before_all() {
    let nodes = three();
    let mut underlay = underlay(&nodes, FAR, &[]);
    underlay.ways.get_mut(&ip("192.0.2.2")).unwrap().mtu = 1400;
    underlay.ways.get_mut(&ip("198.51.100.3")).unwrap().mtu = 1440;
    let mtus = |settings: &Settings| {
        let plan = plan(&nodes, settings, &underlay);
        (plan.mtu, plan.tunnel.map(|tunnel| tunnel.mtu))
    };
    assert_eq!(mtus(&settings(Mode::Auto)), (1390, Some(1390)));
    assert_eq!(mtus(&settings(Mode::Direct)), (1400, None));
    assert_eq!(mtus(&Settings { pod_mtu: Some(1300), ..settings(Mode::Auto) }), (1300, Some(1390)));
}

#[test]
fn prefixes_that_would_cut_off_nodes_or_pods_get_no_route() {
    let cases: [(&str, &[&str], &[&str], &str); 7] = [
        ("overlaps this node's", &["192.0.2.9"], &["10.244.1.128/25"], "overlaps one of node n1"),
        ("contains those of others", &["192.0.2.9"], &["10.244.0.0/16"], "overlaps one of node"),
        ("equals an earlier node's", &["192.0.2.9"], &["10.244.2.0/24"], "overlaps one of node n2"),
        ("everything", &["192.0.2.9"], &["0.0.0.0/0"], "holds the address 192.0.2.1 of a node"),
        ("nodes", &["192.0.2.9"], &["2001:db8::/64"], "holds the address 2001:db8::1 of a node"),
        ("not a prefix", &["192.0.2.9"], &["10.244.9.0"], "which is not a prefix"),
        ("this node again", &["192.0.2.1"], &["10.244.9.0/24"], "has an address of this node"),
    ];
    for (case, addresses, cidrs, reason) in cases {
        let mut nodes = three();
        nodes.insert("n9".into(), node("n9", addresses, cidrs));
        let plain = plan(&three(), &settings(Mode::Vxlan), &underlay(&three(), FAR, &[]));
        let plan = plan(&nodes, &settings(Mode::Vxlan), &underlay(&nodes, FAR, &[]));
        assert_eq!(plan.routes, plain.routes, "{case}");
        let texts: Vec<_> = plan.remarks.iter().map(|it| (it.node.as_str(), it.text.as_str())).collect();
        assert!(matches!(texts[..], [("n9", text)] if text.contains(reason)), "{case}: {texts:?}");
    }
}

#[test]
fn what_keeps_pods_from_being_served_is_said_with_the_remedy() {
    let nodes = three();
    let obstacle = |nodes: &Nodes, settings: &Settings| {
        plan(nodes, settings, &underlay(nodes, FAR, &[])).obstacle.unwrap_or_default()
    };
    let stranger = Settings { node_name: "n7".into(), ..settings(Mode::Auto) };
    assert!(obstacle(&nodes, &stranger).contains("there is no Node `n7`"));
    let mut bare = nodes.clone();
    bare.get_mut("n1").unwrap().pod_cidrs.clear();
    assert!(obstacle(&bare, &settings(Mode::Auto)).contains("--allocate-node-cidrs"));
    let told = Settings { pod_cidrs: vec![net("10.9.0.5/24")], ..settings(Mode::Auto) };
    assert_eq!(obstacle(&bare, &told), "");
    assert_eq!(plan(&bare, &told, &underlay(&bare, FAR, &[])).pod_cidrs, [net("10.9.0.0/24")]);
    let off = plan(&nodes, &settings(Mode::Vxlan), &Underlay::default());
    assert!(off.obstacle.unwrap().contains("no device of Node `n1` has an address"));
}

#[test]
fn without_an_internal_address_of_its_own_the_node_is_known_by_what_it_sends_from() {
    let mut nodes = three();
    nodes.get_mut("n1").unwrap().addresses.clear();
    let plan = plan(&nodes, &settings(Mode::Auto), &underlay(&nodes, FAR, &[]));
    assert_eq!((plan.tunnel.unwrap().local, plan.obstacle), (ip("192.0.2.1"), None));
}

/// A cluster where prefixes and addresses collide now and then, and what the kernel says of it.
fn cluster() -> impl Strategy<Value = (Nodes, Underlay, Mode)> {
    let cidrs = prop::collection::vec((0_u8..8, 20_u8..26, any::<bool>()), 0..3);
    let one = (0_u8..12, any::<bool>(), any::<bool>(), cidrs, 0_u8..3);
    let mode = prop_oneof![Just(Mode::Auto), Just(Mode::Direct), Just(Mode::Vxlan), Just(Mode::None)];
    (prop::collection::vec(one, 1..7), mode).prop_map(|(members, mode)| {
        let (mut nodes, mut ways) = (Nodes::new(), BTreeMap::new());
        for (index, (host, has_v4, has_v6, cidrs, way)) in members.into_iter().enumerate() {
            let (v4, v6) = (format!("192.0.2.{host}"), format!("2001:db8::{host}"));
            let mut addresses = Vec::new();
            addresses.extend(has_v4.then_some(v4.as_str()));
            addresses.extend(has_v6.then_some(v6.as_str()));
            let cidr = |(net, bits, is_v4): (u8, u8, bool)| {
                if is_v4 { format!("10.244.{net}.0/{bits}") } else { format!("fd00:{net}::/{}", bits + 40) }
            };
            let cidrs: Vec<String> = cidrs.into_iter().map(cidr).collect();
            let cidrs: Vec<&str> = cidrs.iter().map(String::as_str).collect();
            let name = format!("n{}", index + 1);
            if way < 2 {
                let known = Way { device: 2, mtu: 1500, is_on_link: way == 0 };
                ways.extend(addresses.iter().map(|address| (ip(address), known)));
            }
            nodes.insert(name.clone(), node(&name, &addresses, &cidrs));
        }
        let uplink = Uplink { device: 2, mtu: 1500 };
        let own: Vec<IpAddr> = nodes["n1"].addresses.iter().map(|entry| ip(&entry.address)).collect();
        let addresses = own.into_iter().map(|address| (address, uplink)).collect();
        (nodes, Underlay { addresses, primary: BTreeSet::new(), ways }, mode)
    })
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn routes_never_overlap_nor_take_a_nodes_address_and_each_is_explained((nodes, underlay, mode) in cluster()) {
        let plan = plan(&nodes, &settings(mode), &underlay);
        let routes: Vec<_> = plan.routes.iter().collect();
        for (place, (network, target)) in routes.iter().enumerate() {
            for (other, _) in &routes[place + 1..] {
                prop_assert!(!overlap(**network, **other), "{network} {other}");
            }
            for address in underlay.addresses.keys().chain(underlay.ways.keys()) {
                prop_assert!(!network.contains(*address), "{network} holds {address}");
            }
            match target {
                Target::Unreachable => prop_assert!(plan.pod_cidrs.contains(network)),
                Target::Direct { gateway, .. } => {
                    prop_assert!(mode != Mode::Vxlan && underlay.ways[gateway].is_on_link);
                    prop_assert_eq!(gateway.is_ipv4(), network.is_ipv4());
                    prop_assert!(!underlay.addresses.contains_key(gateway));
                }
                Target::Tunnel { gateway } => {
                    let tunnel = plan.tunnel.as_ref().unwrap();
                    let ends = tunnel.peers.values().filter(|peer| peer.gateways.contains(gateway));
                    prop_assert_eq!(ends.count(), 1);
                    prop_assert!(mode != Mode::Direct && network.contains(*gateway));
                }
            }
        }
        prop_assert!(mode != Mode::None || plan.routes.is_empty());
        // Whoever has a prefix without a route is named.
        if mode != Mode::None {
            for node in nodes.values().filter(|node| node.name != "n1") {
                let routed = |text: &String| plan.routes.contains_key(&whole(text));
                let named = plan.remarks.iter().any(|remark| remark.node == node.name);
                prop_assert!(named || node.pod_cidrs.iter().all(routed), "{}: {:?}", node.name, plan.remarks);
            }
        }
    }

    #[test]
    fn a_node_that_is_gone_leaves_nothing((mut nodes, underlay, mode) in cluster()) {
        let Some((name, gone)) = nodes.iter().rfind(|(name, _)| *name != "n1") else { return Ok(()) };
        let (name, gone) = (name.clone(), gone.clone());
        nodes.remove(&name);
        let plan = plan(&nodes, &settings(mode), &underlay);
        let others: BTreeSet<IpNetwork> = nodes.values().flat_map(|node| &node.pod_cidrs).map(whole).collect();
        for network in gone.pod_cidrs.iter().map(whole).filter(|network| !others.contains(network)) {
            prop_assert!(!plan.routes.contains_key(&network));
        }
        prop_assert!(plan.tunnel.is_none_or(|tunnel| !tunnel.peers.contains_key(&vtep_mac(&name))));
    }
}

fn whole(text: impl AsRef<str>) -> IpNetwork {
    let network = net(text.as_ref());
    IpNetwork::new(network.network(), network.prefix()).unwrap()
}
