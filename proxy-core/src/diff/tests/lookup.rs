//! What the shadow says of the kernel, before and after a change.

use proxy_common::Protocol;

use super::{
    ROOMY,
    build::{cluster_ip, name, port, service},
    world::{Wanted, World},
};
use crate::{
    desired::DesiredService,
    diff::{MapOp, Plan, Planner},
};

/// Two Services and the last bytes of their backends; `b` keeps flows to some that it no longer offers.
fn two(a: &[u8], b: &[u8], b_keeps: &[u8]) -> Wanted {
    let of = |address: &str, backends: &[u8], keep: &[u8]| -> DesiredService {
        service(vec![port("http", vec![cluster_ip(address, 80)], backends, &[], keep)])
    };
    Wanted::from([(name("a"), of("10.96.0.1", a, a)), (name("b"), of("10.96.0.2", b, b_keeps))])
}

fn offers(planner: &Planner, frontend: u8, backend: u8) -> bool {
    let frontend = format!("10.96.0.{frontend}:80").parse().unwrap();
    let backend = format!("10.244.0.{backend}:8080").parse().unwrap();
    assert!(!planner.offers(frontend, Protocol::Udp, backend), "there is no such frontend");
    planner.offers(frontend, Protocol::Tcp, backend)
}

/// For each write of a plan that is about a record, whether it takes something away from it.
fn takings(before: &World, plan: &Plan) -> Vec<bool> {
    let mut planner = before.planner.clone();
    let taking = |op: &MapOp| {
        let taking = match op {
            MapOp::Service(op) => Some(planner.takes_away(op)),
            _ => None,
        };
        planner.commit(op);
        taking
    };
    plan.ops.iter().filter_map(taking).collect()
}

#[test]
fn each_frontend_offers_what_its_own_record_lists() {
    let mut world = World::new(ROOMY);
    let (before, after) = (two(&[1, 2], &[1], &[1]), two(&[2], &[1], &[1]));
    world.full(&before, usize::MAX);
    assert!(offers(&world.planner, 1, 1) && offers(&world.planner, 2, 1));
    assert!(!offers(&world.planner, 2, 2) && !offers(&world.planner, 3, 1));
    world.change(&before, &after, usize::MAX);
    assert!(!offers(&world.planner, 1, 1), "another Service still has it, this one has not");
    assert!(offers(&world.planner, 1, 2) && offers(&world.planner, 2, 1));
    world.change(&after, &Wanted::from([(name("a"), after[&name("a")].clone())]), usize::MAX);
    assert!(!offers(&world.planner, 2, 1), "the Service is gone");
}

#[test]
fn only_a_write_that_shortens_what_flows_may_have_takes_away() {
    let start = two(&[1, 2], &[3], &[3]);
    let cases = [
        (two(&[1, 2, 4], &[3], &[3]), vec![false]),
        (two(&[1, 2], &[], &[3]), vec![false]),
        (two(&[2], &[3], &[3]), vec![true]),
        (two(&[1, 4], &[3, 5], &[3, 5]), vec![true, false]),
        (Wanted::from([(name("a"), start[&name("a")].clone())]), vec![true, false]),
    ];
    for (wanted, expected) in cases {
        let mut world = World::new(ROOMY);
        world.full(&start, usize::MAX);
        let before = world.clone();
        let plan = world.change(&start, &wanted, usize::MAX);
        assert_eq!(takings(&before, &plan), expected, "{:?}", plan.ops);
    }
}
