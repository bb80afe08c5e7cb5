//! No endpoint, no such port, and addresses that are no Service's.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use sheave_tests::client::{ask_tcp, ask_udp, connected_udp, mapped, udp_socket};
use sheave_tests::objects::{elsewhere, exposed, ready, service};

use crate::world::{PORT, REFUSED, TARGET, UNREACHABLE, VIP, VIP6, World, errno, vip, vip_service, vip6};

/// Every way to reach `port` of the Service fails with `expected`, at once.
fn fails_at_once(world: &World, port: u16, expected: i32) {
    let ways = [SocketAddr::new(VIP.into(), port), SocketAddr::new(VIP6.into(), port), mapped(VIP, port)];
    for to in ways {
        let start = Instant::now();
        let errors = world.in_pod(|| {
            let unconnected = udp_socket(to).unwrap();
            [
                ("TCP", errno(ask_tcp(to))),
                ("connected UDP", errno(connected_udp(to))),
                ("unconnected UDP", errno(ask_udp(&unconnected, to))),
            ]
        });
        for (name, error) in errors {
            assert_eq!(error, expected, "{name} to {to}");
        }
        assert!(start.elapsed() < Duration::from_secs(2), "a refusal does not wait");
    }
}

/// A Service with the same port for both protocols.
fn both_protocols(world: &mut World, endpoints: &[proxy_core::model::EndpointObject], policy: &str) {
    for (name, protocol) in [("web", "TCP"), ("web-udp", "UDP")] {
        let mut service = vip_service(protocol);
        service.name.name = name.into();
        service.internal_policy = policy.into();
        world.publish(&service, endpoints);
    }
}

#[test]
fn a_service_without_endpoints_refuses() {
    let mut world = World::new();
    both_protocols(&mut world, &[], "Cluster");
    fails_at_once(&world, PORT, REFUSED);
}

#[test]
fn a_service_whose_local_policy_finds_no_local_endpoint_is_unreachable() {
    let mut world = World::new();
    let away = [elsewhere(ready(world.pods["a"].v4)), elsewhere(ready(world.pods["a"].v6))];
    both_protocols(&mut world, &away, "Local");
    fails_at_once(&world, PORT, UNREACHABLE);
}

#[test]
fn an_unknown_port_of_a_services_address_is_refused() {
    let mut world = World::new();
    let endpoints = world.endpoints(&["a"]);
    both_protocols(&mut world, &endpoints, "Cluster");
    fails_at_once(&world, PORT + 1, REFUSED);
}

/// An external IP that somebody puts on a Service's address reaches that somebody's port, and nothing else changes.
#[test]
fn a_guest_on_a_services_address_changes_nothing_for_its_owner() {
    let mut world = World::new();
    let endpoints = world.endpoints(&["a"]);
    both_protocols(&mut world, &endpoints, "Cluster");
    let guest = exposed(service("guest", &["10.96.0.99"], 9_000, "TCP"), &VIP.to_string(), "203.0.113.9");
    world.publish(&guest, &[ready(world.pods["b"].v4)]);
    assert_eq!(world.in_pod(|| ask_tcp(vip())).unwrap().0, "a");
    fails_at_once(&world, PORT + 1, REFUSED);
}

#[test]
fn a_service_recovers_when_its_first_endpoint_appears() {
    let mut world = World::new();
    world.publish(&vip_service("UDP"), &[]);
    let socket = world.in_pod(|| udp_socket(vip()).unwrap());
    assert_eq!(errno(ask_udp(&socket, vip())), REFUSED);
    let endpoints = world.endpoints(&["b"]);
    world.publish(&vip_service("UDP"), &endpoints);
    assert_eq!(ask_udp(&socket, vip()).unwrap(), ("b".into(), vip()));
}

#[test]
fn a_family_without_endpoints_refuses_while_the_other_works() {
    let mut world = World::new();
    let only_v4 = [ready(world.pods["a"].v4)];
    world.publish(&vip_service("TCP"), &only_v4);
    assert_eq!(world.in_pod(|| ask_tcp(vip())).unwrap().0, "a");
    assert_eq!(errno(world.in_pod(|| ask_tcp(vip6()))), REFUSED);
}

#[test]
fn a_deleted_service_leaves_nothing_behind() {
    let mut world = World::with_service("TCP");
    let name = vip_service("TCP").name;
    world.apply(vec![proxy_core::model::Event::ServiceDeleted(name)]);
    let left = dump(&mut world);
    assert!(left.services4.is_empty() && left.services6.is_empty());
    assert!(left.backends4.is_empty() && left.backends6.is_empty());
}

fn dump(world: &mut World) -> proxy_core::diff::RealisedDump {
    use proxy_userspace::dataplane::LbMaps as _;
    world.plane().data.maps().dump().unwrap()
}

/// The programs leave no trace on traffic that is no Service's: the answer of the address itself comes through.
#[test]
fn other_addresses_answer_for_themselves() {
    let world = World::with_service("TCP");
    let closed = SocketAddr::new(world.pods["a"].v4.into(), TARGET + 1);
    assert_eq!(errno(world.in_pod(|| ask_tcp(closed))), REFUSED, "by the pod's own kernel");
    let loopback = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT);
    assert_eq!(errno(world.in_pod(|| ask_tcp(loopback))), REFUSED);
}
