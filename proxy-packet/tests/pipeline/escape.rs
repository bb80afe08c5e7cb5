//! Nothing escapes: a packet for a Service goes to one of its backends or nowhere, a living flow's packets are always
//! translated.

use proptest::prelude::*;
use proxy_common::{Counter, FlowFlags, Ipv4Be, Ipv6Be, Scope, ServiceFlags};
use proxy_packet::Verdict;
use proxy_packet::simulation::{Extension, Simulation};

use crate::generate::hooks::Hook;
use crate::generate::keys;
use crate::generate::scene::{Scene, Service, any_scene};
use crate::generate::seen::{Seen, addresses, seen};
use crate::generate::traffic::{At, Ends, Packet, Sent, Shape, packet, socket};
use crate::generate::world::{CLUSTER_IPS, Device, Ip, Named};

/// Whether the packet can be read to its ports.
fn is_plain(packet: &Packet) -> bool {
    let elsewhere = |extension: &Extension| matches!(extension, Extension::Routing(left) if *left != 0);
    let first = packet.shape.fragment.is_none();
    first && packet.shape.extensions.len() <= 6 && !packet.shape.extensions.iter().any(elsewhere)
}

/// The Service that is asked at this hook.
fn asked<'a>(scene: &'a Scene, hook: Hook, asked: &Seen) -> Option<&'a Service> {
    // The last one has the record.
    let in_scope = |scope: Scope| {
        scene.services.iter().rev().find(|service| {
            let same = socket(scene.ip, service.frontend) == asked.destination;
            same && service.protocol == asked.protocol && service.scopes.contains(&scope)
        })
    };
    match hook {
        Hook::PodIngress => in_scope(Scope::Internal),
        Hook::NodeIngress => in_scope(Scope::External).or_else(|| {
            in_scope(Scope::Internal).filter(|service| CLUSTER_IPS.contains(&service.frontend.0))
        }),
        Hook::NodeEgress | Hook::PodEgress => None,
    }
}

/// Whether a living flow has the packet as its backend's, and the packet leaves where its client is.
fn is_reply_of_living<A: Named>(world: &mut Simulation, packet: &Seen) -> bool {
    let (now, settings) = (keys::now(world), world.settings);
    A::tables(world).flows.values().any(|flow| {
        let ends = (
            flow.backend.text(),
            flow.backend_port.to_host(),
            flow.source.text(),
            flow.source_port.to_host(),
        );
        let text = |end: std::net::SocketAddr| (crate::generate::world::text(end.ip()), end.port());
        let (from, to) = (text(packet.source), text(packet.destination));
        // Nor is what keeps the pod's address translated.
        let untranslated = FlowFlags::SOURCE_IS_NODE | FlowFlags::MASQUERADED;
        ends == (from.0, from.1, to.0, to.1)
            && flow.protocol == packet.protocol
            && flow.flags & untranslated == 0
            && keys::lives(flow, &settings, now)
    })
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_packet_for_a_service_goes_to_a_backend_or_nowhere(scene in any_scene(Just(64)), packet in packet(0)) {
        if !is_plain(&packet) {
            return Ok(());
        }
        let bytes = packet.bytes(&scene);
        let Some(request) = seen(&bytes) else { return Ok(()) };
        let Some(service) = asked(&scene, packet.hook(&scene), &request) else { return Ok(()) };
        if service.flags & ServiceFlags::HOST_NETNS_ONLY != 0 {
            return Ok(());
        }
        let mut world = scene.world();
        let outcome = packet.send(&scene, &mut world);
        if matches!(outcome.verdict, Verdict::Pass | Verdict::Redirect) {
            let went = seen(&world.bytes).unwrap();
            let given = scene.flows.iter().map(|flow| socket(scene.ip, flow.backend));
            let given_back = scene.flows.iter().map(|flow| socket(scene.ip, flow.client));
            let mut ends = service.backends.iter().chain(&service.kept).map(|end| socket(scene.ip, *end)).chain(given);
            let known = ends.any(|end| end == went.destination) || given_back.into_iter().any(|end| end == went.destination);
            prop_assert!(known, "{:?}\n went {:?}", outcome, went);
        }
    }

    #[test]
    fn later_fragments_share_the_fate_of_their_first(
        scene in any_scene(Just(64)), packet in packet(0), at in 1_u16..40,
    ) {
        // Of ICMP messages but echoes nobody remembers the first: they are never fragmented.
        if matches!(packet.sent, Sent::Error { .. } | Sent::Other { protocol: 1 | 58, .. }) {
            return Ok(());
        }
        let mut world = scene.world();
        let fates = [true, false].map(|first| {
            let shape = Shape { fragment: Some((first, at * 8, 7)), segment: 0, ..packet.shape.clone() };
            let outcome = Packet { at: At::Fitting, shape, ..packet.clone() }.send(&scene, &mut world);
            (outcome.verdict, addresses(&world.bytes), outcome.counts)
        });
        // What is dropped or answered once is nobody's afterwards; what is too long elsewhere is a matter of each.
        let [(verdict, went, _), (later, followed, counts)] = &fates;
        let too_big = *later == Verdict::Bounce || counts.contains_key(&Counter::DroppedTooBig);
        let compared = !matches!(verdict, Verdict::Drop | Verdict::Bounce) && !too_big;
        prop_assert!(!compared || (verdict, went) == (later, followed), "{:?}", fates);
    }

    #[test]
    fn a_living_flow_s_reply_never_leaves_untranslated(
        scene in any_scene(Just(64)), packet in packet(0), number in 0_usize..7, (pod, from_host) in any::<(bool, bool)>(),
    ) {
        let at = if pod {
            At::Any(Hook::PodEgress, Device::Pod0, false)
        } else {
            At::Any(Hook::NodeEgress, Device::Eth0, from_host)
        };
        let packet = Packet { at, ends: Ends::Reply(number), ..packet };
        // The answer to a SYN that the flow has not seen is another connection's, straight to the backend.
        if !is_plain(&packet) || matches!(packet.sent, Sent::Segment { flags: 0x12, .. }) {
            return Ok(());
        }
        let bytes = packet.bytes(&scene);
        let Some(reply) = seen(&bytes) else { return Ok(()) };
        let mut world = scene.world();
        let living = match scene.ip {
            Ip::V4 => is_reply_of_living::<Ipv4Be>(&mut world, &reply),
            Ip::V6 => is_reply_of_living::<Ipv6Be>(&mut world, &reply),
        };
        if !living {
            return Ok(());
        }
        let outcome = packet.send(&scene, &mut world);
        let left = matches!(outcome.verdict, Verdict::Pass | Verdict::Redirect);
        prop_assert!(!left || world.bytes != bytes, "{:?}", outcome);
    }
}
