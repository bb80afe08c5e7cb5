//! A backend leaves: connected UDP sockets to it are ended, and nothing else is.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use proxy_userspace::sockets::destroy_udp;
use sheave_tests::client::{ask_connected, ask_tcp, ask_udp, connected_udp, mapped, read_name, udp_socket};

use crate::world::{PORT, TARGET, VIP, World, vip, vip_service, vip6};

const ABORTED: i32 = 103;
const NO_DESTINATION: i32 = 89;

/// The backend that a connected socket talks to now.
fn backend_of(world: &World, socket: &UdpSocket) -> SocketAddr {
    let name = ask_connected(socket).unwrap().0;
    let pod = &world.pods[&name];
    let is_v4 = socket.peer_addr().unwrap().is_ipv4() || socket.peer_addr().unwrap() == mapped(VIP, PORT);
    SocketAddr::new(if is_v4 { pod.v4.into() } else { pod.v6.into() }, TARGET)
}

/// Ends the sockets that were translated to this backend.
fn destroy(world: &World, backend: SocketAddr) -> usize {
    let mut translated = world.peek().data.observer().unwrap().translated_sockets().unwrap();
    translated.retain(|socket| {
        SocketAddr::new(socket.peer.backend.into(), socket.peer.backend_port.to_host()) == backend
    });
    let report = world.on_node(|| destroy_udp(&translated));
    assert_eq!(report.errors, Vec::<String>::new());
    assert!(!report.is_blind, "root may look into every process");
    report.destroyed
}

/// In the pod's namespace and in the node's, in both families, and through an IPv4-mapped address.
#[test]
fn connected_udp_sockets_to_the_backend_are_ended() {
    let world = World::with_service("UDP");
    for to in [vip(), vip6(), mapped(VIP, PORT)] {
        for inside in [&world.client.netns, &world.lab.node] {
            let socket = inside.run(|| connected_udp(to).unwrap());
            let backend = backend_of(&world, &socket);
            assert_eq!(destroy(&world, backend), 1, "{to}");
            // A reader that waits gets ECONNABORTED, a writer EDESTADDRREQ: neither goes on talking to nobody.
            let waiting = socket.take_error().unwrap().and_then(|error| error.raw_os_error());
            assert_eq!(waiting, Some(ABORTED), "{to}");
            assert_eq!(crate::world::errno(ask_connected(&socket)), NO_DESTINATION, "{to}");
        }
    }
}

#[test]
fn sockets_that_sheave_did_not_translate_are_left_alone() {
    let world = World::with_service("UDP");
    let backend = SocketAddr::new(world.pods["a"].v4.into(), TARGET);
    let direct = world.in_pod(|| connected_udp(backend).unwrap());
    assert_eq!(ask_connected(&direct).unwrap().0, "a");
    assert_eq!(destroy(&world, backend), 0);
    assert_eq!(ask_connected(&direct).unwrap().0, "a");
}

#[test]
fn sockets_to_other_backends_and_unconnected_ones_are_left_alone() {
    let world = World::with_service("UDP");
    let connected = world.in_pod(|| connected_udp(vip()).unwrap());
    let theirs = backend_of(&world, &connected);
    let unconnected = world.in_pod(|| udp_socket(vip()).unwrap());
    let asked = ask_udp(&unconnected, vip()).unwrap().0;
    for pod in world.pods.values() {
        let backend = SocketAddr::new(pod.v4.into(), TARGET);
        if backend != theirs {
            assert_eq!(destroy(&world, backend), 0);
        }
    }
    assert!(ask_connected(&connected).is_ok());
    assert_eq!(ask_udp(&unconnected, vip()).unwrap().0, asked);
}

#[test]
fn an_established_tcp_connection_goes_on_when_its_backend_leaves() {
    let mut world = World::with_service("TCP");
    let mut stream = world.in_pod(|| TcpStream::connect(vip()).unwrap());
    let backend = read_name(&mut stream).unwrap();
    let address = SocketAddr::new(world.pods[&backend].v4.into(), TARGET);
    let rest: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != backend).collect();
    let endpoints = world.endpoints(&rest);
    world.publish(&vip_service("TCP"), &endpoints);
    assert_eq!(destroy(&world, address), 0);
    stream.write_all(b"still there?").unwrap();
    let mut echo = [0; 12];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"still there?");
    assert_ne!(world.in_pod(|| ask_tcp(vip())).unwrap().0, backend);
}
