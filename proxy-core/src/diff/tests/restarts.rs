//! What a predecessor can leave behind.

use proxy_common::{BackendValue, PortBe};

use super::{
    ROOMY,
    build::{cluster_ip, external, port, service, simple, wanted},
    world::{Wanted, World},
};
use crate::{
    desired::{DesiredService, Frontend, ListKind},
    diff::Capacities,
    entries::RecordKey,
};

/// Two families, two lists, a source range.
fn rich(cluster: &[u8], local: &[u8], range: &str) -> DesiredService {
    let mut balancer = external("192.0.2.1", 443);
    balancer.source_ranges = vec![range.parse().unwrap()];
    let v4 = port("http", vec![cluster_ip("10.96.0.1", 80), balancer], cluster, local, &[7]);
    let v6 = port("http", vec![cluster_ip("fd01::1", 80)], cluster, local, &[7]);
    service(vec![v4, v6])
}

fn three_states() -> [Wanted; 3] {
    [
        wanted(&[("a", rich(&[1, 2], &[1], "10.0.0.0/8")), ("b", simple("10.96.0.2", &[2, 3]))]),
        wanted(&[("a", rich(&[2, 4], &[2], "11.0.0.0/8")), ("c", simple("10.96.0.3", &[3, 5]))]),
        wanted(&[("b", simple("10.96.0.2", &[1])), ("c", simple("10.96.0.3", &[5]))]),
    ]
}

#[test]
fn a_restart_with_unchanged_input_writes_nothing() {
    for state in three_states() {
        let mut world = World::new(ROOMY);
        world.full(&state, usize::MAX);
        world.restart();
        assert_eq!(world.full(&state, usize::MAX).ops, []);
        world.settle(&state);
    }
}

#[test]
fn a_crash_at_any_write_is_repaired_by_the_next_start() {
    let states = three_states();
    for (before, during, after) in [(0, 1, 1), (0, 1, 0), (0, 1, 2), (1, 2, 0), (2, 0, 0)] {
        let mut started = World::new(ROOMY);
        started.full(&states[before], usize::MAX);
        let writes = started.planner.clone().plan_full(&states[during]).ops.len();
        assert!(writes > 5);
        for crash in 0..=writes {
            let mut world = started.clone();
            world.full(&states[during], crash);
            world.restart();
            world.full(&states[after], usize::MAX);
            world.settle(&states[after]);
        }
    }
}

#[test]
fn a_crash_while_backends_are_cleared_leaves_no_backend_behind() {
    let states = three_states();
    for crash in 0..4 {
        let mut world = World::new(ROOMY);
        world.full(&states[0], usize::MAX);
        world.full(&states[2], usize::MAX);
        world.grace(&states[2], crash);
        world.restart();
        assert_eq!(world.full(&states[2], usize::MAX).ops, []);
        world.settle(&states[2]);
        assert_eq!(world.kernel.backends4.len(), 2);
    }
}

#[test]
fn a_write_that_fails_is_planned_again_from_what_was_really_written() {
    let states = three_states();
    for (before, after) in [(0, 1), (1, 2), (2, 0)] {
        let mut started = World::new(ROOMY);
        started.full(&states[before], usize::MAX);
        let writes = started.planner.clone().plan_full(&states[after]).ops.len();
        for failed in 0..=writes {
            let mut world = started.clone();
            world.change(&states[before], &states[after], failed);
            world.change(&states[before], &states[after], usize::MAX);
            world.settle(&states[after]);
            // As well with other work in between, and with the Services giving up what they wanted.
            let mut world = started.clone();
            world.change(&states[before], &states[after], failed);
            world.change(&states[after], &states[before], usize::MAX);
            world.settle(&states[before]);
        }
    }
}

#[test]
fn torn_records_are_rewritten_or_removed() {
    let [state, ..] = three_states();
    let mut started = World::new(ROOMY);
    started.full(&state, usize::MAX);
    for index in 0..started.kernel.services4.len() {
        let mut world = started.clone();
        world.kernel.services4.values_mut().nth(index).unwrap().check ^= 1;
        world.restart();
        assert!(!world.full(&state, usize::MAX).ops.is_empty());
        world.settle(&state);
        let mut world = started.clone();
        world.kernel.services4.values_mut().nth(index).unwrap().check ^= 1;
        world.restart();
        world.full(&Wanted::new(), usize::MAX);
        world.settle(&Wanted::new());
    }
}

#[test]
fn a_torn_backend_is_replaced_and_cleared() {
    let state = wanted(&[("a", simple("10.96.0.1", &[1, 2]))]);
    let mut world = World::new(ROOMY);
    world.full(&state, usize::MAX);
    world.kernel.backends4.get_mut(&1).unwrap().check ^= 1;
    world.restart();
    world.full(&state, usize::MAX);
    world.settle(&state);
    assert_eq!(world.kernel.backends4.keys().collect::<Vec<_>>(), [&2, &3]);
}

#[test]
fn a_record_that_points_outside_the_ring_or_at_the_probe_is_rewritten() {
    for (base, length, keep) in [(299, 2, 0), (0, 2, 0), (u32::MAX, 1, 1), (1, u32::MAX, 3)] {
        let state = wanted(&[("a", simple("10.96.0.1", &[1, 2]))]);
        let mut world = World::new(ROOMY);
        world.full(&state, usize::MAX);
        let (key, value) = world.kernel.services4.iter_mut().last().unwrap();
        (value.ring_base, value.ring_len, value.keep_len) = (base, length, keep);
        *value = value.sealed(key);
        world.restart();
        world.full(&state, usize::MAX);
        world.settle(&state);
    }
}

#[test]
fn overlapping_ranges_are_neither_freed_nor_overwritten_under_a_reader() {
    // Both Services' ranges are one: [1, 2, 3], a has 1..3, b has 2..4.
    let state = wanted(&[("a", simple("10.96.0.1", &[1, 2])), ("b", simple("10.96.0.2", &[2, 3]))]);
    let mut world = World::new(ROOMY);
    world.full(&state, usize::MAX);
    world.kernel.ring[1..5].copy_from_slice(&[1, 2, 3, 0]);
    let (key, value) = world.kernel.services4.iter_mut().last().unwrap();
    value.ring_base = 2;
    *value = value.sealed(key);
    world.restart();
    assert_eq!(world.full(&state, usize::MAX).ops, []);
    let less = wanted(&[("b", simple("10.96.0.2", &[2, 3])), ("c", simple("10.96.0.3", &[4]))]);
    world.change(&state, &less, usize::MAX);
    world.wait(&less);
    assert_eq!(world.planner.usage().ring, 4);
    let other = wanted(&[("b", simple("10.96.0.2", &[3])), ("c", simple("10.96.0.3", &[4]))]);
    world.change(&less, &other, usize::MAX);
    world.settle(&other);
    assert_eq!(world.planner.usage().ring, 2);
}

#[test]
fn what_nothing_refers_to_is_cleared_or_forgotten() {
    let state = wanted(&[("a", simple("10.96.0.1", &[1, 2]))]);
    let mut world = World::new(ROOMY);
    world.full(&state, usize::MAX);
    let stray = BackendValue::sealed(9, std::net::Ipv4Addr::new(10, 9, 9, 9).into(), PortBe::from_host(1), 6);
    world.kernel.backends4.insert(9, stray);
    world.kernel.ranges.insert((77, "10.0.0.0/8".parse().unwrap()));
    let key = RecordKey { port: 0, protocol: 0, ..RecordKey::from(&cluster_ip("10.96.0.99", 80).key) };
    let crate::diff::ServiceOp::V4(key, _) = key.write(None) else { unreachable!() };
    let value = *world.kernel.services4.values().next().unwrap();
    world.kernel.services4.insert(key, value.sealed(&key));
    world.kernel.ring[50..60].fill(9);
    world.restart();
    world.full(&state, usize::MAX);
    world.settle(&state);
    assert_eq!((world.kernel.backends4.len(), world.kernel.ranges.len()), (2, 0));
}

#[test]
fn an_address_record_where_no_frontend_looks_is_removed() {
    let state = wanted(&[("a", rich(&[1, 2], &[1], "10.0.0.0/8"))]);
    let mut world = World::new(ROOMY);
    world.full(&state, usize::MAX);
    let key = RecordKey::from(&external("192.0.2.1", 443).key);
    let outside = RecordKey { port: 0, protocol: 0, ..key };
    assert!(world.kernel.record(&key.address_record()).is_some() && outside != key.address_record());
    let crate::diff::ServiceOp::V4(outside, _) = outside.write(None) else { unreachable!() };
    let value = *world.kernel.services4.values().next().unwrap();
    world.kernel.services4.insert(outside, value.sealed(&outside));
    world.restart();
    assert_eq!(world.full(&state, usize::MAX).ops.len(), 1);
    world.settle(&state);
}

#[test]
fn of_two_places_with_the_same_backend_one_remains() {
    let state = wanted(&[("a", simple("10.96.0.1", &[1])), ("b", simple("10.96.0.2", &[1]))]);
    let mut world = World::new(ROOMY);
    world.full(&state, usize::MAX);
    let twin =
        BackendValue::sealed(5, std::net::Ipv4Addr::new(10, 244, 0, 1).into(), PortBe::from_host(8080), 6);
    world.kernel.backends4.insert(5, twin);
    world.kernel.ring[2] = 5;
    world.restart();
    world.full(&state, usize::MAX);
    world.settle(&state);
    assert_eq!(world.kernel.backends4.keys().collect::<Vec<_>>(), [&1]);
}

#[test]
fn a_backend_in_use_is_not_moved_to_a_stray_place_that_holds_the_same() {
    let state = wanted(&[("a", simple("10.96.0.1", &[1]))]);
    let mut world = World::new(ROOMY);
    world.full(&state, usize::MAX);
    let twin =
        BackendValue::sealed(5, std::net::Ipv4Addr::new(10, 244, 0, 1).into(), PortBe::from_host(8080), 6);
    world.kernel.backends4.insert(5, twin);
    world.kernel.ring[1] = 5;
    world.restart();
    assert_eq!(world.full(&state, usize::MAX).ops, []);
    world.settle(&state);
    assert_eq!(world.kernel.backends4.keys().collect::<Vec<_>>(), [&5]);
}

#[test]
fn ports_that_changed_their_names_while_the_agent_was_down_keep_their_ids() {
    let named = |port_name: &str| {
        wanted(&[("a", service(vec![port(port_name, vec![cluster_ip("10.96.0.1", 80)], &[1], &[], &[])]))])
    };
    let mut world = World::new(ROOMY);
    world.full(&named("http"), usize::MAX);
    world.restart();
    assert_eq!(world.full(&named("web"), usize::MAX).ops, []);
    world.settle(&named("web"));
}

#[test]
fn frontends_that_changed_hands_while_the_agent_was_down_get_distinct_ids() {
    let of = |ports: &[u16], backends: &[u8]| {
        let frontends = ports.iter().map(|port| cluster_ip("10.96.0.1", *port)).collect();
        service(vec![port("http", frontends, backends, &[], &[])])
    };
    let mut world = World::new(ROOMY);
    world.full(&wanted(&[("a", of(&[80, 81, 82], &[1]))]), usize::MAX);
    let state = wanted(&[("a", of(&[80], &[1])), ("b", of(&[81, 82], &[2]))]);
    world.restart();
    world.full(&state, usize::MAX);
    let ids: Vec<u32> = world.kernel.services4.values().map(|value| value.service_id).collect();
    assert_eq!(ids, [0, 1, 2, 2]);
    world.settle(&state);
}

#[test]
fn a_shared_address_that_changed_hands_is_no_proof_of_identity() {
    let node = |port| external("192.0.2.1", port);
    let of = |last: u8, node_ports: Vec<Frontend>| {
        let own = cluster_ip(&format!("203.0.113.{last}"), 80);
        let frontends = node_ports.into_iter().chain([own]).collect();
        service(vec![port("http", frontends, &[last], &[last], &[])])
    };
    let before = wanted(&[("a", of(1, vec![])), ("b", of(2, vec![node(30_080)]))]);
    let after = wanted(&[("a", of(1, vec![node(30_080)])), ("b", of(2, vec![]))]);
    let mut world = World::new(ROOMY);
    world.full(&before, usize::MAX);
    let ids = |world: &World| {
        let own = world.kernel.services4.iter().filter(|(key, _)| key.port == PortBe::from_host(80));
        own.map(|(_, value)| value.service_id).collect::<Vec<_>>()
    };
    let known = ids(&world);
    world.restart();
    assert_eq!(world.full(&after, usize::MAX).ops.len(), 1);
    assert_eq!(ids(&world), known);
    world.settle(&after);
}

#[test]
fn a_cluster_ip_on_an_address_that_others_used_is_a_weaker_proof() {
    let of = |frontends: &[Frontend]| service(vec![port("http", frontends.to_vec(), &[1], &[1], &[])]);
    let guest = Frontend { owns_address: false, ..cluster_ip("10.96.0.1", 80) };
    let before = wanted(&[("b", of(&[cluster_ip("10.96.0.2", 80), guest]))]);
    let after =
        wanted(&[("a", of(&[cluster_ip("10.96.0.1", 80)])), ("b", of(&[cluster_ip("10.96.0.2", 80)]))]);
    let mut world = World::new(ROOMY);
    world.full(&before, usize::MAX);
    world.restart();
    world.full(&after, usize::MAX);
    let ids: Vec<u32> = world.kernel.services4.values().map(|value| value.service_id).collect();
    assert_eq!(ids, [0, 2, 0, 1]);
    world.settle(&after);
}

#[test]
fn a_refused_service_keeps_all_of_its_frontends_that_it_still_wants() {
    let node = |port| Frontend { list: ListKind::Cluster, ..external("192.0.2.1", port) };
    let state = |ports: [u16; 2], backends: &[u8]| {
        let one = |name: &str, at: u16, node_port: u16| {
            port(name, vec![cluster_ip("10.96.0.1", at), node(node_port)], backends, &[], &[])
        };
        wanted(&[("a", service(vec![one("", ports[0], 30_053), one("dns", ports[1], 30_080)]))])
    };
    let mut world = World::new(Capacities { backends: 3, ..ROOMY });
    world.full(&state([443, 53], &[1]), usize::MAX);
    let before = world.kernel.lines();
    world.restart();
    // The port that is unnamed now has the ClusterIP's port of the one that was `dns`.
    let plan = world.planner.plan_full(&state([53, 80], &[1, 2, 3]));
    assert_eq!(plan.refused.len(), 1);
    plan.ops.iter().for_each(|op| world.kernel.apply(op));
    let after = world.kernel.lines();
    assert_eq!(after.len(), 3);
    assert!(after.iter().all(|(key, line)| before.get(key) == Some(line)));
}

#[test]
fn new_ids_and_generations_go_on_after_those_in_the_kernel() {
    let one = wanted(&[("a", simple("10.96.0.1", &[1])), ("b", simple("10.96.0.2", &[1]))]);
    let mut world = World::new(ROOMY);
    world.full(&one, usize::MAX);
    world.restart();
    let two = wanted(&[("a", simple("10.96.0.1", &[1])), ("c", simple("10.96.0.3", &[1]))]);
    world.full(&two, usize::MAX);
    let values: Vec<_> =
        world.kernel.services4.values().map(|value| (value.service_id, value.generation)).collect();
    assert_eq!(values, [(0, 0), (1, 1), (0, 0), (3, 2)]);
    let mut ids: Vec<u32> = world.planner.service_ids().collect();
    assert_eq!(ids, [1, 2, 3]);
    world.settle(&two);
    ids.retain(|id| *id != 2);
    assert_eq!(world.planner.service_ids().collect::<Vec<_>>(), ids);
}
