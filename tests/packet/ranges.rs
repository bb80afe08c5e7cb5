//! Source ranges over time, and what the address of a process of the host is.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;

use sheave_tests::probe::{Answer, Connection, Outcome, ask, ask_to, tcp, udp, udp_socket, udp_socket_at};
use sheave_tests::scenario::Translation;
use sheave_tests::topology::Links;

use crate::manifests::{FAMILIES, vip, web, web_with};
use crate::site::{Site, translating};

const BOTH: [Translation; 2] = [Translation::Sockets, Translation::Packets];
/// Clients inside the cluster.
const INSIDE: [&str; 2] = ["1c", "node1"];
/// The client outside, and nobody else.
const OUTSIDE: &str = "loadBalancerSourceRanges: [198.51.100.10/32, '2001:db8:c::10/128']";
/// Node 1.
const NODE: &str = "loadBalancerSourceRanges: [192.0.2.11/32, '2001:db8:a::11/128']";
/// Another address that node 1 gets.
const SECOND: &str = "loadBalancerSourceRanges: [192.0.2.77/32, '2001:db8:a::77/128']";

/// Asks a load balancer's address in every way of `ask`, all at the same time, and compares what comes of it.
#[derive(Clone, Copy)]
struct Asked {
    place: &'static str,
    to: SocketAddr,
    ask: fn(SocketAddr) -> io::Result<Answer>,
}

fn everybody(places: &[&'static str], ask: &[fn(SocketAddr) -> io::Result<Answer>]) -> Vec<Asked> {
    let places = places.iter().flat_map(|place| FAMILIES.map(|v6| (*place, vip(1, v6))));
    places.flat_map(|(place, to)| ask.iter().map(move |ask| Asked { place, to, ask: *ask })).collect()
}

fn assert_all(site: &Site, asked: &[Asked], answered: bool, why: &str) {
    thread::scope(|scope| {
        for Asked { place, to, ask } in asked {
            scope.spawn(move || {
                let outcome = Outcome::from(site.at(place, || ask(*to)));
                let fits = if answered {
                    matches!(outcome, Outcome::Answered(_))
                } else {
                    outcome == Outcome::Silent
                };
                assert!(fits, "{place} at {to}, {why}: {outcome:?}");
            });
        }
    });
}

fn held(site: &Site) -> (Vec<Connection>, Vec<UdpSocket>) {
    let places = || INSIDE.into_iter().flat_map(|place| FAMILIES.map(|v6| (place, vip(1, v6))));
    let connection = |(place, to)| site.at(place, || Connection::open(to).unwrap());
    let socket = |(place, to)| {
        let socket: UdpSocket = site.at(place, || udp_socket(to, 0).unwrap());
        site.at(place, || socket.connect(to).unwrap());
        ask(&socket, b"first").unwrap();
        socket
    };
    (places().map(connection).collect(), places().map(socket).collect())
}

#[test]
fn ranges_that_come_and_go_decide_on_new_connections_alone() {
    let mut site = Site::without_agents(Links::ETHERNET);
    for path in BOTH {
        site.start_agents(translating(path));
        site.publish(&web(&["1a", "2a"]));
        let (mut connections, sockets) = held(&site);
        let mut go_on = |why: &str| {
            connections.iter_mut().for_each(|connection| connection.exchange(b"on").expect(why));
            sockets.iter().for_each(|socket| assert!(ask(socket, b"on").is_ok(), "{why}"));
        };
        site.publish(&web_with(OUTSIDE, &["1a", "2a"]));
        go_on("ranges came");
        assert_all(&site, &everybody(&INSIDE, &[tcp, udp, unconnected]), false, "ranges came");
        assert_all(&site, &everybody(&["client"], &[tcp, udp]), true, "ranges came");
        go_on("others were dropped");
        site.publish(&web(&["1a", "2a"]));
        go_on("ranges went");
        assert_all(&site, &everybody(&INSIDE, &[tcp, udp, unconnected]), true, "ranges went");
    }
}

fn unconnected(to: SocketAddr) -> io::Result<Answer> {
    ask_to(&udp_socket(to, 0)?, to, b"who?")
}

/// The second address of node 1 of the family.
fn second(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { [192, 0, 2, 77].into() } else { [0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x77].into() }
}

fn tcp_from_second(to: SocketAddr) -> io::Result<Answer> {
    Ok(Connection::open_at(to, second(to))?.answer)
}

fn udp_from_second(to: SocketAddr) -> io::Result<Answer> {
    ask_to(&udp_socket_at(second(to))?, to, b"who?")
}

#[test]
fn the_address_counts_that_a_process_of_the_host_is_bound_to() {
    let mut site = Site::without_agents(Links::ETHERNET);
    let node = &site.place("node1").netns;
    node.ip("addr add 192.0.2.77/32 dev eth0").unwrap();
    // Deprecated: never chosen unless asked for.
    node.ip("addr add 2001:db8:a::77/128 dev eth0 nodad preferred_lft 0").unwrap();
    let bound = everybody(&["node1"], &[tcp_from_second, udp_from_second]);
    let unbound = everybody(&["node1"], &[tcp, udp, unconnected]);
    for path in BOTH {
        site.start_agents(translating(path));
        site.publish(&web_with(SECOND, &["1a"]));
        assert_all(&site, &bound, true, "its own address is in the range");
        assert_all(&site, &unbound, false, "the node's address is in no range");
        site.publish(&web_with(NODE, &["1a"]));
        assert_all(&site, &bound, false, "its own address is in no range");
        assert_all(&site, &unbound, true, "the node's address is in the range");
    }
}

#[test]
fn a_node_that_has_the_load_balancers_address_itself_counts_as_the_node() {
    let mut site = Site::without_agents(Links::ETHERNET);
    for v6 in FAMILIES {
        let bits = if v6 { 128 } else { 32 };
        site.place("node1").netns.ip(&format!("addr add {}/{bits} dev lo", vip(1, v6).ip())).unwrap();
    }
    let asked = everybody(&["node1"], &[tcp, udp, unconnected]);
    for path in BOTH {
        site.start_agents(translating(path));
        site.publish(&web_with(NODE, &["1a"]));
        assert_all(&site, &asked, true, "the node's address is in the range");
        site.publish(&web_with(OUTSIDE, &["1a"]));
        assert_all(&site, &asked, false, "the node's address is in no range");
    }
}
