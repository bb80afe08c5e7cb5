//! Session affinity: all sockets of one network namespace are one client.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use sheave_tests::client::{ask_connected, ask_tcp, ask_udp, connected_udp, udp_socket};
use sheave_tests::objects::{draining, sticky};

use crate::world::{World, vip, vip_service, vip6};

fn sticky_world(seconds: i32) -> World {
    let mut world = World::new();
    let endpoints = world.endpoints(&["a", "b", "c"]);
    world.publish(&sticky(vip_service("TCP"), seconds), &endpoints);
    world
}

fn backends(world: &World, times: usize) -> BTreeSet<String> {
    world.in_pod(|| (0..times).map(|_| ask_tcp(vip()).unwrap().0).collect())
}

#[test]
fn a_client_stays_with_its_backend() {
    let world = sticky_world(3600);
    assert_eq!(backends(&world, 50).len(), 1);
    let v6: BTreeSet<String> = world.in_pod(|| (0..50).map(|_| ask_tcp(vip6()).unwrap().0).collect());
    assert_eq!(v6.len(), 1);
}

#[test]
fn every_namespace_is_a_client_of_its_own() {
    let mut world = sticky_world(3600);
    let clients: Vec<_> = (0..24).map(|n| world.lab.pod(&format!("client-{n}")).unwrap()).collect();
    let seen: BTreeSet<String> =
        clients.iter().map(|pod| pod.netns.run(|| ask_tcp(vip()).unwrap().0)).collect();
    assert_eq!(seen.len(), 3, "24 clients over 3 backends");
}

#[test]
fn connected_and_unconnected_udp_share_the_clients_affinity() {
    let mut world = World::new();
    let endpoints = world.endpoints(&["a", "b", "c"]);
    world.publish(&sticky(vip_service("UDP"), 3600), &endpoints);
    let seen: BTreeSet<String> = world.in_pod(|| {
        let unconnected = (0..15).map(|_| ask_udp(&udp_socket(vip()).unwrap(), vip()).unwrap().0);
        let connected = (0..15).map(|_| ask_connected(&connected_udp(vip()).unwrap()).unwrap().0);
        unconnected.chain(connected).collect()
    });
    assert_eq!(seen.len(), 1);
}

/// Each use starts the time-out again; without use it ends, and the choice is random once more.
#[test]
fn affinity_ends_after_its_time_out_and_not_before() {
    let world = sticky_world(1);
    let first = backends(&world, 1);
    for _ in 0..6 {
        sleep(Duration::from_millis(400));
        assert_eq!(backends(&world, 1), first, "used every 400 ms, it never ends");
    }
    let mut seen = first;
    for _ in 0..20 {
        sleep(Duration::from_millis(1100));
        seen.extend(backends(&world, 1));
        if seen.len() > 1 {
            return;
        }
    }
    unreachable!("20 choices after the time-out all fell on {seen:?}: one in 3^20 by chance");
}

#[test]
fn affinity_ends_when_the_service_no_longer_asks_for_it() {
    let mut world = sticky_world(3600);
    assert_eq!(backends(&world, 10).len(), 1);
    let endpoints = world.endpoints(&["a", "b", "c"]);
    world.publish(&vip_service("TCP"), &endpoints);
    assert_eq!(backends(&world, 60).len(), 3);
}

#[test]
fn affinity_survives_a_change_that_leaves_the_backend_and_ends_with_the_backend() {
    let mut world = sticky_world(3600);
    let first = backends(&world, 1).pop_first().unwrap();
    let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != first).collect();

    let fewer = world.endpoints(&[&first, others[0]]);
    world.publish(&sticky(vip_service("TCP"), 3600), &fewer);
    assert_eq!(backends(&world, 20), BTreeSet::from([first.clone()]));

    // Terminating while others are ready: a new connection must not go there.
    let mut terminating = world.endpoints(&others);
    terminating.push(draining(world.pods[&first].v4));
    world.publish(&sticky(vip_service("TCP"), 3600), &terminating);
    let moved = backends(&world, 20);
    assert_eq!(moved.len(), 1);
    assert!(!moved.contains(&first));
}

/// Two processors refresh one client's entry at the same time: neither may take the other's later time for an expiry.
#[test]
fn a_client_stays_with_its_backend_when_its_threads_connect_at_once() {
    let mut world = World::new();
    let endpoints = world.endpoints(&["a", "b", "c"]);
    world.publish(&sticky(vip_service("UDP"), 3600), &endpoints);
    let first = world.in_pod(|| ask_connected(&connected_udp(vip()).unwrap()).unwrap().0);
    // A wrong expiry is written for everybody and so stays: it is enough to ask now and then.
    let connect = || {
        let socket = udp_socket(vip()).unwrap();
        let mut seen = BTreeSet::new();
        for round in 0..1_000_000 {
            socket.connect(vip()).unwrap();
            if round % 2_000 == 0 {
                seen.insert(ask_connected(&socket).unwrap().0);
            }
        }
        seen
    };
    let seen: BTreeSet<String> = std::thread::scope(|scope| {
        let netns = &world.client.netns;
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(move || netns.run(connect))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(seen, BTreeSet::from([first]));
}
