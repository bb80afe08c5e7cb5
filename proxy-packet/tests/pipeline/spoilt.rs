//! Packets with changed bits and lengths: the path neither stops nor spoils them further.

use proptest::prelude::*;
use proxy_packet::Verdict;

use crate::generate::oracle::{Fate, harm};
use crate::generate::scene::{Scene, any_scene};
use crate::generate::traffic::{Packet, packet};
use crate::generate::witness::{Witness, is_sound};

/// Places for flows: a few, or more than there are.
fn places() -> impl Strategy<Value = u32> {
    prop_oneof![1_u32..4, Just(64)]
}

fn unharmed(scene: &Scene, packet: &Packet) -> Result<(), TestCaseError> {
    let mut world = scene.world();
    let before = packet.bytes(scene);
    let outcome = packet.send(scene, &mut world);
    let fate = Fate::of(outcome.verdict);
    let harm = harm(scene, &before, &world.bytes, fate, !outcome.counts.is_empty());
    prop_assert_eq!(harm, None, "{:?}", outcome);
    let mut witness = Witness::new(scene, &mut scene.world());
    let fault = witness.look(packet.hook(scene), world.from_host, (&before, &world.bytes), fate);
    prop_assert!(!is_sound(&before) || fault.is_none(), "{:?}: {}", outcome, fault.unwrap_or_default());
    Ok(())
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn checksums_that_were_right_stay_right(scene in any_scene(places()), packet in packet(0)) {
        unharmed(&scene, &packet)?;
    }

    #[test]
    fn a_spoilt_packet_is_not_spoilt_further(scene in any_scene(places()), packet in packet(4)) {
        unharmed(&scene, &packet)?;
    }

    #[test]
    fn any_bytes_at_all_are_survived(
        scene in any_scene(places()), packet in packet(0),
        bytes in prop::collection::vec(any::<u8>(), 15..120), six in any::<bool>(),
    ) {
        let mut world = scene.world();
        let mut bytes = bytes;
        bytes[12..14].copy_from_slice(if six { &[0x86, 0xdd] } else { &[8, 0] });
        bytes[14] = bytes[14] & 15 | if six { 0x60 } else { 0x40 };
        packet.put(&scene, &mut world);
        world.bytes = bytes.clone();
        world.ethertype = u16::from_ne_bytes([bytes[12], bytes[13]]);
        let outcome = crate::generate::hooks::run(&mut world, packet.hook(&scene));
        prop_assert!(outcome.verdict != Verdict::Pass || world.bytes == bytes, "{:?}", outcome);
    }

    /// A packet that nobody is concerned with: no Service, no flow.
    #[test]
    fn without_services_and_flows_nothing_is_touched(scene in any_scene(places()), packet in packet(4)) {
        let empty = Scene { services: Vec::new(), flows: Vec::new(), affinity: Vec::new(), egress: None, ..scene.clone() };
        let mut world = empty.world();
        packet.put(&scene, &mut world);
        let before = world.bytes.clone();
        let outcome = crate::generate::hooks::run(&mut world, packet.hook(&scene));
        prop_assert_eq!(outcome.verdict, Verdict::Pass);
        prop_assert!(outcome.counts.is_empty());
        prop_assert_eq!(before, world.bytes);
    }
}
