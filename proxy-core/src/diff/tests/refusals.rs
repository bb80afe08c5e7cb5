//! Full maps: who is refused, what a refused Service keeps, and who gets the room.

use super::{
    ROOMY,
    build::{cluster_ip, external, name, port, rich, service, simple, wanted},
    world::{Wanted, World, changes, stage, stages},
};
use crate::{
    desired::{Frontend, ListKind},
    diff::Capacities,
};

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

/// Whatever becomes of the Service that was to have the frontend, and whichever comes first in a plan.
#[test]
fn a_refused_service_has_again_what_another_was_to_take_and_did_not() {
    let theirs = [external("192.0.2.9", 443)];
    let of = |last: u8, contested: &[Frontend], backends: &[u8]| {
        let own = cluster_ip(&format!("10.96.0.{last}"), 80);
        service(vec![port("http", contested.iter().cloned().chain([own]).collect(), backends, backends, &[])])
    };
    let too_many = [1, 2, 3];
    for (loser, taker) in [("a", "b"), ("b", "a")] {
        let one = wanted(&[(loser, of(1, &theirs, &[1]))]);
        let two = wanted(&[(loser, of(1, &[], &[1])), (taker, of(2, &theirs, &[1]))]);
        let taker_refused = of(2, &theirs, &too_many);
        let taker_content = of(2, &[], &[1]);
        for (taken, audit) in [(true, false), (true, true), (false, false), (false, true)] {
            let mut world = World::new(Capacities { backends: 3, ..ROOMY });
            world.full(&one, usize::MAX);
            world.change(&one, &two, 0);
            let third = if taken { &taker_refused } else { &taker_content };
            let three = wanted(&[(loser, of(1, &[], &too_many)), (taker, third.clone())]);
            let mut served = one.clone();
            if !taken {
                served.insert(name(taker), third.clone());
            }
            let plan = if audit {
                world.planner.reload(&world.kernel.dump());
                world.planner.plan_full(&three)
            } else {
                world.planner.plan(&changes(&two, &three))
            };
            assert_eq!(plan.refused.len(), if taken { 2 } else { 1 }, "{loser} {taken} {audit}");
            world.perform(&plan.ops, &served, usize::MAX);
            assert_eq!(plan.ops.is_empty(), taken, "{loser} {taken} {audit}");
            world.settle(&served);
        }
    }
}

/// The new ClusterIP of another one was only an external IP before: it proves nothing.
#[test]
fn a_refused_service_keeps_after_a_restart_what_an_accepted_one_does_not_take() {
    let guest = Frontend { owns_address: false, ..cluster_ip("10.96.0.2", 53) };
    let kept = external("192.0.2.9", 443);
    let of = |frontends: &[&Frontend], backends: &[u8]| {
        let frontends = frontends.iter().map(|frontend| (*frontend).clone()).collect();
        service(vec![port("http", frontends, backends, backends, &[])])
    };
    let mut world = World::new(Capacities { backends: 3, ..ROOMY });
    world.full(&wanted(&[("b", of(&[&guest, &kept], &[1]))]), usize::MAX);
    world.restart();
    let newcomer = of(&[&cluster_ip("10.96.0.2", 53)], &[1]);
    let served = wanted(&[("a", newcomer.clone()), ("b", of(&[&kept], &[1]))]);
    let plan = world.planner.plan_full(&wanted(&[("a", newcomer), ("b", of(&[&kept], &[1, 2, 3]))]));
    assert_eq!((plan.refused.len(), stages(&plan)), (1, vec!["ring", "record", "address"]));
    world.perform(&plan.ops, &served, usize::MAX);
    world.settle(&served);
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
