//! Tables that fill up: what is established stays, and what does not fit is lost by rule and counted.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;

use sheave_tests::probe::{Connection, Outcome, ask, tcp, udp_socket};
use sheave_tests::raw::{RawSender, SYN, Segment};
use sheave_tests::topology::Links;

use crate::manifests::{FAMILIES, cluster_ip, node_port, server, vip, web};
use crate::masquerade::{MASQUERADE, outside};
use crate::site::{BY_PACKET, Site};

/// Places for flows of each family.
const FLOWS: u32 = 512;
/// Established connections of each family.
const ESTABLISHED: usize = 64;
/// Rounds of the flood; in each every established connection has to go on.
const ROUNDS: u16 = 20;
/// First segments of each round.
const SYNS: u16 = 1_000;

/// An address of those that nobody has, by number.
fn spoofed(number: u16, v6: bool) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, number).into()
    } else {
        Ipv4Addr::new(198, 18, high, low).into()
    }
}

fn flood(sender: &RawSender, round: u16, v6: bool) {
    for number in 0..SYNS {
        let from = SocketAddr::new(spoofed(round * SYNS + number, v6), 1024 + number);
        let segment = Segment { flags: SYN, sequence: 1, acknowledgement: 0 };
        sender.send(from, node_port(1, v6), segment).unwrap();
    }
}

#[test]
fn a_flood_of_first_segments_takes_nothing_from_established_connections() {
    withstand_a_flood(&[]);
}

/// What pods answer to segments whose record has given way is no connection of theirs to the outside.
#[test]
fn nor_from_those_of_pods_to_the_outside() {
    withstand_a_flood(&MASQUERADE);
}

fn withstand_a_flood(settings: &[&str]) {
    let mut site = Site::without_agents(Links::ETHERNET);
    let flows = FLOWS.to_string();
    site.start_agents(&[BY_PACKET, &["--flows-max", &flows], settings].concat());
    site.publish(&web(&["1a", "2a"]));
    let (_server, outside) = outside(&site);
    let sender = site.at("client", || RawSender::new().unwrap());
    for v6 in FAMILIES {
        let target = *outside.iter().find(|target| target.is_ipv6() == v6).unwrap();
        let open = |number: usize| match number % 4 {
            0 => site.at("1b", || Connection::open(target).unwrap()),
            _ => site.at("client", || Connection::open(node_port(1, v6)).unwrap()),
        };
        let mut held: Vec<Connection> = (0..ESTABLISHED).map(open).collect();
        for round in 0..ROUNDS {
            flood(&sender, round, v6);
            for (number, connection) in held.iter_mut().enumerate() {
                let exchanged = connection.exchange(&round.to_be_bytes());
                exchanged.unwrap_or_else(|error| panic!("connection {number}, round {round}: {error}"));
            }
            let newcomer = Outcome::from(site.at("stranger", || tcp(node_port(1, v6))));
            assert!(matches!(newcomer, Outcome::Answered(_)), "round {round}: {newcomer:?}");
        }
        let evicted = site.counted(1, "flow_evicted");
        assert!(evicted > u64::from(FLOWS), "{evicted} evicted: the flood was none");
    }
    assert_eq!(site.counted(1, "dropped_flow_table_full"), 0);
}

/// Four ports for the node's address: four connections to each backend elsewhere.
#[test]
fn without_a_free_source_port_new_flows_are_lost_and_counted_and_others_go_on() {
    let mut site = Site::without_agents(Links::ETHERNET);
    site.start_agents(&[BY_PACKET, &["--snat-ports", "20000-20003"]].concat());
    site.publish(&web(&["2a"]));
    for v6 in FAMILIES {
        let to = node_port(1, v6);
        let open = || site.at("client", || Connection::open(to));
        let mut held: Vec<Connection> = (0..4).map(|_| open().unwrap()).collect();
        let mut ports: Vec<u16> = held.iter().map(|connection| connection.answer.seen.port()).collect();
        ports.sort_unstable();
        assert_eq!(ports, [20_000, 20_001, 20_002, 20_003]);
        let before = site.counted(1, "dropped_no_source_port");
        assert_eq!(Outcome::from(open().map(|connection| connection.answer)), Outcome::Silent);
        assert!(site.counted(1, "dropped_no_source_port") > before);
        for connection in &mut held {
            connection.exchange(b"on").unwrap();
        }
        // Ports are free towards another backend, over another protocol, and where none is needed.
        site.publish(&web(&["2b"]));
        assert_eq!(open().unwrap().answer.server, server("2b", v6));
        site.publish(&web(&["2a"]));
        let socket = site.at("client", || udp_socket(to, 0).unwrap());
        socket.connect(to).unwrap();
        assert_eq!(ask(&socket, b"who?").unwrap().server, server("2a", v6));
        assert_eq!(site.at("client", || tcp(vip(2, v6))).unwrap().server, server("2a", v6));
        for connection in &mut held {
            connection.exchange(b"and on").unwrap();
        }
    }
}

/// Another capacity is another table. A connection to a backend that sees the client is found again by its packets; one
/// behind a port of the node cannot be, and is told so.
#[test]
fn a_connection_whose_record_is_lost_goes_on_or_is_reset() {
    let mut site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a", "1b", "2a", "2b"]));
    let open = |v6| site.at("client", || Connection::open(node_port(1, v6)).unwrap());
    let mut held: Vec<Connection> =
        FAMILIES.into_iter().flat_map(|v6| (0..16).map(move |_| v6)).map(open).collect();
    site.start_agents(&[BY_PACKET, &["--flows-max", "4096"]].concat());
    for connection in &mut held {
        let answer = connection.answer;
        match connection.exchange(b"who are you?") {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset && answer.seen != answer.client => {}
            Err(error) => panic!("{answer:?}: {error}"),
        }
    }
    for v6 in FAMILIES {
        let outcome = Outcome::from(site.at("client", || tcp(node_port(1, v6))));
        assert!(matches!(outcome, Outcome::Answered(_)), "{outcome:?}");
    }
}

/// Two clients with one port number, and one client that reaches one backend by two addresses from one port: what the
/// backend sees must tell them apart, or an answer would go astray.
#[test]
fn answers_find_the_one_who_asked_however_alike_the_questions_are() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    for endpoint in ["1a", "2a"] {
        site.publish(&web(&[endpoint]));
        for v6 in FAMILIES {
            let ways = [("client", node_port(1, v6)), ("client", vip(1, v6)), ("stranger", node_port(1, v6))];
            let open = |(place, to): (&str, SocketAddr)| {
                site.at(place, || {
                    let socket = udp_socket(to, 45_001).unwrap();
                    socket.connect(to).unwrap();
                    (socket, Connection::open_from(to, 45_001).unwrap())
                })
            };
            let mut clients: Vec<_> = ways.into_iter().map(open).collect();
            for turn in 0..3_u8 {
                for (number, (socket, connection)) in clients.iter_mut().enumerate() {
                    let (text, (place, to)) = ([turn, u8::try_from(number).unwrap()], ways[number]);
                    let answer = ask(socket, &text).unwrap_or_else(|e| panic!("UDP {place} at {to}: {e}"));
                    assert_eq!(answer.server, server(endpoint, v6));
                    connection.exchange(&text).unwrap_or_else(|e| panic!("TCP {place} at {to}: {e}"));
                }
            }
        }
    }
}

/// Many clients at once on all CPUs: each gets its own bytes back.
#[test]
fn a_crowd_of_clients_is_not_mixed_up() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a", "1b", "2a", "2b"]));
    let places = ["client", "stranger", "1c", "2c", "1a", "2a", "node1", "node2"];
    thread::scope(|scope| {
        for (number, place) in (0_u32..).zip(places) {
            for v6 in FAMILIES {
                for to in [node_port(1, v6), vip(2, v6), cluster_ip(v6)] {
                    let place = site.place(place);
                    scope.spawn(move || place.run(|| one_of_a_crowd(to, number)));
                }
            }
        }
    });
}

fn one_of_a_crowd(to: SocketAddr, number: u32) {
    for turn in 0..40_u32 {
        let bytes = [number.to_be_bytes(), turn.to_be_bytes()].concat().repeat(300);
        let transferred = Connection::open(to).and_then(|connection| connection.transfer_last(&bytes));
        transferred.unwrap_or_else(|error| panic!("TCP, client {number} at {to}, turn {turn}: {error}"));
        let socket = udp_socket(to, 0).unwrap();
        socket.connect(to).unwrap();
        ask(&socket, &bytes[..64])
            .unwrap_or_else(|e| panic!("UDP, client {number} at {to}, turn {turn}: {e}"));
    }
}
