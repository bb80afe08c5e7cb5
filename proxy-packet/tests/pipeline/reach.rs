//! The generated cases are worth something only if they get everywhere.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use proxy_common::Counter;
use proxy_packet::Verdict;

use crate::generate::oracle::Fate;
use crate::generate::scene::any_scene;
use crate::generate::traffic::packet;
use crate::generate::witness::Witness;

/// States, and packets into each.
const STATES: usize = 5_000;
const PACKETS: usize = 4;

/// What needs a torn record, a node without an address, or a limit, which the written cases have.
const ELSEWHERE: [Counter; 3] =
    [Counter::RefusedUnstable, Counter::DroppedNoSourceAddress, Counter::DroppedRefusalLimit];

/// Protocols of egress masquerade.
const MASQUERADED: [u8; 5] = [1, 6, 17, 58, 132];

#[test]
fn generated_packets_reach_every_outcome() {
    let mut counts: BTreeMap<Counter, u64> = BTreeMap::new();
    let mut verdicts: BTreeMap<u32, u64> = BTreeMap::new();
    let (mut left, mut returned) = (BTreeSet::new(), BTreeSet::new());
    let mut runner = TestRunner::new(crate::config_from(crate::SEED));
    let scenes = any_scene(prop_oneof![Just(1_u32), Just(64)]);
    let packets = prop::collection::vec(packet(1), PACKETS);
    for _ in 0..STATES {
        let scene = scenes.new_tree(&mut runner).unwrap().current();
        let mut world = scene.world();
        let mut witness = Witness::new(&scene, &mut world);
        for packet in packets.new_tree(&mut runner).unwrap().current() {
            let before = packet.bytes(&scene);
            let outcome = packet.send(&scene, &mut world);
            let fate = Fate::of(outcome.verdict);
            witness.look(packet.hook(&scene), world.from_host, (&before, &world.bytes), fate);
            *verdicts.entry(outcome.verdict as u32).or_default() += 1;
            for (counter, count) in outcome.counts {
                *counts.entry(counter).or_default() += count;
            }
        }
        left.extend(witness.left);
        returned.extend(witness.returned);
    }
    eprintln!("{verdicts:?}\n{counts:#?}");
    for verdict in [Verdict::Pass, Verdict::Drop, Verdict::Redirect, Verdict::Bounce, Verdict::ToHost] {
        assert!(verdicts.contains_key(&(verdict as u32)), "no packet has the verdict {verdict:?}");
    }
    // With the node's address to the outside, and back to a pod.
    assert_eq!([&left, &returned], [&MASQUERADED.into(); 2]);
    let of_packets = Counter::ALL.iter().filter(|counter| **counter >= Counter::PacketForward);
    // The guard counts before the path.
    let of_path = of_packets.filter(|counter| !counter.label().starts_with("dropped_pod_"));
    let missing: Vec<_> =
        of_path.filter(|counter| !counts.contains_key(counter) && !ELSEWHERE.contains(counter)).collect();
    assert!(missing.is_empty(), "no packet counts {missing:?}");
}
