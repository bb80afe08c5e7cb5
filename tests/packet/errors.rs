//! ICMP errors about translated packets reach those who sent them, in the terms that they know.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sheave_tests::probe::{Answer, Connection, Outcome, ask, pattern, tcp, udp, udp_socket, udp_within};
use sheave_tests::topology::{CLOSED_PORT, Links, PORT};

use crate::manifests::{FAMILIES, Web, cluster_ip, node_port, server, vip, web};
use crate::site::{BY_PACKET, Site};

/// How many bytes a large transfer has.
const STREAM: usize = 1 << 20;
/// What a program gets when its packet ran out of hops.
const EHOSTUNREACH: i32 = 113;

#[test]
fn a_closed_port_of_a_backend_is_the_services_refusal() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    for endpoint in ["1a", "2a"] {
        site.publish(&Web { spec: "", target: CLOSED_PORT, endpoints: &[endpoint] }.yaml());
        for v6 in FAMILIES {
            for (place, to) in [
                ("client", node_port(1, v6)),
                ("stranger", vip(2, v6)),
                ("1c", cluster_ip(v6)),
                ("1a", cluster_ip(v6)),
                ("node1", cluster_ip(v6)),
                ("node2", node_port(1, v6)),
            ] {
                for ask in [tcp, udp] {
                    let outcome = Outcome::from(site.at(place, || ask(to)));
                    assert_eq!(outcome, Outcome::Refused, "{place} at {to}, backend {endpoint}");
                }
            }
        }
    }
}

/// Which hop limit a question needs at least; with a lower one the client is told at once.
fn hops(site: &Site, place: &str, to: SocketAddr) -> u8 {
    for hops in 1..6 {
        let start = Instant::now();
        match site.at(place, || udp_within(to, hops)) {
            Ok(_) => return hops,
            Err(error) => {
                let what = format!("{place} at {to}, {hops} hops: {error}");
                assert_eq!(error.raw_os_error(), Some(EHOSTUNREACH), "{what}");
                assert!(start.elapsed() < Duration::from_millis(900), "{what}, late");
            }
        }
    }
    panic!("{place} at {to}: not within 5 hops");
}

#[test]
fn a_packet_that_lives_too_short_is_reported_whoever_forwards_it() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    for (endpoint, outside, inside) in [("1a", 3, 2), ("2a", 4, 3)] {
        site.publish(&web(&[endpoint]));
        for v6 in FAMILIES {
            assert_eq!(hops(&site, "client", node_port(1, v6)), outside, "backend {endpoint}");
            assert_eq!(hops(&site, "client", vip(1, v6)), outside, "backend {endpoint}");
            assert_eq!(hops(&site, "1c", cluster_ip(v6)), inside, "backend {endpoint}");
        }
    }
}

/// Asks over UDP until an answer comes: the first datagrams are lost while both ends learn how much fits.
fn ask_while_learning(to: SocketAddr, bytes: &[u8]) -> io::Result<Answer> {
    let socket = udp_socket(to, 0)?;
    socket.set_read_timeout(Some(Duration::from_millis(250)))?;
    socket.connect(to)?;
    (0..20).map(|_| ask(&socket, bytes)).find(Result::is_ok).ok_or(ErrorKind::TimedOut)?
}

/// Every link takes 9000 bytes but one on the way, of which neither end knows: only an ICMP error about a translated
/// packet tells them.
#[test]
fn a_small_link_on_either_side_is_found_out_through_the_translation() {
    let site = Site::new(Links::JUMBO, BY_PACKET);
    site.topology.narrow("client", 1400).unwrap();
    site.topology.narrow("1a", 1350).unwrap();
    site.topology.narrow("2a", 1300).unwrap();
    let bytes = pattern(STREAM);
    for endpoint in ["1a", "2a"] {
        site.publish(&web(&[endpoint]));
        for v6 in FAMILIES {
            for (place, to) in [
                ("client", node_port(1, v6)),
                ("client", vip(2, v6)),
                ("2c", cluster_ip(v6)),
                ("node1", cluster_ip(v6)),
            ] {
                let transferred = site.at(place, || Connection::open(to)?.transfer(&bytes));
                transferred
                    .unwrap_or_else(|error| panic!("TCP {place} at {to}, backend {endpoint}: {error}"));
                let asked = site.at(place, || ask_while_learning(to, &bytes[..5000]));
                asked.unwrap_or_else(|error| panic!("UDP {place} at {to}, backend {endpoint}: {error}"));
            }
        }
    }
}

/// A link of each size on each side; datagrams larger than any of them are cut up and put together.
#[test]
fn links_of_different_sizes_carry_small_and_large() {
    for links in [
        Links { client: 9000, underlay: 1500, pods: [9000, 9000] },
        Links { client: 1500, underlay: 9000, pods: [1500, 9000] },
        Links { client: 9000, underlay: 9000, pods: [1500, 1500] },
    ] {
        let site = Site::new(links, BY_PACKET);
        for endpoint in ["1a", "2a"] {
            site.publish(&web(&[endpoint]));
            for v6 in FAMILIES {
                for (place, to) in
                    [("client", node_port(1, v6)), ("stranger", vip(2, v6)), ("1c", cluster_ip(v6))]
                {
                    carries(&site, place, to, server(endpoint, v6));
                }
            }
        }
    }
}

fn carries(site: &Site, place: &str, to: SocketAddr, server: SocketAddr) {
    assert_eq!(server.port(), PORT);
    let (small, large) = (pattern(10), pattern(STREAM));
    let done = site.at(place, || {
        let mut connection = Connection::open(to)?;
        connection.exchange(&small)?;
        connection.transfer(&large)?;
        udp(to)?;
        ask_while_learning(to, &large[..20_000])
    });
    match done {
        Ok(answer) => assert_eq!(answer.server, server),
        Err(error) => panic!("{place} at {to} with {server}: {error}"),
    }
}
