//! Every pod reaches every other, both families, in each mode.

use std::net::{IpAddr, SocketAddr};

use sheave_tests::wait::wait_for;

use crate::rig::{LIMIT, NODES, Rig, Underlay, node_v4, node_v6, pairs, pod, shown};

/// Everything in both families, with whom the other side saw; and datagrams of the full MTU without a fragment.
fn all_reach_all(rig: &Rig) {
    rig.await_all_reach_all();
    let mtus = rig.adopt_mtu();
    let fragments = |rig: &Rig| -> u64 { (1..=NODES).map(|it| rig.fragments(rig.node(it))).sum() };
    let before = fragments(rig);
    for (from, to) in pairs() {
        for (own, address) in pod(from).into_iter().zip(pod(to)) {
            let seen = rig.ask(rig.pod_netns(from), rig.pod_netns(to), address).unwrap();
            assert_eq!(seen, own, "pod {from} to {address}");
            let mtu = mtus[usize::from(from) - 1];
            assert!(
                rig.largest_datagram_arrives(from, to, address, mtu),
                "{mtu} bytes, pod {from} to {address}"
            );
            rig.ask(rig.node(from), rig.pod_netns(to), address).unwrap();
        }
    }
    assert_eq!(fragments(rig), before, "a node made fragments");
}

#[test]
fn pods_reach_each_other_directly_on_one_link_and_through_the_tunnel_behind_a_router() {
    let mut rig = Rig::new(Underlay::Both);
    rig.start(&[]);
    all_reach_all(&rig);
    let routes = rig.routes(1);
    let direct = [
        format!("10.244.2.0/24 via {} dev eth0", node_v4(2)),
        format!("fd00:10:244:2::/64 via {} dev eth0 metric 1024 pref medium", node_v6(2)),
    ];
    for route in &direct {
        assert!(routes.contains(route), "{routes:#?}");
    }
    for network in ["10.244.3.0/24", "fd00:10:244:3::/64"] {
        let is_it = |route: &&String| route.starts_with(network) && route.contains("dev sheave.vxlan");
        assert_eq!(routes.iter().filter(is_it).count(), 1, "{routes:#?}");
    }
    assert_eq!(routes.iter().filter(|route| route.starts_with("unreachable")).count(), 2);
    for number in 1..=NODES {
        let facts = rig.facts(number).unwrap();
        assert_eq!(facts.mtu, 1450);
        let inner = format!("10.244.{number}.0").parse().unwrap();
        for address in [inner, node_v4(number).into(), node_v6(number).into()] {
            assert!(facts.node_addresses.contains(&address), "{facts:?}");
        }
    }
}

#[test]
fn pods_reach_each_other_through_the_tunnel_alone() {
    let mut rig = Rig::new(Underlay::Both);
    rig.start(&["--routing", "vxlan", "--vxlan-vni", "4790", "--vxlan-port", "4789"]);
    all_reach_all(&rig);
    assert!(rig.routes(1).iter().all(|route| !route.contains("eth0")), "{:?}", rig.routes(1));
    let device = shown(rig.node(1), &["-d", "link", "show", "sheave.vxlan"]);
    for part in ["vxlan id 4790", "dstport 4789", "nolearning", "local 192.0.2.1", "mtu 1450"] {
        assert!(device.contains(part), "{part}: {device}");
    }
}

#[test]
fn an_underlay_of_ipv6_alone_carries_pods_of_both_families() {
    let mut rig = Rig::new(Underlay::OnlyV6);
    rig.start(&[]);
    all_reach_all(&rig);
    // No node has an IPv4 address, so IPv4 takes the tunnel also on one link.
    rig.await_route(1, "10.244.2.0/24", Some("dev sheave.vxlan"));
    rig.await_route(1, "fd00:10:244:2::/64", Some("dev eth0"));
    assert_eq!(rig.facts(1).unwrap().mtu, 1430);
}

#[test]
fn without_routing_the_plugin_is_told_and_no_route_is_made() {
    let mut rig = Rig::new(Underlay::Both);
    rig.start(&["--routing", "none", "--pod-mtu", "1400"]);
    assert!(rig.routes(1).is_empty());
    let facts = rig.facts(1).unwrap();
    let cidrs: Vec<String> = facts.pod_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!((facts.mtu, cidrs), (1400, vec!["10.244.1.0/24".into(), "fd00:10:244:1::/64".into()]));
    for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let value = rig.node(1).run(|| std::fs::read_to_string(format!("/proc/sys/net/{switch}")).unwrap());
        assert_eq!(value.trim(), "1", "{switch}");
    }
}

#[test]
fn only_direct_ways_give_no_route_to_a_node_behind_a_router_and_the_whole_mtu() {
    let mut rig = Rig::new(Underlay::Both);
    rig.start(&["--routing", "direct"]);
    rig.await_route(1, "10.244.2.0/24", Some("dev eth0"));
    rig.await_route(1, "10.244.3.0/24", None);
    assert_eq!(rig.facts(1).unwrap().mtu, 1500);
    assert!(
        rig.log(1).contains("a router is between this node and its address 198.51.100.3"),
        "{}",
        rig.log(1)
    );
}

#[test]
fn a_node_port_leads_through_the_tunnel_to_a_pod_behind_a_router() {
    let mut rig = Rig::new(Underlay::Both);
    rig.start(&[]);
    rig.await_all_reach_all();
    rig.adopt_mtu();
    let [v4, v6] = pod(3);
    let slice = |name: &str, family: &str, address: IpAddr| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: \
             {{kubernetes.io/service-name: web}}}}\naddressType: {family}\nports: [{{name: '', port: 8080, protocol: \
             TCP}}]\nendpoints: [{{addresses: ['{address}'], nodeName: n3}}]\n"
        )
    };
    rig.serve(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  type: NodePort\n  clusterIPs: [10.96.0.10, \
         'fd00:10:96::10']\n  ports: [{{port: 80, nodePort: 30080}}]\n{}{}",
        slice("web4", "IPv4", v4),
        slice("web6", "IPv6", v6)
    ));
    let node: [(IpAddr, IpAddr); 2] = [(node_v4(1).into(), v4), (node_v6(1).into(), v6)];
    for (address, backend) in node {
        let (service, backend) = (SocketAddr::new(address, 30080), SocketAddr::new(backend, 8080));
        let ask = || rig.ask_service(&rig.router, service, rig.pod_netns(3), backend);
        let seen = wait_for(format!("{service} is served"), LIMIT, || Ok(ask().ok())).unwrap();
        // The node's own address in the tunnel, so that the answer comes back through it.
        let inner: [IpAddr; 2] = ["10.244.1.0".parse().unwrap(), "fd00:10:244:1::".parse().unwrap()];
        assert!(inner.contains(&seen), "{seen}");
    }
}
