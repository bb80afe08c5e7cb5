//! The limits of a pod. Rates are so low, or so high, that the time a test takes does not count.

use std::time::Duration;

use aya::maps::HashMap;
use proxy_common::{Counter, EndpointValue, PacketSettings, names};
use sheave_tests::test_run::{Place, Programs, Ran, Sizes};

use crate::guard_rules::{DEVICE, DROP, NEXT, counted, guarded, pod, set, sized};

const SECOND_NS: u64 = 1_000_000_000;
/// A byte in a second.
const SLOW: u64 = 1;

fn sends(from_rate: u64, from_burst: u64) -> EndpointValue {
    EndpointValue { from_rate, from_burst, ..pod() }
}

fn run(programs: &mut Programs, program: &str, length: usize) -> Ran {
    programs.run(program, &sized(length), Place::default()).unwrap()
}

/// How many of 20 packets pass.
fn passed(programs: &mut Programs, program: &str, length: usize) -> usize {
    (0..20).filter(|_| run(programs, program, length).code == NEXT).count()
}

fn record(programs: &mut Programs) -> EndpointValue {
    let endpoints: HashMap<_, u32, EndpointValue> = programs.map(names::ENDPOINTS).unwrap();
    endpoints.get(&DEVICE, 0).unwrap()
}

#[test]
fn a_burst_passes_and_the_packet_that_uses_it_up() {
    let mut programs = guarded(&sends(SLOW, 3_000));
    assert_eq!(passed(&mut programs, "guard_ingress", 1_000), 4);
    assert_eq!(counted(&mut programs, Counter::DroppedPodSendLimit), 16);
    assert_eq!(counted(&mut programs, Counter::DroppedPodReceiveLimit), 0);
}

#[test]
fn a_burst_smaller_than_a_packet_stops_nobody_for_good() {
    for burst in [0, 1, 100] {
        let mut programs = guarded(&sends(SLOW, burst));
        assert_eq!(passed(&mut programs, "guard_ingress", 1_000), 1, "{burst}");
        // Later, when the account is settled.
        set(&mut programs, &EndpointValue { from_due: 1, ..sends(SLOW, burst) });
        assert_eq!(passed(&mut programs, "guard_ingress", 1_000), 1, "{burst}");
    }
}

#[test]
fn what_is_dropped_costs_nothing() {
    let mut programs = guarded(&sends(SLOW, 0));
    run(&mut programs, "guard_ingress", 1_000);
    let before = record(&mut programs);
    passed(&mut programs, "guard_ingress", 1_000);
    assert_eq!(record(&mut programs), before);
}

#[test]
fn each_byte_of_a_packet_counts() {
    let mut programs = guarded(&sends(SLOW, 1_000_000));
    run(&mut programs, "guard_ingress", 1_000);
    let first = record(&mut programs).from_due;
    run(&mut programs, "guard_ingress", 700);
    assert_eq!(record(&mut programs).from_due - first, 700 * SECOND_NS);
}

#[test]
fn the_directions_have_accounts_of_their_own() {
    let mut programs = guarded(&EndpointValue { to_rate: SLOW, to_burst: 2_000, ..sends(SLOW, 0) });
    assert_eq!(passed(&mut programs, "guard_ingress", 1_000), 1);
    assert_eq!(passed(&mut programs, "guard_egress", 1_000), 3);
    assert_eq!(counted(&mut programs, Counter::DroppedPodReceiveLimit), 17);
}

#[test]
fn without_a_limit_or_with_the_largest_everything_passes() {
    for (rate, burst) in [(0, 0), (u64::MAX, 0), (u64::MAX, u64::MAX), (SLOW, u64::MAX)] {
        let limits = EndpointValue { to_rate: rate, to_burst: burst, ..sends(rate, burst) };
        let mut programs = guarded(&limits);
        for program in names::GUARD_PROGRAMS {
            assert_eq!(passed(&mut programs, program, 1_500), 20, "{program} {rate} {burst}");
        }
    }
}

#[test]
fn a_forged_packet_does_not_use_up_the_limit() {
    let mut programs = guarded(&sends(SLOW, 0));
    let mut forged = sized(1_000);
    forged[6] ^= 2;
    assert_eq!(programs.run("guard_ingress", &forged, Place::default()).unwrap().code, DROP);
    assert_eq!(record(&mut programs).from_due, 0);
}

/// Where the node's devices have queues that keep packets: a second's worth of packets waits, one after the other.
#[test]
fn with_pacing_packets_get_a_time_of_departure_until_the_wait_is_too_long() {
    let pacing = Duration::from_secs(2_500);
    let mut programs = Programs::load_pacing(&PacketSettings::DEFAULT, &Sizes::default(), pacing).unwrap();
    set(&mut programs, &sends(SLOW, 0));
    let runs: Vec<Ran> = (0..6).map(|_| run(&mut programs, "guard_ingress", 1_000)).collect();
    let codes: Vec<i32> = runs.iter().map(|ran| ran.code).collect();
    assert_eq!(codes, [NEXT, NEXT, NEXT, DROP, DROP, DROP]);
    assert_eq!(runs[0].departure, 0, "the first goes at once");
    assert_ne!(runs[1].departure, 0);
    assert_eq!(runs[2].departure - runs[1].departure, 1_000 * SECOND_NS);
    assert_eq!(counted(&mut programs, Counter::DroppedPodSendLimit), 3);
}

#[test]
fn what_goes_into_a_pod_is_never_delayed() {
    let mut programs =
        Programs::load_pacing(&PacketSettings::DEFAULT, &Sizes::default(), Duration::from_secs(2_500))
            .unwrap();
    set(&mut programs, &EndpointValue { to_rate: SLOW, ..pod() });
    let runs = [(); 2].map(|()| run(&mut programs, "guard_egress", 1_000));
    assert_eq!(runs.map(|ran| (ran.code, ran.departure)), [(NEXT, 0), (DROP, 0)]);
}
