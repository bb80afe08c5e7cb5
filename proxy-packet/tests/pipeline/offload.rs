//! Who computes a checksum does not matter: the packet on the wire is the same.

use proptest::prelude::*;
use proxy_packet::Verdict;
use proxy_packet::simulation::outer_checksums_valid;

use crate::generate::hooks;
use crate::generate::scene::{Scene, any_scene};
use crate::generate::seen::seen;
use crate::generate::traffic::{Packet, packet};
use crate::generate::world::Ip;

/// Where the transport header and its checksum are, if a device can complete it: a plain TCP or UDP packet.
fn completed(scene: &Scene, packet: &Packet) -> Option<(u32, u32)> {
    let shape = &packet.shape;
    let plain = shape.options == 0
        && shape.extensions.is_empty()
        && shape.fragment.is_none()
        && shape.padding == 0
        && shape.udp_sum;
    let start = 14 + 4 * u32::try_from(shape.tags.len()).ok()? + if scene.ip == Ip::V4 { 20 } else { 40 };
    let bytes = packet.bytes(scene);
    let protocol = bytes[usize::try_from(start).ok()? - if scene.ip == Ip::V4 { 11 } else { 34 }];
    match protocol {
        6 if plain && bytes.len() >= start as usize + 20 => Some((start, start + 16)),
        17 if plain && bytes.len() >= start as usize + 8 => Some((start, start + 6)),
        _ => None,
    }
}

/// In ones' complement nothing is also all ones: that is what senders and devices write.
fn mark_sum(bytes: &mut [u8], field: u32) {
    let field = field as usize;
    if bytes[field..field + 2] == [0, 0] {
        bytes[field..field + 2].fill(0xff);
    }
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_checksum_that_is_left_to_the_device_comes_out_the_same(scene in any_scene(Just(64)), packet in packet(0)) {
        let Some((start, field)) = completed(&scene, &packet) else { return Ok(()) };
        let (mut whole, mut left) = (scene.world(), scene.world());
        let outcome = packet.send(&scene, &mut whole);
        packet.put(&scene, &mut left);
        left.leave_to_device(start, field);
        mark_sum(&mut left.bytes, field);
        let other = hooks::run(&mut left, packet.hook(&scene));
        if other.verdict == Verdict::Drop {
            return Ok(());
        }
        prop_assert_eq!(&outcome, &other);
        left.transmit();
        mark_sum(&mut whole.bytes, field);
        if outcome.verdict == Verdict::Bounce {
            prop_assert_eq!(outer_checksums_valid(&left.bytes), Ok(()));
        } else {
            prop_assert_eq!(&whole.bytes, &left.bytes);
        }
    }

    #[test]
    fn a_sum_that_the_device_made_fits_the_packet_afterwards(scene in any_scene(Just(64)), packet in packet(0)) {
        // Of a datagram without checksum nobody asks for the sum, nor of SCTP, which has another.
        let bytes = packet.bytes(&scene);
        if !packet.shape.udp_sum || seen(&bytes).is_some_and(|seen| seen.protocol == 132) {
            return Ok(());
        }
        let (mut none, mut complete) = (scene.world(), scene.world());
        let outcome = packet.send(&scene, &mut none);
        packet.put(&scene, &mut complete);
        complete.sum_by_device();
        let other = hooks::run(&mut complete, packet.hook(&scene));
        prop_assert_eq!(outcome.clone(), other);
        if outcome.verdict == Verdict::Drop {
            return Ok(());
        }
        prop_assert_eq!(&none.bytes, &complete.bytes);
        prop_assert!(complete.device_sum_fits());
    }
}
