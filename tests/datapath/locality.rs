//! External addresses from inside the cluster, and topology.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use sheave_tests::client::ask_tcp;
use sheave_tests::objects::{elsewhere, exposed, ready};

use crate::world::{PORT, World, vip, vip_service};

const EXTERNAL: [u8; 4] = [203, 0, 113, 5];
const BALANCER: [u8; 4] = [203, 0, 113, 9];

/// "Short circuit": a client inside gets the Cluster list at an external address, even with no endpoint on its node.
#[test]
fn external_addresses_use_the_cluster_list_from_inside() {
    let mut world = World::new();
    let mut service = exposed(vip_service("TCP"), "203.0.113.5", "203.0.113.9");
    service.external_policy = "Local".into();
    let away = [elsewhere(ready(world.pods["a"].v4)), elsewhere(ready(world.pods["b"].v4))];
    world.publish(&service, &away);
    for address in [EXTERNAL, BALANCER] {
        let to = SocketAddr::new(IpAddr::from(address), PORT);
        let seen: BTreeSet<String> = world.in_pod(|| (0..40).map(|_| ask_tcp(to).unwrap().0).collect());
        assert_eq!(seen, BTreeSet::from(["a", "b"].map(String::from)), "{to}");
    }
}

#[test]
fn other_ports_of_an_external_address_are_left_alone() {
    let mut world = World::new();
    let endpoints = world.endpoints(&["a"]);
    world.publish(&exposed(vip_service("TCP"), "203.0.113.5", "203.0.113.9"), &endpoints);
    world.lab.node.ip("route add prohibit 203.0.113.0/24").unwrap();
    for address in [EXTERNAL, BALANCER] {
        let to = SocketAddr::new(IpAddr::from(address), PORT + 1);
        assert_eq!(
            crate::world::errno(world.on_node(|| ask_tcp(to))),
            crate::world::PROHIBITED,
            "the route's answer"
        );
    }
}

#[test]
fn local_internal_policy_uses_only_this_nodes_endpoints() {
    let mut world = World::new();
    let mut service = vip_service("TCP");
    service.internal_policy = "Local".into();
    let endpoints = [
        ready(world.pods["a"].v4),
        elsewhere(ready(world.pods["b"].v4)),
        elsewhere(ready(world.pods["c"].v4)),
    ];
    world.publish(&service, &endpoints);
    let seen: BTreeSet<String> = world.in_pod(|| (0..30).map(|_| ask_tcp(vip()).unwrap().0).collect());
    assert_eq!(seen, BTreeSet::from(["a".to_owned()]));
}
