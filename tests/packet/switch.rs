//! The switch between sockets and packets, for a node and for one network namespace.

use std::path::Path;

use sheave_tests::probe::{Connection, tcp};
use sheave_tests::scenario::{Scenario, Translation, failures};
use sheave_tests::topology::Links;

use crate::manifests::{cluster_ip, web};
use crate::site::Site;

/// How many packets from clients node 1 has translated.
fn translated(site: &Site) -> u64 {
    site.counted(1, "packet_forward")
}

#[test]
fn pods_are_served_by_packets_and_the_host_at_its_sockets() {
    let site = Site::new(Links::ETHERNET, &["--socket-lb", "host"]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packet/scenarios");
    let mut scenarios = Scenario::read_all(&folder).unwrap();
    scenarios
        .retain(|scenario| ["cluster", "external-local", "no-endpoints"].contains(&scenario.name.as_str()));
    assert_eq!(scenarios.len(), 3);
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
