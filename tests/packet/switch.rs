//! The switch between sockets and packets, for a node and for one network namespace.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use sheave_tests::client::{ask_tcp, ask_udp, udp_socket};
use sheave_tests::probe::{Connection, tcp};
use sheave_tests::scenario::{Scenario, Translation, failures};
use sheave_tests::server::Server;
use sheave_tests::topology::Links;

use crate::manifests::{FAMILIES, cluster_ip, web};
use crate::site::{BY_PACKET, Site};

/// How many packets from clients node 1 has translated.
fn translated(site: &Site) -> u64 {
    site.counted(1, "packet_forward")
}

#[test]
fn pods_are_served_by_packets_and_the_host_at_its_sockets() {
    let site = Site::new(Links::ETHERNET, &["--socket-lb", "host"]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packet/scenarios");
    let mut scenarios = Scenario::read_all(&folder).unwrap();
    scenarios.retain(|scenario| {
        ["cluster", "external-local", "no-endpoints", "source-ranges"].contains(&scenario.name.as_str())
    });
    assert_eq!(scenarios.len(), 4);
    for scenario in scenarios {
        site.publish(&scenario.manifests);
        let failed = failures(&site.topology, &scenario, Translation::Packets).unwrap();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }
    site.publish(&web(&["1a"]));
    let before = translated(&site);
    site.at("node1", || tcp(cluster_ip(false))).unwrap();
    assert_eq!(translated(&site), before, "the host's socket was translated");
    site.at("1c", || tcp(cluster_ip(false))).unwrap();
    assert!(translated(&site) > before, "the pod's packets were translated");
}

#[test]
fn one_pod_is_switched_to_packets_and_back_while_its_connections_go_on() {
    let mut site = Site::new(Links::ETHERNET, &[]);
    site.publish(&web(&["1a", "2a"]));
    let to = cluster_ip(true);
    let mut by_socket = site.at("1c", || Connection::open(to).unwrap());
    let before = translated(&site);
    site.sheave(1, &["socket-lb", "set", &site.place("1c").netns.path(), "off"]);
    let mut by_packet = site.at("1c", || Connection::open(to).unwrap());
    let count = translated(&site);
    assert!(count > before, "its packets are translated");
    site.at("1b", || tcp(to)).unwrap();
    assert_eq!(translated(&site), count, "another pod's are not");

    site.start_agents(&[]);
    by_socket.exchange(b"on").unwrap();
    by_packet.exchange(b"on").unwrap();
    let count = translated(&site);
    site.at("1c", || tcp(to)).unwrap();
    assert!(translated(&site) > count, "another agent keeps to it");

    site.sheave(1, &["socket-lb", "set", &site.place("1c").netns.path(), "on"]);
    let count = translated(&site);
    site.at("1c", || tcp(to)).unwrap();
    assert_eq!(translated(&site), count, "its sockets are translated again");
    by_socket.exchange(b"and on").unwrap();
    by_packet.exchange(b"and on").unwrap();
}

/// A NodePort makes the loopback addresses those of a Service. What the host has there itself must not notice.
#[test]
fn the_hosts_own_loopback_stays_its_own() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a", "2a"]));
    let node = site.place("node1");
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let _server = Server::start(&node.netns, "host", address, 9_999).unwrap();
        let to = SocketAddr::new(address, 9_999);
        for _ in 0..5 {
            let over_tcp = node.run(|| ask_tcp(to)).unwrap_or_else(|error| panic!("TCP {to}: {error}"));
            let over_udp =
                node.run(|| ask_udp(&udp_socket(to)?, to)).unwrap_or_else(|e| panic!("UDP {to}: {e}"));
            assert_eq!([over_tcp.0, over_udp.0], ["host", "host"]);
        }
        let closed = node.run(|| ask_tcp(SocketAddr::new(address, 9_998)));
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
    }
}

/// The kernel keeps a packet while it looks for the next hop's hardware address, and sends it afterwards where the route
/// said that it had as it left the socket: that was the Service's.
#[test]
fn the_hosts_first_datagram_waits_for_its_backends_hardware_address() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a", "2a"]));
    let node = site.place("node1");
    for number in 0..10 {
        for to in FAMILIES.map(cluster_ip) {
            node.netns.ip("neigh flush all").unwrap();
            let answer = node.run(|| ask_udp(&udp_socket(to)?, to));
            answer.unwrap_or_else(|error| panic!("{to}, number {number}: {error}"));
        }
    }
}
