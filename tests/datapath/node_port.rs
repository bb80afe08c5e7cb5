//! NodePorts: on the node's own addresses, and on loopback from the node's own namespace only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use sheave_tests::client::{ask_connected, ask_tcp, connected_udp, mapped};
use sheave_tests::lab::{NODE_V4, NODE_V6};
use sheave_tests::objects::{elsewhere, node_port, ready};

use crate::world::{REFUSED, World, errno, vip_service};

const NODE_PORT: u16 = 30_080;

fn at(address: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(address.into(), NODE_PORT)
}

fn world_with_node_port(protocol: &str) -> World {
    let mut world = World::new();
    let endpoints = world.endpoints(&["a", "b", "c"]);
    world.publish(&node_port(vip_service(protocol), NODE_PORT), &endpoints);
    world
}

#[test]
fn a_node_port_answers_on_the_nodes_addresses_from_pods_and_from_the_node() {
    let world = world_with_node_port("TCP");
    for to in [at(NODE_V4), at(NODE_V6), mapped(NODE_V4, NODE_PORT)] {
        assert_eq!(world.in_pod(|| ask_tcp(to)).unwrap().1, to);
        assert_eq!(world.on_node(|| ask_tcp(to)).unwrap().1, to);
    }
}

#[test]
fn a_node_port_answers_on_loopback_from_the_node_only() {
    let world = world_with_node_port("TCP");
    for to in [at(Ipv4Addr::LOCALHOST), at(Ipv6Addr::LOCALHOST), mapped(Ipv4Addr::LOCALHOST, NODE_PORT)] {
        assert_eq!(world.on_node(|| ask_tcp(to)).unwrap().1, to);
        assert_eq!(errno(world.in_pod(|| ask_tcp(to))), REFUSED, "a pod's loopback is its own");
    }
}

#[test]
fn a_udp_node_port_answers_too() {
    let world = world_with_node_port("UDP");
    for to in [at(NODE_V4), at(NODE_V6), at(Ipv4Addr::LOCALHOST)] {
        let answer = world.on_node(|| ask_connected(&connected_udp(to).unwrap())).unwrap();
        assert_eq!(answer.1, to);
    }
}

/// On its own node a pod gets the Cluster list whatever externalTrafficPolicy says.
#[test]
fn an_own_node_port_uses_remote_endpoints_under_local_policy() {
    let mut world = World::new();
    let mut service = node_port(vip_service("TCP"), NODE_PORT);
    service.external_policy = "Local".into();
    let away = [elsewhere(ready(world.pods["b"].v4))];
    world.publish(&service, &away);
    assert_eq!(world.in_pod(|| ask_tcp(at(NODE_V4))).unwrap().0, "b");
}

/// Another node answers its NodePort itself; here a route with an errno of its own stands for it.
#[test]
fn another_nodes_port_is_left_alone() {
    let mut world = World::new();
    let mut service = node_port(vip_service("TCP"), NODE_PORT);
    service.external_policy = "Local".into();
    let endpoints = world.endpoints(&["a"]);
    world.publish(&service, &endpoints);
    world.lab.node.ip("route add prohibit 198.51.100.7/32").unwrap();
    let other_node = at(Ipv4Addr::new(198, 51, 100, 7));
    assert_eq!(errno(world.on_node(|| ask_tcp(other_node))), crate::world::PROHIBITED, "the route's answer");
}

#[test]
fn other_ports_of_the_node_are_the_nodes() {
    let world = world_with_node_port("TCP");
    let server = sheave_tests::server::Server::start(&world.lab.node, "node", NODE_V4.into(), 9090).unwrap();
    assert_eq!(world.in_pod(|| ask_tcp(server.address())).unwrap().0, "node");
    let closed = SocketAddr::new(NODE_V4.into(), 9091);
    assert_eq!(errno(world.in_pod(|| ask_tcp(closed))), REFUSED);
}
