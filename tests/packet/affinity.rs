//! Session affinity of clients that packets are translated for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sheave_tests::probe::{tcp, udp};
use sheave_tests::topology::Links;

use crate::manifests::{FAMILIES, cluster_ip, node_port, server, vip, web, web_with};
use crate::site::{BY_PACKET, Site};

const ALL: [&str; 4] = ["1a", "1b", "2a", "2b"];
/// One hour.
const STICKY: &str = "sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 3600}}";
/// Two seconds.
const BRIEF: &str = "sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 2}}";

/// Who answers: without affinity one of four only in 30 connections is one in 10^18.
fn answering(site: &Site, place: &str, to: SocketAddr) -> BTreeSet<SocketAddr> {
    site.at(place, || (0..30).map(|_| tcp(to).unwrap().server).collect())
}

/// Who answers alone.
fn the_one(site: &Site, place: &str, to: SocketAddr) -> SocketAddr {
    let answering = answering(site, place, to);
    assert_eq!(answering.len(), 1, "{place} at {to}: {answering:?}");
    answering.into_iter().next().unwrap()
}

/// A pod of another name in the same order.
fn name_of(server_: SocketAddr) -> &'static str {
    ALL.into_iter().find(|pod| server(pod, server_.is_ipv6()) == server_).unwrap()
}

#[test]
fn a_client_stays_with_its_backend_at_every_address_of_the_service() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web_with(STICKY, &ALL));
    for v6 in FAMILIES {
        let client = the_one(&site, "client", node_port(1, v6));
        assert_eq!(the_one(&site, "client", vip(1, v6)), client, "another address of the same port");
        let pod = the_one(&site, "1c", cluster_ip(v6));
        assert_eq!(the_one(&site, "1c", node_port(1, v6)), pod);
        assert_eq!(the_one(&site, "1c", vip(1, v6)), pod);
        // UDP is another port of the Service; it has an affinity of its own.
        let servers: BTreeSet<_> =
            site.at("client", || (0..30).map(|_| udp(node_port(1, v6)).unwrap().server).collect());
        assert_eq!(servers.len(), 1);
    }
}

#[test]
fn affinity_ends_with_its_backend_with_its_time_and_with_the_setting() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web_with(STICKY, &ALL));
    let to = node_port(1, false);
    let first = the_one(&site, "client", to);
    let others: Vec<&str> = ALL.into_iter().filter(|pod| *pod != name_of(first)).collect();

    site.publish(&web_with(STICKY, &others));
    let second = the_one(&site, "client", to);
    assert_ne!(second, first, "its backend left");
    site.publish(&web_with(STICKY, &ALL));
    assert_eq!(the_one(&site, "client", to), second, "it does not go back");

    let terminating = format!("{}:terminating", name_of(second));
    site.publish(&web_with(STICKY, &[&terminating, name_of(first)]));
    assert_eq!(the_one(&site, "client", to), first, "its backend terminates while another is ready");

    site.publish(&web(&ALL));
    assert_eq!(answering(&site, "client", to).len(), 4, "the setting is gone");

    site.publish(&web_with("externalTrafficPolicy: Local\n  sessionAffinity: ClientIP", &ALL));
    let here = [server("1a", false), server("1b", false)];
    assert!(here.contains(&the_one(&site, "client", to)), "only endpoints that the policy allows");
}

#[test]
fn affinity_lasts_from_the_last_connection_on() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web_with(BRIEF, &ALL));
    let ask = || site.at("client", || tcp(node_port(1, false)).unwrap().server);
    let first = ask();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        sleep(Duration::from_millis(800));
        assert_eq!(ask(), first, "used within its time, after {:?}", start.elapsed());
    }
    // Chosen anew each time: four times the same of four is one in 256, eight pauses in one in 10^5 at most.
    let mut seen = BTreeSet::from([first]);
    for _ in 0..8 {
        if seen.len() > 1 {
            return;
        }
        sleep(Duration::from_millis(3_200));
        seen.insert(ask());
    }
    panic!("after its time the client is still with {first}");
}
