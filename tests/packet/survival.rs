//! Established TCP connections outlive their endpoint's membership, the agent, and changes of its settings.

use std::io::ErrorKind;
use std::net::SocketAddr;

use sheave_tests::probe::{Connection, Outcome, tcp};
use sheave_tests::topology::Links;

use crate::manifests::{FAMILIES, cluster_ip, node_port, server, vip, web};
use crate::site::{BY_PACKET, Site};
use crate::traffic::Traffic;

/// A connection of a place to a certain backend.
struct Held {
    what: String,
    connection: Connection,
    said: u32,
}

impl Held {
    /// One of several backends answers at random: missing one of four 100 times is one in 10^12.
    fn open(site: &Site, place: &str, to: SocketAddr, pod: &str) -> Self {
        let wanted = server(pod, to.is_ipv6());
        let mut connections = (0..100).map(|_| site.at(place, || Connection::open(to).unwrap()));
        let connection = connections.find(|connection| connection.answer.server == wanted).unwrap();
        Self { what: format!("{place} at {to} with {pod}"), connection, said: 0 }
    }

    fn goes_on(&mut self, why: &str) {
        self.said += 1;
        let text = format!("{} {}", self.what, self.said);
        self.connection.exchange(text.as_bytes()).unwrap_or_else(|e| panic!("{}: {why}: {e}", self.what));
    }
}

fn hold(site: &Site) -> Vec<Held> {
    let mut held = Vec::new();
    for v6 in FAMILIES {
        for pod in ["1a", "2a"] {
            held.push(Held::open(site, "client", node_port(1, v6), pod));
            held.push(Held::open(site, "stranger", vip(2, v6), pod));
            held.push(Held::open(site, "1c", cluster_ip(v6), pod));
            held.push(Held::open(site, "2a", cluster_ip(v6), pod));
        }
    }
    held
}

fn all_go_on(held: &mut [Held], why: &str) {
    held.iter_mut().for_each(|held| held.goes_on(why));
}

#[test]
fn an_established_connection_outlives_everything_but_its_ends() {
    let mut site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a", "2a"]));
    let mut held = hold(&site);
    all_go_on(&mut held, "at first");
    site.publish(&web(&["1a:terminating", "2a:terminating", "1b"]));
    all_go_on(&mut held, "its endpoint terminates");
    site.publish(&web(&["1b", "2b"]));
    all_go_on(&mut held, "its endpoint is gone");
    site.publish(&web(&[]));
    all_go_on(&mut held, "no endpoint is left");
    site.publish(&web(&["1a", "2a"]));
    for node in [1, 2] {
        site.kill_agent(node);
    }
    all_go_on(&mut held, "no agent runs");
    for v6 in FAMILIES {
        let outcome = Outcome::from(site.at("client", || tcp(node_port(1, v6))));
        assert!(matches!(outcome, Outcome::Answered(_)), "new ones are served without an agent: {outcome:?}");
    }
    for node in [1, 2] {
        site.start_agent(node, BY_PACKET);
    }
    all_go_on(&mut held, "another agent runs");
    site.start_agents(&["--services-max", "1000"]);
    all_go_on(&mut held, "an agent that translates sockets, with other tables, runs");
    site.publish(&web(&["2b"]));
    all_go_on(&mut held, "and changes them");
}

/// Packets to an address that is no Service's any more are not looked at: at a NodePort the host itself answers.
#[test]
fn a_deleted_service_ends_its_connections_at_once() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    for v6 in FAMILIES {
        site.publish(&web(&["1a", "2a"]));
        let to = node_port(1, v6);
        let mut held = ["1a", "2a"].map(|pod| Held::open(&site, "client", to, pod));
        site.publish("");
        for Held { connection, what, .. } in &mut held {
            let ended = connection.exchange(b"still there?").unwrap_err();
            assert_eq!(ended.kind(), ErrorKind::ConnectionReset, "{what}");
        }
        assert_eq!(Outcome::from(site.at("client", || tcp(to))), Outcome::Refused);
    }
}

#[test]
fn no_connection_and_no_byte_is_lost_while_agents_are_killed_and_started() {
    let mut site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a", "2a"]));
    let mut held = hold(&site);
    let ways =
        FAMILIES.map(|v6| [("1c", cluster_ip(v6)), ("client", node_port(1, v6)), ("stranger", vip(2, v6))]);
    let traffic = Traffic::start(&site, ways.as_flattened());
    for _ in 0..4 {
        site.start_agents(BY_PACKET);
        all_go_on(&mut held, "an agent was killed and started");
    }
    let asked = traffic.end();
    assert!(asked > 200, "{asked} connections");
}

/// As after a reset or in TIME_WAIT: the port comes again while the node still knows its last connection.
#[test]
fn a_port_that_is_used_again_gets_a_backend_that_is_there() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    for pod in ["1a", "1b", "2a", "1a"] {
        site.publish(&web(&[pod]));
        for v6 in FAMILIES {
            for (place, to) in [("client", node_port(1, v6)), ("1c", cluster_ip(v6))] {
                for _ in 0..2 {
                    let connection = site.at(place, || Connection::open_from(to, 45_002)).unwrap();
                    assert_eq!(connection.answer.server, server(pod, v6), "{place} at {to}");
                    connection.reset().unwrap();
                }
            }
        }
    }
}

/// A flow is remembered for a while after its end. A connection past the Service between the same ends is another.
#[test]
fn a_direct_connection_from_a_port_of_an_old_one_is_not_taken_for_it() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a"]));
    for v6 in FAMILIES {
        for (place, to) in [("client", node_port(1, v6)), ("1c", cluster_ip(v6)), ("2c", node_port(1, v6))] {
            let ends_by = [Connection::reset as fn(Connection) -> _, Connection::finish];
            for (number, end) in (45_003..).zip(ends_by) {
                let translated = site.at(place, || Connection::open_from(to, number)).unwrap();
                end(translated).unwrap();
                let direct = site.at(place, || Connection::open_from(server("1a", v6), number));
                let mut direct = direct.unwrap_or_else(|error| panic!("{place} after {to}: {error}"));
                direct.exchange(b"direct").unwrap();
                direct.reset().unwrap();
                let again = site.at(place, || Connection::open_from(to, number + 10));
                again.unwrap().reset().unwrap();
            }
        }
    }
}
