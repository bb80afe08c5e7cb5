//! The topology without Sheave: whatever fails here is not the product's fault.

use std::net::SocketAddr;

use sheave_tests::probe::{Connection, Outcome, PATIENCE, ask, pattern, tcp, udp, udp_socket};
use sheave_tests::raw::ping;
use sheave_tests::topology::{CLOSED_PORT, Links, PORT, Topology};

/// Every way to ask a pod directly, from each kind of place.
#[test]
fn everybody_reaches_everybody_and_keeps_its_address() {
    let topology = Topology::new(Links::ETHERNET).unwrap();
    for from in ["client", "stranger", "node1", "2c"] {
        let from = topology.place(from).unwrap();
        for to in topology.places().filter(|place| place.is_inside()) {
            for address in to.addresses.both() {
                let target = SocketAddr::new(address, PORT);
                assert!(from.run(|| ping(address, 3000, PATIENCE)).unwrap(), "{} ping {address}", from.name);
                for (name, ask) in [("TCP", tcp as fn(_) -> _), ("UDP", udp)] {
                    let answer = from
                        .run(|| ask(target))
                        .unwrap_or_else(|e| panic!("{} {name} {target}: {e}", from.name));
                    assert_eq!(answer.server, target);
                    assert_eq!(answer.seen, answer.client, "{} {name} {target}", from.name);
                    assert_eq!(answer.client.ip(), from.like(address), "{} {name} {target}", from.name);
                    let closed = from.run(|| ask(SocketAddr::new(address, CLOSED_PORT)));
                    assert_eq!(Outcome::from(closed), Outcome::Refused, "{} {name} {target}", from.name);
                }
            }
        }
    }
}

#[test]
fn a_router_with_a_small_link_is_found_out_in_both_directions() {
    let topology = Topology::new(Links::JUMBO).unwrap();
    topology.narrow("client", 1400).unwrap();
    topology.narrow("1a", 1300).unwrap();
    let client = topology.place("client").unwrap();
    let bytes = pattern(1 << 20);
    for address in topology.place("1a").unwrap().addresses.both() {
        let target = SocketAddr::new(address, PORT);
        client.run(|| Connection::open(target).unwrap().transfer(&bytes).unwrap());
        client.run(|| {
            let socket = udp_socket(target, 0).unwrap();
            socket.connect(target).unwrap();
            // The first datagrams teach both ends how much fits.
            let answered = (0..6).filter(|_| ask(&socket, &bytes[..5000]).is_ok()).count();
            assert!(answered >= 2, "{target}: {answered}");
        });
    }
}
