//! What pods send out of the cluster bears the node's address, and answers of every kind find back.

use std::net::SocketAddr;

use sheave_tests::echo::EchoServer;
use sheave_tests::probe::{Connection, Outcome, PATIENCE, pattern, tcp, udp};
use sheave_tests::raw::ping;
use sheave_tests::topology::addresses::node;
use sheave_tests::topology::{CLOSED_PORT, Links, PORT};

use crate::site::Site;

/// Pods are the cluster's, nodes see their addresses, nobody else does.
pub(crate) const MASQUERADE: [&str; 6] = [
    "--masquerade",
    "true",
    "--cluster-cidr",
    "10.244.0.0/16,fd00:10:244::/48",
    "--non-masquerade-cidrs",
    "192.0.2.0/24,2001:db8:a::/64",
];

/// A pod of each node.
const PODS: [(&str, u8); 2] = [("1a", 1), ("2a", 2)];

/// A server outside, and where it is asked.
pub(crate) fn outside(site: &Site) -> (EchoServer, Vec<SocketAddr>) {
    let client = site.place("client");
    let targets = client.addresses.both().map(|address| SocketAddr::new(address, PORT));
    (EchoServer::start(client, PORT).unwrap(), targets.to_vec())
}

#[test]
fn pods_ask_the_outside_with_the_nodes_address() {
    let site = Site::new(Links::ETHERNET, &MASQUERADE);
    site.topology.compute_checksums().unwrap();
    let (_server, targets) = outside(&site);
    for (pod, number) in PODS {
        for target in &targets {
            let nodes = node(number).like(target.ip());
            for (name, ask) in [("TCP", tcp as fn(_) -> _), ("UDP", udp)] {
                let answer = site
                    .at(pod, || ask(*target))
                    .unwrap_or_else(|error| panic!("{pod} {name} {target}: {error}"));
                assert_eq!((answer.server, answer.seen.ip()), (*target, nodes), "{pod} {name}");
                let closed = site.at(pod, || ask(SocketAddr::new(target.ip(), CLOSED_PORT)));
                assert_eq!(Outcome::from(closed), Outcome::Refused, "{pod} {name} {target}");
            }
            // Whole, and in fragments.
            for length in [56, 3_000] {
                let before = site.counted(number.into(), "packet_reply");
                let answered = site.at(pod, || ping(target.ip(), length, PATIENCE)).unwrap();
                assert!(answered, "{pod} ping {target}, {length} bytes");
                // The router knows the way to pods, too: what was not translated would be answered as well.
                assert!(site.counted(number.into(), "packet_reply") > before, "{pod} ping {target}");
            }
        }
    }
}

#[test]
fn whoever_is_inside_sees_the_pod_itself() {
    let site = Site::new(Links::ETHERNET, &MASQUERADE);
    for to in ["2a", "1b", "node1", "node2"] {
        for address in site.place(to).addresses.both() {
            let target = SocketAddr::new(address, PORT);
            for ask in [tcp, udp] {
                let answer = site.at("1a", || ask(target)).unwrap();
                assert_eq!(answer.seen, answer.client, "1a at {target}");
            }
        }
    }
}

#[test]
fn a_connection_from_outside_straight_to_a_pod_meets_the_pod() {
    let site = Site::new(Links::ETHERNET, &MASQUERADE);
    for address in site.place("1a").addresses.both() {
        let target = SocketAddr::new(address, PORT);
        site.at("client", || Connection::open(target).unwrap().transfer(&pattern(1 << 18)).unwrap());
        let answered = site.at("client", || ping(address, 56, PATIENCE)).unwrap();
        assert!(answered, "ping {address}");
    }
}

#[test]
fn a_pods_connections_to_the_outside_outlive_its_agent() {
    let mut site = Site::new(Links::ETHERNET, &MASQUERADE);
    let (_server, targets) = outside(&site);
    let open = |target: &SocketAddr| site.at("1a", || Connection::open(*target).unwrap());
    let mut held: Vec<Connection> = targets.iter().map(open).collect();
    site.kill_agent(1);
    for connection in &mut held {
        connection.exchange(b"without an agent").unwrap();
    }
    site.start_agent(1, &MASQUERADE);
    for connection in &mut held {
        connection.exchange(b"with the next").unwrap();
    }
    // Another capacity is another table: the same ports are found again.
    site.start_agents(&[&MASQUERADE[..], &["--flows-max", "4096"]].concat());
    for connection in &mut held {
        connection.exchange(b"with another table").unwrap();
    }
}

#[test]
fn a_pod_finds_out_how_much_fits_a_link_outside_and_so_does_its_server() {
    let site = Site::new(Links::JUMBO, &MASQUERADE);
    site.topology.narrow("client", 1_400).unwrap();
    site.topology.narrow("1a", 1_300).unwrap();
    let (_server, targets) = outside(&site);
    for target in targets {
        site.at("1a", || Connection::open(target).unwrap().transfer(&pattern(1 << 20)).unwrap());
    }
}
