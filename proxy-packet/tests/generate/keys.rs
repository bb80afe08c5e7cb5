//! Whether the connection table is what it must be, whatever came in: flows and their keys belong together, and to known
//! Services.
//!
//! Must not know packets.

use std::collections::BTreeSet;

use proxy_common::{Bit, FlowFlags, FlowState, FlowValue, PacketSettings, Protocol};
use proxy_packet::simulation::Simulation;

use super::world::Named;

/// The clock in seconds.
pub fn now(world: &Simulation) -> u32 {
    u32::try_from(world.clock_ns / 1_000_000_000).unwrap_or_default()
}

/// Whether a flow counts: what is expired is there until its place is needed, but nobody's.
pub fn lives<A>(flow: &FlowValue<A>, settings: &PacketSettings, now: u32) -> bool
where
    A: Named,
{
    let tcp = flow.protocol == Protocol::Tcp as u8;
    let state = FlowState::ALL.into_iter().find(|state| *state as u8 == flow.state);
    let lasts = match state {
        None | Some(FlowState::Free) => return false,
        Some(FlowState::New) if !tcp => settings.datagram_new_s,
        Some(_) if !tcp => settings.datagram_s,
        Some(FlowState::Established) => settings.tcp_established_s,
        Some(FlowState::HalfClosed) => settings.tcp_half_closed_s,
        Some(FlowState::Closing) => settings.tcp_closing_s,
        Some(FlowState::New | FlowState::Answered) => settings.tcp_new_s,
    };
    now.saturating_sub(flow.seen_s) <= lasts
}

/// What is wrong with how keys and flows refer to each other: a living flow without one of its keys, a key that leads to
/// another's flow, a flow whose replies the filter does not let through. A key with a serial that is nobody's leads nowhere.
pub fn torn<A: Named>(world: &mut Simulation) -> BTreeSet<String> {
    let (now, settings) = (now(world), world.settings);
    let noted = world.flow_filter.clone();
    let tables = A::tables(world);
    let mut faults = BTreeSet::new();
    for (slot, flow) in tables.flows.iter().filter(|(_, flow)| lives(flow, &settings, now)) {
        if !noted.contains(&Bit::of_flow(flow)) {
            faults.insert(format!("the filter does not let through what answers {flow:?}"));
        }
        let masqueraded = flow.flags().has(FlowFlags::MASQUERADED);
        if masqueraded && !noted.contains(&Bit::of_masqueraded(flow.frontend)) {
            faults.insert(format!("the filter does not let through what asks {flow:?}"));
        }
        for key in [flow.forward_key(), flow.reply_key()] {
            let leads = tables.flow_keys.get(&key).map(|place| (place.slot, place.serial));
            if leads != Some((*slot, flow.serial)) {
                faults.insert(format!("a flow's key {key:?} leads to {leads:?}, not to {slot}"));
            }
        }
    }
    for (key, place) in &tables.flow_keys {
        let flow = tables.flows.get(&place.slot).filter(|flow| flow.serial == place.serial);
        if flow.is_some_and(|flow| flow.forward_key() != *key && flow.reply_key() != *key) {
            faults.insert(format!("{key:?} leads to another flow"));
        }
    }
    faults
}

/// Keys that lead nowhere: nobody would remove them until the table of keys is full.
pub fn leaked<A: Named>(world: &mut Simulation) -> BTreeSet<String> {
    let tables = A::tables(world);
    let leads = |slot: &u32, serial: u32| {
        tables
            .flows
            .get(slot)
            .is_some_and(|flow| flow.state != FlowState::Free as u8 && flow.serial == serial)
    };
    let lost = tables.flow_keys.iter().filter(|(_, place)| !leads(&place.slot, place.serial));
    lost.map(|(key, place)| format!("{key:?} leads nowhere ({place:?})")).collect()
}

/// Flows that no Service explains: `known` says which frontends and backends there are or were.
pub fn foreign<A: Named>(world: &mut Simulation, known: &dyn Fn(&FlowValue<A>) -> bool) -> BTreeSet<String> {
    let flows = A::tables(world).flows.values();
    let foreign = flows.filter(|flow| flow.state != FlowState::Free as u8 && !known(flow));
    foreign.map(|flow| format!("{flow:?} belongs to no Service")).collect()
}
