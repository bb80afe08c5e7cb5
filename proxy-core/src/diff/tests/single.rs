//! One change at a time: order, identity, generations, shared lists, refusals.

use proxy_common::{ServiceFlags, ServiceValue};

use super::{
    ROOMY,
    build::{cluster_ip, external, name, port, service, simple},
    world::{Wanted, World, changes},
};
use crate::{
    desired::{DesiredService, Frontend, ListKind, WhenEmpty},
    diff::{Capacities, MapOp, Plan},
    entries::RecordKey,
};

fn wanted(services: &[(&str, DesiredService)]) -> Wanted {
    services.iter().map(|(service, desired)| (name(service), desired.clone())).collect()
}

fn key(frontend: &Frontend) -> RecordKey {
    RecordKey::from(&frontend.key)
}

fn value(world: &World, frontend: &Frontend) -> ServiceValue {
    world.kernel.record(&key(frontend)).unwrap()
}

/// What a write is, in the words of the write order.
fn stage(op: &MapOp) -> &'static str {
    match op {
        MapOp::Backend(op) if op.is_clear() => "clear",
        MapOp::Backend(_) => "backend",
        MapOp::WriteRing { .. } => "ring",
        MapOp::PutSourceRange { .. } => "range+",
        MapOp::DeleteSourceRange { .. } => "range-",
        MapOp::Service(op) => match (op.key().port, op.value()) {
            (0, Some(_)) => "address",
            (0, None) => "address-",
            (_, Some(_)) => "record",
            (_, None) => "record-",
        },
    }
}

fn stages(plan: &Plan) -> Vec<&'static str> {
    plan.ops.iter().map(stage).collect()
}

/// A Service with a frontend on both of its lists and a source range.
fn rich(node_port: u16, range: &str, cluster: &[u8], local: &[u8]) -> DesiredService {
    let mut balancer = external("192.0.2.1", node_port);
    balancer.source_ranges = vec![range.parse().unwrap()];
    service(vec![port("http", vec![cluster_ip("10.96.0.1", 80), balancer], cluster, local, &[])])
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
fn freed_space_is_reused_only_after_its_grace_period() {
    // Ring and backends have room for two versions of two backends each, and no more.
    let mut world = World::new(Capacities { ring: 5, backends: 5, ..ROOMY });
    let states = [[1, 2], [3, 4], [5, 6]].map(|backends| wanted(&[("a", simple("10.96.0.1", &backends))]));
    world.full(&states[0], usize::MAX);
    world.change(&states[0], &states[1], usize::MAX);
    let refused = world.planner.plan(&changes(&states[1], &states[2])).refused;
    let figures: Vec<_> = refused.iter().map(|r| (r.map, r.needed, r.available, r.capacity)).collect();
    assert_eq!(figures, [("backends4", 2, 0, 5)]);
    assert!(world.grace(&states[1], usize::MAX));
    assert_eq!(world.change(&states[1], &states[2], usize::MAX).refused, []);
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
fn a_refused_service_keeps_all_of_its_old_version() {
    let v6 = |backends: &[u8]| port("http", vec![cluster_ip("fd01::1", 80)], backends, &[], &[]);
    let v4 = |backends: &[u8]| port("http", vec![cluster_ip("10.96.0.1", 80)], backends, &[], &[]);
    let one = wanted(&[("a", service(vec![v4(&[1]), v6(&[1])]))]);
    let two = wanted(&[("a", service(vec![v4(&[2]), v6(&[2, 3, 4])]))]);
    let cases = [
        (Capacities { backends: 4, ..ROOMY }, ("backends6", 3, 2, 4)),
        (Capacities { ring: 6, ..ROOMY }, ("ring", 3, 2, 6)),
    ];
    for (capacities, figures) in cases {
        let mut world = World::new(capacities);
        world.full(&one, usize::MAX);
        let before = world.kernel.clone();
        let plan = world.change(&one, &two, usize::MAX);
        let refused: Vec<_> =
            plan.refused.iter().map(|r| (r.map, r.needed, r.available, r.capacity)).collect();
        assert_eq!((refused, plan.ops), (vec![figures], vec![]));
        assert_eq!(world.kernel, before);
        // Also by the agent's next life, which has to find out what is whose.
        world.restart();
        let plan = world.full(&two, usize::MAX);
        assert_eq!((plan.refused.len(), plan.ops), (1, vec![]));
        world.settle(&one);
    }
}

#[test]
fn each_map_refuses_what_does_not_fit() {
    let addresses = |count: u8| {
        let frontends = (1..=count).map(|last| cluster_ip(&format!("10.96.0.{last}"), 80)).collect();
        service(vec![port("http", frontends, &[], &[], &[])])
    };
    let six = service(vec![port("http", vec![cluster_ip("fd01::1", 80)], &[], &[], &[])]);
    let ranges = rich(443, "10.0.0.0/8", &[], &[]);
    let cases = [
        (Capacities { services: 3, ..ROOMY }, addresses(2), ("services4", 4, 3, 3)),
        (Capacities { services: 1, ..ROOMY }, six, ("services6", 2, 1, 1)),
        (Capacities { source_ranges: 0, ..ROOMY }, ranges, ("source_ranges", 1, 0, 0)),
        (Capacities { ring: 3, ..ROOMY }, simple("10.96.0.1", &[1, 2, 3]), ("ring", 3, 2, 3)),
        (Capacities { backends: 3, ..ROOMY }, simple("10.96.0.1", &[1, 2, 3]), ("backends4", 3, 2, 3)),
    ];
    for (capacities, desired, figures) in cases {
        let mut world = World::new(capacities);
        let plan = world.planner.plan_full(&wanted(&[("a", desired), ("b", service(vec![]))]));
        let refused: Vec<_> =
            plan.refused.iter().map(|r| (r.map, r.needed, r.available, r.capacity)).collect();
        assert_eq!((refused, plan.ops), (vec![figures], vec![]));
        world.settle(&Wanted::new());
    }
}

#[test]
fn a_full_map_does_not_keep_a_service_from_changing_what_it_has() {
    let mut world = World::new(Capacities { services: 3, source_ranges: 1, ..ROOMY });
    let state = |backends: &[u8]| {
        let mut balancer = external("192.0.2.1", 80);
        balancer.source_ranges = vec!["10.0.0.0/8".parse().unwrap()];
        let beside = Frontend { list: ListKind::Cluster, ..external("192.0.2.1", 81) };
        wanted(&[("a", service(vec![port("http", vec![balancer, beside], backends, backends, &[])]))])
    };
    let (one, two) = (state(&[1, 2]), state(&[2]));
    world.full(&one, usize::MAX);
    assert_eq!(world.planner.usage().services4, 3);
    assert_eq!(world.change(&one, &two, usize::MAX).refused, []);
    world.settle(&two);
}

#[test]
fn an_audit_leaves_a_refused_service_what_it_has() {
    let state = |at: u16, backends: &[u8]| {
        let mut balancer = external("192.0.2.1", at);
        balancer.source_ranges = vec!["10.0.0.0/8".parse().unwrap()];
        wanted(&[("a", service(vec![port("http", vec![balancer], &[], backends, &[])]))])
    };
    let mut world = World::new(Capacities { backends: 3, ..ROOMY });
    let (one, two) = (state(443, &[1]), state(444, &[2, 3, 4]));
    world.full(&one, usize::MAX);
    assert_eq!(world.change(&one, &two, usize::MAX).refused.len(), 1);
    let dump = world.kernel.dump();
    world.planner.reload(&dump);
    let plan = world.planner.plan_full(&two);
    assert_eq!((plan.refused.len(), plan.ops), (1, vec![]));
    world.settle(&one);
}

#[test]
fn a_refusal_leaves_the_room_to_others() {
    let mut world = World::new(Capacities { backends: 4, ..ROOMY });
    let (big, small) = (simple("10.96.0.1", &[1, 2, 3, 4]), simple("10.96.0.2", &[5, 6, 7]));
    let both = wanted(&[("a", big), ("b", small.clone())]);
    let plan = world.planner.plan_full(&both);
    assert_eq!(plan.refused.iter().map(|refusal| refusal.service.clone()).collect::<Vec<_>>(), [name("a")]);
    let served = wanted(&[("b", small)]);
    world.perform(&plan.ops, &served, usize::MAX);
    world.settle(&served);
}

#[test]
fn places_promised_to_one_service_are_not_promised_to_another() {
    let mut world = World::new(Capacities { services: 3, ..ROOMY });
    let both = wanted(&[("a", simple("10.96.0.1", &[])), ("b", simple("10.96.0.2", &[]))]);
    let plan = world.planner.plan_full(&both);
    let refused: Vec<_> =
        plan.refused.iter().map(|r| (r.service.name.as_str(), r.needed, r.available)).collect();
    assert_eq!(refused, [("b", 2, 1)]);
}

#[test]
fn a_scattered_ring_refuses_with_its_longest_range() {
    let mut world = World::new(Capacities { ring: 7, ..ROOMY });
    let all = wanted(&[
        ("a", simple("10.96.0.1", &[1, 2])),
        ("b", simple("10.96.0.2", &[1, 3])),
        ("c", simple("10.96.0.3", &[2, 3])),
    ]);
    world.full(&all, usize::MAX);
    let mut less = all.clone();
    less.retain(|service, _| *service == name("b"));
    world.change(&all, &less, usize::MAX);
    world.settle(&less);
    let mut more = less.clone();
    more.insert(name("d"), simple("10.96.0.4", &[1, 2, 3]));
    let refused = world.planner.plan(&changes(&less, &more)).refused;
    assert_eq!(refused.iter().map(|r| (r.map, r.needed, r.available)).collect::<Vec<_>>(), [("ring", 3, 2)]);
    world.settle(&less);
}

#[test]
fn what_a_refused_service_was_promised_goes_to_the_next() {
    // Once x and z are gone, the ring has a hole of one and one of four; two places for backends are free.
    let mut world = World::new(Capacities { ring: 7, backends: 4, ..ROOMY });
    let all = wanted(&[
        ("x", simple("10.96.0.1", &[1])),
        ("y", simple("10.96.0.2", &[1])),
        ("z", simple("10.96.0.3", &[1])),
    ]);
    world.full(&all, usize::MAX);
    let shrunk = wanted(&[("y", all[&name("y")].clone())]);
    world.change(&all, &shrunk, usize::MAX);
    world.settle(&shrunk);
    assert_eq!(world.planner.usage().ring, 1);
    let mut more = shrunk.clone();
    let two_lists = vec![cluster_ip("10.96.0.4", 80), external("192.0.2.1", 443)];
    more.insert(name("a"), service(vec![port("http", two_lists, &[1, 2, 3], &[1, 2], &[])]));
    more.insert(name("b"), simple("10.96.0.5", &[4, 5]));
    let plan = world.planner.plan(&changes(&shrunk, &more));
    assert_eq!(
        plan.refused.iter().map(|r| (r.service.name.as_str(), r.map)).collect::<Vec<_>>(),
        [("a", "ring")]
    );
    more.remove(&name("a"));
    world.perform(&plan.ops, &more, usize::MAX);
    world.settle(&more);
}

#[test]
fn a_refused_service_gives_back_what_it_was_promised_and_never_got() {
    let mut world = World::new(Capacities { backends: 3, ..ROOMY });
    let (small, big) = (simple("10.96.0.1", &[1]), simple("10.96.0.1", &[1, 2, 3]));
    let (one, two) = (wanted(&[("a", small)]), wanted(&[("a", big)]));
    world.change(&Wanted::new(), &one, 0);
    let plan = world.planner.plan(&changes(&one, &two));
    assert_eq!((plan.refused.len(), plan.ops), (1, vec![]));
    world.settle(&Wanted::new());
}

#[test]
fn a_refused_service_keeps_a_frontend_that_nobody_took_in_the_end() {
    let world = World::new(Capacities { backends: 3, ..ROOMY });
    let contested = external("192.0.2.9", 443);
    let of = |last: u8, contested: &[Frontend], backends: &[u8]| {
        let own = cluster_ip(&format!("10.96.0.{last}"), 80);
        service(vec![port("http", contested.iter().cloned().chain([own]).collect(), backends, backends, &[])])
    };
    let theirs = [contested];
    let one = wanted(&[("a", of(1, &theirs, &[1]))]);
    let two = wanted(&[("a", of(1, &[], &[1])), ("b", of(2, &theirs, &[1]))]);
    let three = wanted(&[("a", of(1, &[], &[1, 2, 3]))]);
    // Also if it is refused already when the other one comes.
    let two_refused = wanted(&[("a", of(1, &[], &[1, 2, 3])), ("b", of(2, &theirs, &[1]))]);
    for two in [two, two_refused] {
        let mut world = world.clone();
        world.full(&one, usize::MAX);
        world.change(&one, &two, 0);
        let gone = [(name("b"), None), (name("a"), three.get(&name("a")).cloned())];
        let plan = world.planner.plan(&gone.into_iter().collect());
        assert_eq!((plan.refused.len(), plan.ops), (1, vec![]));
        world.settle(&one);
    }
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
fn a_refused_service_admits_nobody_whom_no_record_of_it_admits() {
    let first = rich(443, "10.0.0.0/8", &[1], &[1]);
    let second = rich(443, "11.0.0.0/8", &[2], &[2]);
    let third = rich(443, "12.0.0.0/8", &[1, 2, 3, 4], &[]);
    for (before, drafted) in [(None, &first), (Some(&first), &second)] {
        let mut world = World::new(Capacities { backends: 4, ..ROOMY });
        let one = before.map(|service| wanted(&[("a", service.clone())])).unwrap_or_default();
        let two = wanted(&[("a", drafted.clone())]);
        let three = wanted(&[("a", third.clone())]);
        world.full(&one, usize::MAX);
        let written = world.planner.clone().plan(&changes(&one, &two)).ops;
        let writes = written.iter().position(|op| stage(op) == "range+").unwrap() + 1;
        world.change(&one, &two, writes);
        let plan = world.planner.plan(&changes(&two, &three));
        assert_eq!((plan.refused.len(), stages(&plan)), (1, vec!["range-"]));
        world.perform(&plan.ops, &one, usize::MAX);
        world.settle(&one);
    }
}

#[test]
fn a_refused_service_keeps_what_was_about_to_be_deleted() {
    let mut world = World::new(Capacities { backends: 3, ..ROOMY });
    let mut balancer = external("192.0.2.1", 443);
    balancer.source_ranges = vec!["10.0.0.0/8".parse().unwrap()];
    let ports = |backends: &[u8]| {
        vec![
            port("http", vec![cluster_ip("10.96.0.1", 80)], backends, &[], &[]),
            port("https", vec![balancer.clone()], &[], &[1], &[]),
        ]
    };
    let one = wanted(&[("a", service(ports(&[1])))]);
    let less = wanted(&[("a", service(ports(&[1])[..1].to_vec()))]);
    let two = wanted(&[("a", service(ports(&[1, 2, 3])[..1].to_vec()))]);
    world.full(&one, usize::MAX);
    let before = world.kernel.clone();
    world.change(&one, &less, 0);
    let plan = world.planner.plan(&changes(&less, &two));
    assert_eq!((plan.refused.len(), plan.ops), (1, vec![]));
    assert_eq!(world.kernel, before);
    world.settle(&one);
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
fn a_refused_service_does_not_inherit_what_another_one_left() {
    let mut world = World::new(Capacities { backends: 3, ..ROOMY });
    let one = wanted(&[("a", simple("10.96.0.1", &[1]))]);
    world.full(&one, usize::MAX);
    // The deletion of a's record fails; b wants the frontend and does not fit.
    world.change(&one, &Wanted::new(), 0);
    let two = wanted(&[("b", simple("10.96.0.1", &[2, 3, 4]))]);
    let plan = world.planner.plan(&changes(&Wanted::new(), &two));
    assert_eq!((plan.refused.len(), stages(&plan)), (1, vec!["record-", "address-"]));
    world.perform(&plan.ops, &Wanted::new(), usize::MAX);
    world.settle(&Wanted::new());
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
fn an_address_shared_with_another_kind_lets_unknown_ports_pass() {
    let mut world = World::new(ROOMY);
    let one = wanted(&[("a", simple("10.96.0.1", &[1]))]);
    let guest = Frontend { owns_address: false, ..cluster_ip("10.96.0.1", 9_000) };
    let mut two = one.clone();
    two.insert(name("b"), service(vec![port("http", vec![guest], &[2], &[], &[])]));
    world.full(&one, usize::MAX);
    world.settle(&one);
    assert_eq!(stages(&world.change(&one, &two, usize::MAX)), ["backend", "ring", "record", "address"]);
    world.settle(&two);
    assert_eq!(stages(&world.change(&two, &one, usize::MAX)), ["record-", "address"]);
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
