//! The connection table: finding a flow, making one, giving one up.
//!
//! Both keys of a flow lead to one record, and the record says both keys: whoever gives a flow up removes both. A key
//! whose serial is not the record's leads nowhere, whatever became of the rest. Must not know what is done to a packet.

use proxy_common::{Bit, Counter, FlowFlags, FlowKey, FlowState, FlowValue, Way};

use crate::{
    Work,
    env::{Env, Step},
    setting, state,
    wire::Wire,
};

/// How many places are tried for a new flow. With nine tenths of the table established, one in a thousand new flows
/// finds none.
const ATTEMPTS: u32 = 64;

/// From which attempt on a flow that is not proven gives way: before, a free place is likely near.
const MERCY: u32 = 8;

/// From which attempt on any datagram flow gives way: that both sides receive can be forged where nothing acknowledges,
/// and such a flow is found again with the same backend. Only TCP holds its place against a flood.
const DATAGRAMS: u32 = 32;

/// Finds the live flow that `Work::key` leads to.
#[inline(never)]
pub(crate) fn find<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    if !env.flow_place(&work.key, &mut work.place) || !env.flow(work.place.slot, &mut work.flow) {
        return false;
    }
    read_clock(env, work);
    work.progress = Progress::of(&work.flow);
    work.flow.serial == work.place.serial
        && has_key(&work.flow, &work.key)
        && !expired(env, &work.flow, work.now_s)
}

/// Sets `Work::now_s`.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the clock starts at boot, and 2^32 seconds are 136 years"
)]
pub(crate) fn read_clock<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) {
    work.now_s = (env.now_ns() / 1_000_000_000) as u32;
}

/// Writes what the packet changed of the flow: at most once a second if that is only the time.
#[inline(always)]
pub(crate) fn touch<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) {
    if work.flow.seen_s == work.now_s && Progress::of(&work.flow) == work.progress {
        return;
    }
    work.flow.seen_s = work.now_s;
    env.touch_flow(work.place.slot, &work.flow);
}

/// What of a flow packets change, but for the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Progress {
    state: u8,
    flags: u8,
    reserved: u16,
    generation: u32,
    service_id: u32,
    completing_ack: u32,
}

impl Progress {
    #[inline(always)]
    fn of<A: Wire>(flow: &FlowValue<A>) -> Self {
        let FlowValue { state, flags, generation, service_id, completing_ack, .. } = *flow;
        Self { state, flags, reserved: 0, generation, service_id, completing_ack }
    }
}

/// A key from addresses and ports as a packet has them.
#[inline(always)]
pub(crate) fn key<A: Wire>(work: &Work<A>, way: Way) -> FlowKey<A> {
    FlowKey {
        source: work.outer.source,
        destination: work.outer.destination,
        source_port: work.outer.source_port,
        destination_port: work.outer.destination_port,
        protocol: work.outer.protocol,
        way: way as u8,
        reserved: 0,
    }
}

/// A key from the packet that an ICMP error quotes: the one of the packets in the other direction.
#[inline(always)]
pub(crate) fn quoted_key<A: Wire>(work: &Work<A>, way: Way) -> FlowKey<A> {
    FlowKey {
        source: work.inner.destination,
        destination: work.inner.source,
        source_port: work.inner.destination_port,
        destination_port: work.inner.source_port,
        protocol: work.inner.protocol,
        way: way as u8,
        reserved: 0,
    }
}

#[inline(always)]
fn has_key<A: Wire>(flow: &FlowValue<A>, key: &FlowKey<A>) -> bool {
    if key.way == Way::Forward as u8 { flow.forward_key() == *key } else { flow.reply_key() == *key }
}

#[inline(always)]
fn expired<A: Wire, E: Env<A>>(env: &E, flow: &FlowValue<A>, now_s: u32) -> bool {
    // Another CPU may have seen a packet after this one has read the clock: then it lives.
    now_s.saturating_sub(flow.seen_s) > state::lifetime_s(env, flow)
}

/// Finds a place for a new flow into `Work::candidate`, giving up what may be given up. The place stays as it is until
/// something is written there.
#[inline(always)]
pub(crate) fn find_place<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    env.search::<Vacancy>(work, ATTEMPTS)
}

/// One attempt of [`find_place`].
struct Vacancy;

impl<A: Wire, E: Env<A>> Step<A, E> for Vacancy {
    #[inline(always)]
    fn attempt(env: &mut E, work: &mut Work<A>, number: u32) -> bool {
        let places = setting!(env, flows);
        if places == 0 {
            return false;
        }
        work.candidate.slot = env.random() % places;
        if !env.flow(work.candidate.slot, &mut work.occupant) {
            return false;
        }
        let free = work.occupant.state == FlowState::Free as u8;
        let over = !free && expired(env, &work.occupant, work.now_s);
        let datagrams = work.occupant.protocol != state::TCP;
        let yields = number >= MERCY && !state::proven(&work.occupant) || number >= DATAGRAMS && datagrams;
        if !free && !over && !yields {
            return false;
        }
        if !free {
            work.candidate.serial = work.occupant.serial;
            forget_keys(env, work);
            if !over {
                env.count(Counter::FlowEvicted);
            }
        }
        true
    }
}

/// Gives the flow at `Work::place` up, both directions.
#[inline(never)]
pub(crate) fn retire<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) {
    work.candidate = work.place;
    work.occupant = work.flow;
    forget_keys(env, work);
    env.set_flow(work.candidate.slot, &FlowValue::FREE);
}

/// Removes both keys of `Work::occupant` unless they lead to another flow by now.
#[inline(always)]
fn forget_keys<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) {
    work.other_key = work.occupant.forward_key();
    forget_key(env, work);
    work.other_key = work.occupant.reply_key();
    forget_key(env, work);
}

#[inline(always)]
fn forget_key<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) {
    if env.flow_place(&work.other_key, &mut work.other_place) && work.other_place == work.candidate {
        env.remove_flow_key(&work.other_key);
    }
}

/// Enters `Work::other_key` for the flow at `Work::place`; false if a live flow has it.
#[inline(never)]
pub(crate) fn claim<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    if env.enter_flow_key(&work.other_key, &work.place) {
        return true;
    }
    if !stale(env, work) {
        return false;
    }
    env.remove_flow_key(&work.other_key);
    env.enter_flow_key(&work.other_key, &work.place)
}

/// Has the filter let through the replies of `Work::flow`, before a packet of it leaves that may be replied to.
#[inline(always)]
pub(crate) fn note<A: Wire, E: Env<A>>(env: &mut E, work: &Work<A>) {
    env.note(Bit::of_flow(&work.flow));
}

/// Like [`claim`], and takes the key from a flow that is not proven.
#[inline(always)]
pub(crate) fn wrest<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    if claim(env, work) {
        return true;
    }
    // What `claim` has found there.
    if state::proven(&work.occupant) || work.other_place == work.place {
        return false;
    }
    work.candidate = work.other_place;
    env.count(Counter::FlowEvicted);
    forget_keys(env, work);
    env.set_flow(work.candidate.slot, &FlowValue::FREE);
    work.other_key = work.flow.reply_key();
    env.enter_flow_key(&work.other_key, &work.place)
}

/// Whether `Work::other_key` leads to no live flow. A record that is being made has its serial and time already.
#[inline(always)]
fn stale<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    if !env.flow_place(&work.other_key, &mut work.other_place) {
        return true;
    }
    if !env.flow(work.other_place.slot, &mut work.occupant) {
        return true;
    }
    work.occupant.serial != work.other_place.serial || expired(env, &work.occupant, work.now_s)
}

/// Begins the record of a flow at `Work::candidate`, with a serial of its own, before any key leads to it: whoever else
/// wants one of its keys meanwhile must see that it lives.
#[expect(clippy::cast_possible_truncation, reason = "a scope is 0 or 1")]
#[inline(always)]
pub(crate) fn begin<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) {
    work.place.slot = work.candidate.slot;
    // Never 0, and never the serial of the one before.
    let random = env.random() | 1;
    work.place.serial = if random == work.occupant.serial { random ^ 2 } else { random };
    let host = if work.from_host != 0 { FlowFlags::FROM_HOST } else { 0 };
    let middle = work.outer.protocol == state::TCP && !state::opens(work.outer.tcp_flags);
    let flags = host | if middle { FlowFlags::REBUILT } else { 0 };
    work.flow = FlowValue {
        client: work.outer.source,
        frontend: work.outer.destination,
        backend: work.backend.address,
        source: work.outer.source,
        client_port: work.outer.source_port,
        frontend_port: work.outer.destination_port,
        backend_port: work.backend.port,
        source_port: work.outer.source_port,
        protocol: work.outer.protocol,
        state: FlowState::New as u8,
        flags,
        scope: work.scope as u8,
        serial: work.place.serial,
        service_id: work.service.service_id,
        generation: work.service.generation,
        backend_id: work.backend_id,
        completing_ack: 0,
        seen_s: work.now_s,
        device: if work.from_host != 0 { env.device() } else { 0 },
    };
    work.progress = Progress::of(&work.flow);
    env.set_flow(work.place.slot, &work.flow);
}

/// Gives up a flow that is being made: removes its reply key and frees its place.
#[inline(never)]
pub(crate) fn abandon<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) {
    work.candidate = work.place;
    work.other_key = work.flow.reply_key();
    forget_key(env, work);
    env.set_flow(work.candidate.slot, &FlowValue::FREE);
}
