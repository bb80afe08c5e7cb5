//! The kernel holds what was decided.

use proxy_core::diff::{MapOp, Planner, RealisedDump, ServiceOp};
use proxy_core::model::{Event, ObjectName};
use proxy_userspace::dataplane::{Capacities, LbMaps as _, MemoryMaps};
use sheave_tests::objects::{node_port, publish, service};

use crate::setup::{Site, cluster, dump, endpoints, wanted, written};

fn sorted(mut dump: RealisedDump) -> RealisedDump {
    dump.services4.sort_unstable();
    dump.services6.sort_unstable();
    dump.backends4.sort_unstable();
    dump.backends6.sort_unstable();
    dump.source_ranges.sort_unstable();
    dump
}

#[test]
fn the_maps_say_what_was_decided() {
    let site = Site::new();
    let mut plane = site.open();
    plane.apply(cluster()).unwrap();
    assert_eq!(written(&mut plane), wanted(&plane.engine));
    assert!(written(&mut plane).contains("10.96.0.4:80/TCP internal -> reject"), "{}", written(&mut plane));
}

/// The in-memory double stands in for the kernel in the fast tests: here is the proof that it may.
#[test]
fn the_memory_double_and_the_kernel_agree_after_every_write() {
    let site = Site::new();
    let mut plane = site.open();
    let mut memory = MemoryMaps::new(Capacities::default());
    let changes: Vec<Vec<Event>> = vec![
        cluster(),
        publish(&service("plain", &["10.96.0.1"], 80, "TCP"), 8080, &endpoints(&[2, 5])),
        vec![Event::ServiceDeleted(ObjectName::new("default", "balanced"))],
        publish(&node_port(service("late", &["10.96.0.9"], 53, "UDP"), 30_053), 53, &endpoints(&[7, 8, 9])),
        vec![Event::ServiceDeleted(ObjectName::new("default", "plain"))],
    ];
    for (round, events) in changes.into_iter().enumerate() {
        let plan = plane.plan(events);
        assert!(!plan.ops.is_empty(), "round {round} changes something");
        for op in &plan.ops {
            plane.write(std::slice::from_ref(op)).unwrap();
            memory.apply(op).unwrap();
        }
        assert_eq!(sorted(dump(&mut plane)), sorted(memory.dump().unwrap()), "round {round}");
    }
}

/// The agent dies after each write in turn; the next one ends where the first would have.
#[test]
fn a_crash_after_any_write_is_completed_by_the_next_agent() {
    let site = Site::new();
    // Small maps are read faster, and this test reads them often.
    let small = Capacities {
        services: 1_024,
        ring: 4_096,
        backends: 1_024,
        affinity: 1_024,
        source_ranges: 1_024,
        ..Capacities::default()
    };
    let total = {
        let mut plane = site.open_with(small);
        let plan = plane.plan(cluster());
        plan.ops.len()
    };
    assert!(total > 20, "{total} writes");
    for crash in 0..=total {
        let mut first = site.open_with(small);
        let plan = first.plan(cluster());
        first.write(&plan.ops[..crash.min(plan.ops.len())]).unwrap();
        drop(first);

        let mut next = site.open_with(small);
        for event in cluster() {
            next.engine.handle(event);
        }
        let all = next.engine.all();
        let plan = next.planner.plan_full(&all);
        next.write(&plan.ops).unwrap();
        next.settle().unwrap();
        assert_eq!(written(&mut next), wanted(&next.engine), "after a crash behind write {crash}");

        // For the next turn: nothing is there.
        let plan = next.planner.plan_full(&std::collections::BTreeMap::new());
        next.write(&plan.ops).unwrap();
        next.settle().unwrap();
        let left = dump(&mut next);
        assert!(
            left.services4.is_empty() && left.backends4.is_empty() && left.source_ranges.is_empty(),
            "{crash}"
        );
    }
}

#[test]
fn what_somebody_else_changed_in_the_maps_is_found_and_repaired() {
    let site = Site::new();
    let mut plane = site.open();
    plane.apply(cluster()).unwrap();
    let before = written(&mut plane);
    let (key, _) = *dump(&mut plane).services4.iter().find(|(key, _)| !key.is_address_record()).unwrap();
    plane.data.maps().apply(&MapOp::Service(ServiceOp::V4(key, None))).unwrap();
    assert_ne!(written(&mut plane), before);

    let found = dump(&mut plane);
    plane.planner.reload(&found);
    let all = plane.engine.all();
    let repair = plane.planner.plan_full(&all);
    plane.write(&repair.ops).unwrap();
    assert_eq!(written(&mut plane), before);
    let found = dump(&mut plane);
    let mut fresh = Planner::restore(&found, proxy_core::diff::Capacities::default());
    assert_eq!(fresh.plan_full(&all).ops, [], "nothing is left to repair");
}
