//! Egress masquerade is one to one, and nothing of a pod leaves towards the outside with the pod's address.

use std::collections::HashMap;
use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::sample::select;
use proxy_common::{Address as _, MasqueradeKey, MasqueradeKind};
use proxy_packet::Verdict;
use proxy_packet::simulation::{Frame, Simulation, checksums_valid};

use crate::generate::hooks::{self, Hook};
use crate::generate::scene::End;
use crate::generate::traffic::{echo, segment, socket};
use crate::generate::world::{Device, Ip, node, v4, v6};
use crate::network::{ACK, SYN};

/// Numbers of the protocols that are masqueraded; 1 stands for both families' echo.
const PROTOCOLS: [u8; 4] = [1, 6, 17, 132];

/// A conversation of a pod with somebody outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Talk {
    protocol: u8,
    pod: End,
    outside: End,
}

fn talk() -> impl Strategy<Value = Talk> {
    let pod = (select(&["local", "local2"][..]), select(&[40_000_u16, 40_001, 1_024][..]));
    let outside = (select(&["client", "client2", "neighbour"][..]), select(&[443_u16, 444][..]));
    (select(&PROTOCOLS[..]), pod, outside).prop_map(|(protocol, pod, outside)| {
        // Who is asked for an echo has no port.
        let outside = if protocol == 1 { (outside.0, 0) } else { outside };
        Talk { protocol, pod, outside }
    })
}

fn world(ports: u32) -> Simulation {
    let mut world = node();
    world.settings.masquerade = 1;
    world.settings.source_port_count = ports;
    world.settings.flows = 4_096;
    for (address, bits) in [(v4("local").to_mapped(), 96 + 24), (v6("local"), 64)] {
        world.masquerade.push((MasqueradeKey { address }, bits, MasqueradeKind::Pod));
    }
    world.confine_pods();
    world
}

fn frame(ip: Ip, protocol: u8, ends: (End, End), flags: u8) -> Frame {
    if protocol == 1 {
        echo(ip, ends, ends.0.1 == 0, 9)
    } else {
        segment(ip, ends, protocol, (flags, (7, 8)), 9)
    }
}

/// Source and destination of an unfragmented packet without options, an echo's identifier as the asking side's port.
fn ends(ip: Ip, protocol: u8, packet: &[u8]) -> (SocketAddr, SocketAddr) {
    let address = |at: usize| match ip {
        Ip::V4 => std::net::IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap()),
        Ip::V6 => std::net::IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap()),
    };
    let half = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (l4, source, destination) = if ip == Ip::V4 { (34, 26, 30) } else { (54, 22, 38) };
    let (from, to) = match (protocol, packet[l4]) {
        (1, 8 | 128) => (half(l4 + 4), 0),
        (1, _) => (0, half(l4 + 4)),
        _ => (half(l4), half(l4 + 2)),
    };
    (SocketAddr::new(address(source), from), SocketAddr::new(address(destination), to))
}

/// Lets the pod send; the ends of what leaves, unless nothing does.
fn leave(world: &mut Simulation, ip: Ip, talk: Talk, flags: u8) -> Option<(SocketAddr, SocketAddr)> {
    world.put(Device::Eth0.index(), frame(ip, talk.protocol, (talk.pod, talk.outside), flags).build());
    let outcome = hooks::run(world, Hook::NodeEgress);
    assert_eq!(checksums_valid(&world.bytes), Ok(()));
    (outcome.verdict == Verdict::Pass).then(|| ends(ip, talk.protocol, &world.bytes))
}

/// Lets the one outside answer what it saw; the ends of what goes on to the pod.
fn answer(world: &mut Simulation, ip: Ip, talk: Talk, port: u16) -> Option<(SocketAddr, SocketAddr)> {
    let flags = SYN | ACK;
    let packet = frame(ip, talk.protocol, (talk.outside, ("node", port)), flags);
    world.put(Device::Eth0.index(), packet.build());
    let outcome = hooks::run(world, Hook::NodeIngress);
    assert_eq!(checksums_valid(&world.bytes), Ok(()));
    (outcome.verdict == Verdict::Pass).then(|| ends(ip, talk.protocol, &world.bytes))
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn every_answer_leads_back_to_its_own_pod(
        ip in select(&Ip::BOTH[..]),
        ports in prop_oneof![1_u32..4, Just(500)],
        talks in prop::collection::vec(talk(), 1..40),
    ) {
        let mut world = world(ports);
        let mut owners: HashMap<(SocketAddr, SocketAddr, u8), Talk> = HashMap::new();
        for talk in &talks {
            let Some((source, destination)) = leave(&mut world, ip, *talk, SYN) else { continue };
            prop_assert_eq!(Some(source.ip()), ip.address("node"), "{:?} leaves from {}", talk, source);
            prop_assert_eq!(destination, socket(ip, talk.outside));
            let owner = *owners.entry((source, destination, talk.protocol)).or_insert(*talk);
            prop_assert_eq!(owner, *talk, "{} is two flows'", source);
            let back = answer(&mut world, ip, *talk, source.port());
            prop_assert_eq!(back, Some((socket(ip, talk.outside), socket(ip, talk.pod))), "{:?}", talk);
            prop_assert_eq!(leave(&mut world, ip, *talk, ACK), Some((source, destination)));
        }
        // Later, when all flows are there.
        for ((source, _, _), talk) in owners {
            let back = answer(&mut world, ip, talk, source.port());
            prop_assert_eq!(back, Some((socket(ip, talk.outside), socket(ip, talk.pod))), "{:?}", talk);
        }
    }
}
