//! UDP through a Service's address, with connected and unconnected sockets.

use std::net::{IpAddr, SocketAddr};

use sheave_tests::client::{ask_connected, ask_udp, connected_udp, mapped, udp_socket};
use sheave_tests::objects::{draining, ready, service};

use crate::world::{PORT, VIP, VIP_B, World, vip, vip_service, vip6};

fn ways() -> [(&'static str, SocketAddr); 3] {
    [("IPv4", vip()), ("IPv6", vip6()), ("IPv4-mapped", mapped(VIP, PORT))]
}

#[test]
fn a_connected_socket_gets_its_answers_from_the_services_address() {
    let world = World::with_service("UDP");
    for (name, to) in ways() {
        let (answers, peer) = world.in_pod(|| {
            let socket = connected_udp(to).unwrap();
            let answers: Vec<_> = (0..5).map(|_| ask_connected(&socket).unwrap()).collect();
            (answers, socket.peer_addr().unwrap())
        });
        assert_eq!(peer, to, "{name}");
        assert!(
            answers.iter().all(|(backend, from)| backend == &answers[0].0 && *from == to),
            "{name}: {answers:?}"
        );
    }
}

#[test]
fn an_unconnected_socket_stays_with_one_backend_and_sees_the_services_address() {
    let world = World::with_service("UDP");
    for (name, to) in ways() {
        let answers: Vec<_> = world.in_pod(|| {
            let socket = udp_socket(to).unwrap();
            (0..40).map(|_| ask_udp(&socket, to).unwrap()).collect()
        });
        assert!(
            answers.iter().all(|(backend, from)| backend == &answers[0].0 && *from == to),
            "{name}: {answers:?}"
        );
    }
}

#[test]
fn unconnected_sockets_are_spread_over_all_backends() {
    let world = World::with_service("UDP");
    let seen: std::collections::BTreeSet<String> =
        world.in_pod(|| (0..60).map(|_| ask_udp(&udp_socket(vip()).unwrap(), vip()).unwrap().0).collect());
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn an_unconnected_socket_keeps_its_backend_while_that_serves_and_moves_when_it_is_gone() {
    let mut world = World::with_service("UDP");
    let socket = world.in_pod(|| udp_socket(vip()).unwrap());
    let first = ask_udp(&socket, vip()).unwrap().0;
    let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != first).collect();

    // A backend more, and a backend less, are nothing to this flow.
    let without_one = world.endpoints(&[&first, others[0]]);
    world.publish(&vip_service("UDP"), &without_one);
    assert_eq!(ask_udp(&socket, vip()).unwrap().0, first);

    // Terminating but serving: no new flow goes there, the old one stays.
    let mut terminating = world.endpoints(&others);
    terminating.push(draining(world.pods[&first].v4));
    world.publish(&vip_service("UDP"), &terminating);
    assert_eq!(ask_udp(&socket, vip()).unwrap().0, first);
    let fresh = world.in_pod(|| udp_socket(vip()).unwrap());
    assert_ne!(ask_udp(&fresh, vip()).unwrap().0, first);

    // Gone: the next datagram goes elsewhere, and the answer still comes from the Service.
    let gone = world.endpoints(&others);
    world.publish(&vip_service("UDP"), &gone);
    let (next, from) = ask_udp(&socket, vip()).unwrap();
    assert_ne!(next, first);
    assert_eq!(from, vip());
    assert_eq!(ask_udp(&socket, vip()).unwrap().0, next);
}

/// The flow survives a backend id that is given to somebody else between two datagrams.
#[test]
fn a_reused_backend_id_does_not_take_over_a_flow() {
    let mut world = World::new();
    let (a, b) = (ready(world.pods["a"].v4), ready(world.pods["b"].v4));
    world.publish(&vip_service("UDP"), std::slice::from_ref(&a));
    let socket = world.in_pod(|| udp_socket(vip()).unwrap());
    assert_eq!(ask_udp(&socket, vip()).unwrap().0, "a");
    world.publish(&vip_service("UDP"), &[]);
    let other = service("other", &["10.96.0.11"], PORT, "UDP");
    world.publish(&other, std::slice::from_ref(&b));
    world.publish(&vip_service("UDP"), &[b]);
    world.publish(&other, &[a]);
    assert_eq!(ask_udp(&socket, vip()).unwrap(), ("b".into(), vip()));
}

#[test]
fn one_socket_may_talk_to_many_services_at_once() {
    let mut world = World::new();
    let pods = ["a", "b", "c"];
    let vips: Vec<SocketAddr> = (0..8).map(|n| SocketAddr::new(IpAddr::from([10, 96, 1, n]), PORT)).collect();
    for (index, vip) in vips.iter().enumerate() {
        let endpoints = [ready(world.pods[pods[index % 3]].v4)];
        world.publish(&service(&format!("svc-{index}"), &[&vip.ip().to_string()], PORT, "UDP"), &endpoints);
    }
    let socket = world.in_pod(|| udp_socket(vips[0]).unwrap());
    for round in 0..3 {
        for (index, vip) in vips.iter().enumerate() {
            assert_eq!(ask_udp(&socket, *vip).unwrap(), (pods[index % 3].into(), *vip), "round {round}");
        }
    }
}

/// Two Services over one backend: the answer seems to come from the one that was asked last.
#[test]
fn services_that_share_a_backend_are_told_apart_by_the_last_question() {
    let mut world = World::new();
    let endpoints = [ready(world.pods["a"].v4)];
    world.publish(&vip_service("UDP"), &endpoints);
    world.publish(&service("other", &[&VIP_B.to_string()], PORT, "UDP"), &endpoints);
    let other = SocketAddr::new(VIP_B.into(), PORT);
    let socket = world.in_pod(|| udp_socket(vip()).unwrap());
    for to in [vip(), other, other, vip(), other] {
        assert_eq!(ask_udp(&socket, to).unwrap().1, to);
    }
}

#[test]
fn datagrams_to_other_addresses_are_left_alone() {
    let world = World::with_service("UDP");
    let direct = SocketAddr::new(world.pods["c"].v4.into(), crate::world::TARGET);
    let socket = world.in_pod(|| udp_socket(direct).unwrap());
    assert_eq!(ask_udp(&socket, direct).unwrap(), ("c".into(), direct));
}

/// What a socket asked for last is what counts, also when that is a backend's own address.
#[test]
fn a_socket_that_connects_to_a_backend_itself_forgets_the_service() {
    let world = World::with_service("UDP");
    let socket = world.in_pod(|| connected_udp(vip()).unwrap());
    let backend = ask_connected(&socket).unwrap().0;
    let direct = SocketAddr::new(world.pods[&backend].v4.into(), crate::world::TARGET);
    socket.connect(direct).unwrap();
    assert_eq!(socket.peer_addr().unwrap(), direct);
    assert_eq!(ask_connected(&socket).unwrap(), (backend, direct));
    let translated = world.peek().data.observer().unwrap().translated_sockets().unwrap();
    let report = world.on_node(|| proxy_userspace::sockets::destroy_udp(&translated));
    assert_eq!((report.destroyed, report.errors), (0, Vec::new()));
    assert!(ask_connected(&socket).is_ok());
}

#[test]
fn an_answer_to_a_datagram_sent_to_the_backend_itself_comes_from_the_backend() {
    let world = World::with_service("UDP");
    let socket = world.in_pod(|| udp_socket(vip()).unwrap());
    let (backend, from) = ask_udp(&socket, vip()).unwrap();
    assert_eq!(from, vip());
    let direct = SocketAddr::new(world.pods[&backend].v4.into(), crate::world::TARGET);
    assert_eq!(ask_udp(&socket, direct).unwrap(), (backend, direct));
    assert_eq!(ask_udp(&socket, vip()).unwrap().1, vip());
}

/// The kernel delivers to a connected socket only what its peer sends: a datagram with an address must go there, too.
#[test]
fn a_connected_socket_that_also_names_the_service_stays_with_its_peer() {
    let world = World::with_service("UDP");
    for (name, to) in ways() {
        for _ in 0..12 {
            let socket = world.in_pod(|| connected_udp(to).unwrap());
            let peer = ask_connected(&socket).unwrap();
            assert_eq!(ask_udp(&socket, to).unwrap(), peer, "{name}");
        }
    }
}

#[test]
fn a_socket_that_connects_after_sending_keeps_its_backend() {
    let world = World::with_service("UDP");
    for (name, to) in ways() {
        for _ in 0..12 {
            let socket = world.in_pod(|| udp_socket(to).unwrap());
            let flow = ask_udp(&socket, to).unwrap();
            socket.connect(to).unwrap();
            assert_eq!(ask_connected(&socket).unwrap(), flow, "{name}");
        }
    }
}

#[test]
fn a_socket_that_was_disconnected_and_asks_the_backend_itself_is_answered_by_the_backend() {
    let world = World::with_service("UDP");
    let socket = world.in_pod(|| connected_udp(vip()).unwrap());
    let backend = ask_connected(&socket).unwrap().0;
    disconnect(&socket);
    let direct = SocketAddr::new(world.pods[&backend].v4.into(), crate::world::TARGET);
    assert_eq!(ask_udp(&socket, direct).unwrap(), (backend, direct));
}

/// `connect` with `AF_UNSPEC`: no hook sees it.
fn disconnect(socket: &std::net::UdpSocket) {
    use std::os::fd::AsRawFd as _;
    let unspecified = nix::libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    let length = nix::libc::socklen_t::try_from(size_of_val(&unspecified)).unwrap();
    // SAFETY: the address is valid for the call and as long as said.
    let result = unsafe { nix::libc::connect(socket.as_raw_fd(), &raw const unspecified, length) };
    assert_eq!(result, 0);
}
