//! A table too small for its flows: what gives way goes whole, what is established stays.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;
use proxy_common::{FlowState, FlowValue, Ipv4Be, Ipv6Be};
use proxy_packet::simulation::Simulation;

use crate::generate::keys;
use crate::generate::oracle::Fate;
use crate::generate::scene::{CLIENTS, Scene, any_scene};
use crate::generate::traffic::{Packet, packet};
use crate::generate::witness::{Witness, is_sound};
use crate::generate::world::{Ip, Named, text};
use crate::network::{SYN, ask};

/// A small table, with flows in it.
fn crowded() -> impl Strategy<Value = Scene> {
    any_scene(1_u32..6)
}

fn checked(scene: &Scene, packets: &[Packet]) -> Result<(), TestCaseError> {
    match scene.ip {
        Ip::V4 => sent_one_by_one::<Ipv4Be>(scene, packets),
        Ip::V6 => sent_one_by_one::<Ipv6Be>(scene, packets),
    }
}

fn sent_one_by_one<A: Named>(scene: &Scene, packets: &[Packet]) -> Result<(), TestCaseError> {
    let mut world = scene.world();
    let known = known::<A>(scene, &mut world);
    let mut witness = Witness::new(scene, &mut world);
    for packet in packets {
        let established = proven::<A>(&mut world);
        let before = packet.bytes(scene);
        let outcome = packet.send(scene, &mut world);
        let fault = witness.look(
            packet.hook(scene),
            world.from_host,
            (&before, &world.bytes),
            Fate::of(outcome.verdict),
        );
        prop_assert!(!is_sound(&before) || fault.is_none(), "{:?}: {}", outcome, fault.unwrap_or_default());
        let faults = [
            keys::torn::<A>(&mut world),
            keys::leaked::<A>(&mut world),
            keys::foreign::<A>(&mut world, &|flow| {
                known.contains(&(flow.frontend, flow.backend)) || scene.explains(flow)
            }),
        ];
        prop_assert!(faults.iter().all(BTreeSet::is_empty), "{:?}: {:#?}", outcome, faults);
        let lost: Vec<_> = established.iter().filter(|flow| !is_there(&mut world, flow)).collect();
        let own = A::tables(&mut world).flows.values().map(FlowValue::forward_key).collect::<Vec<_>>();
        for flow in lost {
            // Only its own client may end or move it, or its backend, if it talks of another connection.
            let moved = own.contains(&flow.forward_key()) || is_from(scene, packet, flow);
            prop_assert!(moved, "{:?}\n lost {:?}", outcome, flow);
        }
        world.clock_ns += 300_000_000;
    }
    Ok(())
}

/// Frontends and backends that belong together.
fn known<A: Named>(scene: &Scene, world: &mut Simulation) -> Vec<(A, A)> {
    let services = scene.services.iter().flat_map(|service| {
        service.backends.iter().map(|backend| (A::named(service.frontend.0), A::named(backend.0)))
    });
    let flows = A::tables(world).flows.values().map(|flow| (flow.frontend, flow.backend)).collect::<Vec<_>>();
    services.chain(flows).collect()
}

fn proven<A: Named>(world: &mut Simulation) -> Vec<FlowValue<A>> {
    let (now, settings) = (keys::now(world), world.settings);
    let tables = A::tables(world).flows.values();
    let established = |flow: &&FlowValue<A>| {
        [FlowState::Established as u8, FlowState::HalfClosed as u8].contains(&flow.state)
    };
    // That both sides of a datagram flow receive can be forged: it holds its place less firmly.
    let tcp = tables.filter(|flow| flow.protocol == 6);
    tcp.filter(|flow| keys::lives(flow, &settings, now)).filter(established).copied().collect()
}

fn established<A: Named>(world: &mut Simulation) -> BTreeSet<String> {
    proven::<A>(world).iter().map(|flow| format!("{:?} {:?}", flow.forward_key(), flow.reply_key())).collect()
}

fn is_there<A: Named>(world: &mut Simulation, flow: &FlowValue<A>) -> bool {
    A::tables(world)
        .flows
        .values()
        .any(|there| (there.forward_key(), there.reply_key()) == (flow.forward_key(), flow.reply_key()))
}

/// Whether the packet is the flow's own client's, or an answer of its backend that opens a connection.
fn is_from<A: Named>(scene: &Scene, packet: &Packet, flow: &FlowValue<A>) -> bool {
    let Some(seen) = crate::generate::seen::seen(&packet.bytes(scene)) else {
        // A later fragment has no ports, and goes by those of the first.
        return packet.shape.fragment.is_some();
    };
    let (source, port) = (text(seen.source.ip()), seen.source.port());
    let opens = seen.protocol == 6 && seen.rest.get(9).is_some_and(|flags| flags & 0x12 == 0x12);
    let client = source == flow.client.text() && port == flow.client_port.to_host();
    client || opens && source == flow.backend.text() && port == flow.backend_port.to_host()
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn no_flow_is_torn_and_no_key_is_left_behind(
        scene in crowded(), packets in prop::collection::vec(packet(0), 1..30),
    ) {
        checked(&scene, &packets)?;
    }

    #[test]
    fn nor_by_spoilt_packets(
        scene in crowded(), packets in prop::collection::vec(packet(3), 1..30),
    ) {
        checked(&scene, &packets)?;
    }

    #[test]
    fn a_flood_of_new_connections_takes_no_established_one(
        mut scene in crowded(), flood in prop::collection::vec((select(&CLIENTS[..]), any::<u16>()), 100..300),
    ) {
        for flow in &mut scene.flows {
            (flow.protocol, flow.state, flow.age) = (6, FlowState::Established, 0);
        }
        scene.settings.flows_max = 8;
        let mut world = scene.world();
        let before = match scene.ip {
            Ip::V4 => established::<Ipv4Be>(&mut world),
            Ip::V6 => established::<Ipv6Be>(&mut world),
        };
        for (number, client) in flood.into_iter().enumerate() {
            // The port of a connection that is there would be its own client's.
            let known = scene.flows.iter().any(|flow| flow.client == client);
            let Some(service) = scene.services.get(number % scene.services.len().max(1)) else { continue };
            if !known {
                ask(&mut world, &scene, (client, service.frontend), service.protocol, SYN);
            }
        }
        let after = match scene.ip {
            Ip::V4 => established::<Ipv4Be>(&mut world),
            Ip::V6 => established::<Ipv6Be>(&mut world),
        };
        prop_assert!(before.is_subset(&after), "{:#?}\n{:#?}", before, after);
    }
}
