//! Packets to a port or protocol that no Service has do not go in circles between the router and a node.

use std::net::SocketAddr;
use std::thread;

use sheave_tests::probe::{Outcome, PATIENCE, tcp, udp};
use sheave_tests::raw::ping;
use sheave_tests::topology::Links;

use crate::manifests::{FAMILIES, vip, web};
use crate::site::{BY_PACKET, Site};

/// A packet that circles is forwarded as often as its hop limit allows: 64 times, half of them by the router. This is
/// what two TCP clients that try twice or thrice, two UDP clients and one echo request come to, once or twice each.
const FEW: u64 = 20;

/// How many packets the router has forwarded.
fn forwarded(site: &Site, v6: bool) -> u64 {
    site.topology.router.run(|| if v6 { forwarded6() } else { forwarded4() })
}

fn forwarded4() -> u64 {
    let snmp = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = snmp.lines().filter(|line| line.starts_with("Ip:")).map(|line| line.split(' '));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    names.zip(values).find(|(name, _)| *name == "ForwDatagrams").unwrap().1.parse().unwrap()
}

fn forwarded6() -> u64 {
    let snmp = std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
    let line = snmp.lines().find(|line| line.starts_with("Ip6OutForwDatagrams")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// All at the same time: each waits for an answer that does not come.
#[test]
fn what_nobody_serves_at_a_load_balancer_address_is_lost_at_the_node() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a", "2a"]));
    for v6 in FAMILIES {
        let (site, to) = (&site, SocketAddr::new(vip(1, v6).ip(), 81));
        let before = forwarded(site, v6);
        thread::scope(|scope| {
            for place in ["client", "1c"] {
                for ask in [tcp, udp] {
                    scope.spawn(move || {
                        let outcome = Outcome::from(site.at(place, || ask(to)));
                        assert_eq!(outcome, Outcome::Silent, "{place} at {to}");
                    });
                }
            }
            scope.spawn(|| {
                assert!(!site.at("client", || ping(to.ip(), 64, PATIENCE)).unwrap(), "ping {to}");
            });
        });
        let count = forwarded(site, v6) - before;
        assert!(count <= FEW, "{to}: the router forwarded {count} packets");
    }
}
