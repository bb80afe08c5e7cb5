//! TCP through a Service's address.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use sheave_tests::client::{ask_tcp, mapped};

use crate::world::{PORT, TARGET, VIP, World, vip, vip6};

/// One row for each way to name the Service: the backend answers, and the peer shown is what was asked for.
#[test]
fn a_connection_reaches_a_backend_and_shows_the_service_as_its_peer() {
    let world = World::with_service("TCP");
    for (name, to) in [("IPv4", vip()), ("IPv6", vip6()), ("IPv4-mapped", mapped(VIP, PORT))] {
        let from_pod = world.in_pod(|| ask_tcp(to)).unwrap();
        let from_node = world.on_node(|| ask_tcp(to)).unwrap();
        for (backend, peer) in [from_pod, from_node] {
            assert!(world.pods.contains_key(&backend), "{name}: {backend}");
            assert_eq!(peer, to, "{name}");
        }
    }
}

#[test]
fn connections_are_spread_over_all_backends() {
    let world = World::with_service("TCP");
    let seen: BTreeSet<String> = world.in_pod(|| (0..60).map(|_| ask_tcp(vip()).unwrap().0).collect());
    assert_eq!(seen, BTreeSet::from(["a", "b", "c"].map(String::from)));
}

#[test]
fn a_backend_that_is_asked_directly_is_left_alone() {
    let world = World::with_service("TCP");
    let direct = SocketAddr::new(world.pods["b"].v4.into(), TARGET);
    assert_eq!(world.in_pod(|| ask_tcp(direct)).unwrap(), ("b".into(), direct));
}

#[test]
fn a_new_backend_is_used_and_a_removed_one_is_not() {
    let mut world = World::with_service("TCP");
    let only_c = world.endpoints(&["c"]);
    world.publish(&crate::world::vip_service("TCP"), &only_c);
    for to in [vip(), vip6()] {
        let seen: BTreeSet<String> = world.in_pod(|| (0..20).map(|_| ask_tcp(to).unwrap().0).collect());
        assert_eq!(seen, BTreeSet::from(["c".to_owned()]), "{to}");
    }
}

/// Conformance since Kubernetes 1.29: one port number, two protocols, each with a life of its own.
#[test]
fn tcp_and_udp_on_one_port_do_not_touch_each_other() {
    let mut world = World::new();
    let mut both = crate::world::vip_service("TCP");
    both.ports[0].name = "tcp".into();
    both.ports.push(proxy_core::model::PortObject {
        name: "udp".into(),
        protocol: "UDP".into(),
        ..both.ports[0].clone()
    });
    let slices = |protocol: &str, name: &str, address| {
        let mut slices =
            sheave_tests::objects::slices("web", TARGET, protocol, &[sheave_tests::objects::ready(address)]);
        let mut slice = slices.remove(0);
        slice.name.name = format!("web-{name}");
        slice.ports[0].name = Some(name.into());
        proxy_core::model::Event::SliceApplied(Box::new(slice))
    };
    let events = vec![
        proxy_core::model::Event::ServiceApplied(Box::new(both.clone())),
        slices("TCP", "tcp", world.pods["a"].v4),
        slices("UDP", "udp", world.pods["b"].v4),
    ];
    world.apply(events);
    let ask_udp = || sheave_tests::client::ask_connected(&sheave_tests::client::connected_udp(vip())?);
    assert_eq!(world.in_pod(|| ask_tcp(vip())).unwrap().0, "a");
    assert_eq!(world.in_pod(ask_udp).unwrap().0, "b");

    both.ports.remove(0);
    world.apply(vec![proxy_core::model::Event::ServiceApplied(Box::new(both))]);
    assert_eq!(crate::world::errno(world.in_pod(|| ask_tcp(vip()))), crate::world::REFUSED);
    assert_eq!(world.in_pod(ask_udp).unwrap().0, "b");
}
