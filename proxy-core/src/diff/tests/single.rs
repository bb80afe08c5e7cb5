//! One change at a time: order, identity, generations, shared lists.

use proxy_common::{ServiceFlags, ServiceValue};

use super::{
    ROOMY,
    build::{cluster_ip, external, name, port, rich, service, simple, wanted},
    world::{Wanted, World, changes, stages},
};
use crate::{
    desired::{Frontend, ListKind, WhenEmpty},
    diff::Plan,
    entries::RecordKey,
};

fn key(frontend: &Frontend) -> RecordKey {
    RecordKey::from(&frontend.key)
}

fn value(world: &World, frontend: &Frontend) -> ServiceValue {
    world.kernel.record(&key(frontend)).unwrap()
}

#[test]
fn writes_come_in_the_order_of_what_they_refer_to() {
    let mut world = World::new(ROOMY);
    let one = wanted(&[("a", rich(443, "10.0.0.0/8", &[1, 2], &[1]))]);
    let two = wanted(&[("a", rich(444, "11.0.0.0/8", &[2, 3], &[2]))]);
    let start = world.full(&one, usize::MAX);
    assert_eq!(
        stages(&start),
        ["backend", "backend", "ring", "ring", "range+", "address", "address", "record", "record"]
    );
    let change = world.change(&one, &two, usize::MAX);
    assert_eq!(
        stages(&change),
        ["backend", "ring", "ring", "range+", "record", "record", "record-", "range-"]
    );
    let end = world.change(&two, &Wanted::new(), usize::MAX);
    assert_eq!(stages(&end), ["record-", "record-", "address-", "address-", "range-"]);
    world.settle(&Wanted::new());
    assert_eq!((world.kernel.backends4.len(), world.kernel.ranges.len()), (0, 0));
}

#[test]
fn a_backend_change_is_published_by_one_record() {
    let mut world = World::new(ROOMY);
    let (one, two) =
        (wanted(&[("a", simple("10.96.0.1", &[1, 2]))]), wanted(&[("a", simple("10.96.0.1", &[2, 3]))]));
    world.full(&one, usize::MAX);
    assert_eq!(stages(&world.change(&one, &two, usize::MAX)), ["backend", "ring", "record"]);
    assert_eq!(world.kernel.text(), "10.96.0.1:80/TCP internal -> 10.244.0.2:8080 10.244.0.3:8080\n");
    world.settle(&two);
}

#[test]
fn an_unchanged_service_is_not_written() {
    let mut world = World::new(ROOMY);
    let one = wanted(&[("a", rich(443, "10.1.2.3/8", &[1, 2], &[]))]);
    world.full(&one, usize::MAX);
    let all = one.iter().map(|(name, service)| (name.clone(), Some(service.clone()))).collect();
    assert_eq!(world.planner.plan(&all), Plan::default());
    world.settle(&one);
}

#[test]
fn ids_stay_with_what_they_identify() {
    let mut world = World::new(ROOMY);
    let (a, b) = (cluster_ip("10.96.0.1", 80), cluster_ip("10.96.0.2", 80));
    let one = wanted(&[("a", simple("10.96.0.1", &[1, 2])), ("b", simple("10.96.0.2", &[2, 3]))]);
    world.full(&one, usize::MAX);
    let (before_a, before_b) = (value(&world, &a), value(&world, &b));
    assert_eq!((before_a.service_id, before_b.service_id), (1, 2));
    world.restart();
    let two = wanted(&[("a", simple("10.96.0.1", &[3])), ("b", simple("10.96.0.2", &[2, 3, 4]))]);
    world.full(&two, usize::MAX);
    assert_eq!((value(&world, &a).service_id, value(&world, &b).service_id), (1, 2));
    let at = value(&world, &b).ring_base as usize;
    assert_eq!(world.kernel.ring[at..at + 3], [2, 3, 4]);
    world.settle(&two);
}

#[test]
fn a_backend_that_returns_before_its_grace_period_keeps_its_id() {
    let mut world = World::new(ROOMY);
    let states = [&[1, 2][..], &[2], &[1, 2]].map(|backends| wanted(&[("a", simple("10.96.0.1", backends))]));
    world.full(&states[0], usize::MAX);
    world.change(&states[0], &states[1], usize::MAX);
    let epoch = world.seal().unwrap();
    assert_eq!(stages(&world.change(&states[1], &states[2], usize::MAX)), ["ring", "record"]);
    world.pass(epoch, &states[2], usize::MAX);
    assert_eq!(world.kernel.backends4.keys().collect::<Vec<_>>(), [&1, &2]);
    world.settle(&states[2]);
}

#[test]
fn a_backend_that_a_plan_counts_on_is_not_cleared_meanwhile() {
    let mut world = World::new(ROOMY);
    let states = [&[1, 2][..], &[2], &[1, 2]].map(|backends| wanted(&[("a", simple("10.96.0.1", backends))]));
    world.full(&states[0], usize::MAX);
    world.change(&states[0], &states[1], usize::MAX);
    let epoch = world.seal().unwrap();
    let plan = world.planner.plan(&changes(&states[1], &states[2]));
    world.pass(epoch, &states[2], usize::MAX);
    world.perform(&plan.ops, &states[2], usize::MAX);
    world.settle(&states[2]);
}

#[test]
fn a_backend_about_to_be_cleared_is_not_planned_with() {
    let mut world = World::new(ROOMY);
    let states = [&[1, 2][..], &[2], &[1, 2]].map(|backends| wanted(&[("a", simple("10.96.0.1", backends))]));
    world.full(&states[0], usize::MAX);
    world.change(&states[0], &states[1], usize::MAX);
    let epoch = world.seal().unwrap();
    // The clearing write fails: it is dropped, and offered again after the next epoch.
    world.pass(epoch, &states[1], 0);
    assert_eq!(stages(&world.change(&states[1], &states[2], usize::MAX)), ["backend", "ring", "record"]);
    world.settle(&states[2]);
}

#[test]
fn generations_grow_with_the_list_and_name_one_list_only() {
    let mut world = World::new(ROOMY);
    let inside = cluster_ip("10.96.0.1", 80);
    let outside = external("192.0.2.1", 443);
    let state = |cluster: &[u8], local: &[u8]| {
        wanted(&[(
            "a",
            service(vec![port("http", vec![inside.clone(), outside.clone()], cluster, local, &[])]),
        )])
    };
    let steps = [
        (state(&[1, 2], &[1]), (1, 2)),
        (state(&[1, 2], &[2]), (1, 3)),
        (state(&[1], &[2]), (4, 3)),
        (state(&[2], &[2]), (5, 3)),
        (state(&[1, 2], &[1]), (6, 7)),
    ];
    let mut before = Wanted::new();
    for (after, expected) in steps {
        world.change(&before, &after, usize::MAX);
        let generations = (value(&world, &inside).generation, value(&world, &outside).generation);
        assert_eq!(generations, expected);
        world.settle(&after);
        before = after;
    }
}

#[test]
fn a_frontend_added_to_a_list_shares_its_range_and_generation() {
    let mut world = World::new(ROOMY);
    let first = cluster_ip("10.96.0.1", 80);
    let second = Frontend { owns_address: false, ..cluster_ip("192.0.2.1", 30_080) };
    let state = |frontends: Vec<Frontend>| {
        wanted(&[("a", service(vec![port("http", frontends, &[1, 2], &[], &[3])]))])
    };
    let (one, two) = (state(vec![first.clone()]), state(vec![first.clone(), second.clone()]));
    world.full(&one, usize::MAX);
    assert_eq!(stages(&world.change(&one, &two, usize::MAX)), ["address", "record"]);
    let (a, b) = (value(&world, &first), value(&world, &second));
    assert_eq!(
        (a.ring_base, a.ring_len, a.keep_len, a.generation),
        (b.ring_base, b.ring_len, b.keep_len, b.generation)
    );
    assert_eq!((a.ring_len, a.keep_len), (2, 1));
    world.settle(&two);
}

#[test]
fn equal_lists_share_one_range() {
    let mut world = World::new(ROOMY);
    let one = wanted(&[("a", rich(443, "10.0.0.0/8", &[1, 2], &[1, 2]))]);
    let plan = world.full(&one, usize::MAX);
    assert_eq!(stages(&plan).iter().filter(|stage| **stage == "ring").count(), 1);
    world.settle(&one);
}

#[test]
fn two_frontends_that_exchange_their_lists_are_safe_at_every_write() {
    let mut world = World::new(ROOMY);
    let state = |first: ListKind, second: ListKind| {
        let frontends = vec![
            Frontend { list: first, ..cluster_ip("10.96.0.1", 80) },
            Frontend { list: second, ..cluster_ip("10.96.0.2", 80) },
        ];
        wanted(&[("a", service(vec![port("http", frontends, &[1, 2], &[3], &[])]))])
    };
    let (one, two) = (state(ListKind::Cluster, ListKind::Local), state(ListKind::Local, ListKind::Cluster));
    world.full(&one, usize::MAX);
    world.change(&one, &two, usize::MAX);
    world.settle(&two);
}

#[test]
fn an_empty_list_has_no_range_and_says_what_clients_get() {
    let cases = [
        (WhenEmpty::Reject, ServiceFlags::REJECT_WHEN_EMPTY, "10.96.0.1:80/TCP internal -> reject\n"),
        (WhenEmpty::Drop, ServiceFlags::DROP_WHEN_EMPTY, "10.96.0.1:80/TCP internal -> drop\n"),
    ];
    for (when_empty, flag, text) in cases {
        let mut world = World::new(ROOMY);
        let frontend = Frontend { when_empty, ..cluster_ip("10.96.0.1", 80) };
        let one = wanted(&[("a", service(vec![port("http", vec![frontend.clone()], &[], &[], &[])]))]);
        assert_eq!(stages(&world.full(&one, usize::MAX)), ["address", "record"]);
        let value = value(&world, &frontend);
        assert_eq!((value.ring_base, value.ring_len, value.keep_len, value.flags), (0, 0, 0, flag));
        assert_eq!(world.kernel.text(), text);
        world.settle(&one);
    }
}

#[test]
fn endpoints_that_only_keep_their_flows_follow_the_selectable() {
    let mut world = World::new(ROOMY);
    let frontend = cluster_ip("10.96.0.1", 80);
    let one = wanted(&[("a", service(vec![port("http", vec![frontend.clone()], &[], &[], &[4, 2])]))]);
    world.full(&one, usize::MAX);
    let value = value(&world, &frontend);
    assert_eq!((value.ring_len, value.keep_len, value.flags), (0, 2, ServiceFlags::REJECT_WHEN_EMPTY));
    assert_eq!(
        world.kernel.text(),
        "10.96.0.1:80/TCP internal -> reject keep 10.244.0.2:8080 10.244.0.4:8080\n"
    );
    world.settle(&one);
}

#[test]
fn a_port_that_lost_its_last_frontend_holds_no_id() {
    let mut world = World::new(ROOMY);
    let contested = external("192.0.2.9", 443);
    let of = |frontends: &[Frontend]| service(vec![port("http", frontends.to_vec(), &[], &[], &[])]);
    let one = wanted(&[("b", of(std::slice::from_ref(&contested)))]);
    let two = wanted(&[("a", of(&[contested])), ("b", of(&[]))]);
    world.full(&one, usize::MAX);
    world.change(&one, &two, 0);
    world.change(&one, &two, usize::MAX);
    world.settle(&two);
    assert_eq!(world.planner.service_ids().count(), 1);
}

#[test]
fn a_port_that_returns_before_it_was_deleted_keeps_its_id() {
    let ports = |names: &[&str]| {
        let one = |(n, name): (usize, &&str)| {
            let at = 80 + u16::try_from(n).unwrap();
            port(name, vec![cluster_ip("10.96.0.1", at)], &[1], &[], &[])
        };
        wanted(&[("a", service(names.iter().enumerate().map(one).collect()))])
    };
    let (one, less) = (ports(&["http", "https"]), ports(&["http"]));
    for all_gone in [false, true] {
        let mut world = World::new(ROOMY);
        world.full(&one, usize::MAX);
        let before = world.kernel.clone();
        let less = if all_gone { Wanted::new() } else { less.clone() };
        world.change(&one, &less, 0);
        assert_eq!(world.change(&less, &one, usize::MAX).ops, []);
        assert_eq!(world.kernel, before);
        world.settle(&one);
    }
}

#[test]
fn a_frontend_can_move_to_another_service_in_one_write() {
    let mut world = World::new(ROOMY);
    let contested = Frontend { owns_address: false, ..cluster_ip("192.0.2.9", 443) };
    let of = |port_of: &[Frontend], backends: &[u8]| {
        service(vec![port("http", port_of.to_vec(), backends, &[], &[])])
    };
    let own = [cluster_ip("10.96.0.1", 80), cluster_ip("10.96.0.2", 80)];
    let one = wanted(&[("a", of(&[own[0].clone(), contested.clone()], &[1])), ("b", of(&own[1..], &[2]))]);
    let two = wanted(&[("a", of(&own[..1], &[1])), ("b", of(&[own[1].clone(), contested.clone()], &[2]))]);
    world.full(&one, usize::MAX);
    let plan = world.change(&one, &two, usize::MAX);
    assert_eq!(stages(&plan), ["record"]);
    assert_eq!(value(&world, &contested).service_id, value(&world, &own[1]).service_id);
    world.settle(&two);
    // The winner is planned alone, and the loser afterwards.
    let only = |service: &str| changes(&two, &one).into_iter().filter(|(n, _)| *n == name(service)).collect();
    let plan = world.planner.plan(&only("a"));
    world.perform(&plan.ops, &one, usize::MAX);
    let plan = world.planner.plan(&only("b"));
    world.perform(&plan.ops, &one, usize::MAX);
    world.settle(&one);
}

#[test]
fn a_guest_on_a_cluster_ip_does_not_switch_off_the_refusal_of_unknown_ports() {
    let mut world = World::new(ROOMY);
    let one = wanted(&[("a", simple("10.96.0.1", &[1]))]);
    let guest = Frontend { owns_address: false, ..cluster_ip("10.96.0.1", 9_000) };
    let mut two = one.clone();
    two.insert(name("b"), service(vec![port("http", vec![guest], &[2], &[], &[])]));
    world.full(&one, usize::MAX);
    world.settle(&one);
    assert_eq!(stages(&world.change(&one, &two, usize::MAX)), ["backend", "ring", "record"]);
    world.settle(&two);
    assert_eq!(stages(&world.change(&two, &one, usize::MAX)), ["record-"]);
    world.settle(&one);
}

#[test]
fn a_port_with_another_family_in_its_lists_uses_only_its_own() {
    let mut world = World::new(ROOMY);
    let mut mixed =
        port("http", vec![cluster_ip("10.96.0.1", 80), cluster_ip("fd01::1", 80)], &[1], &[], &[]);
    mixed.lists.cluster.extend(port("", vec![cluster_ip("fd01::1", 80)], &[1], &[], &[]).lists.cluster);
    world.full(&wanted(&[("a", service(vec![mixed]))]), usize::MAX);
    assert_eq!(world.kernel.text(), "10.96.0.1:80/TCP internal -> 10.244.0.1:8080\n");
    assert_eq!((world.kernel.services6.len(), world.kernel.backends6.len()), (0, 0));
}
