//! Egress masquerade: what a pod of this node sends out of the cluster leaves with the node's address and a port of its
//! own, so that answers come back.
//!
//! The flow is a record like a Service's, whose frontend is its backend: answers are found and translated by the same
//! code. The kernel's stack has routed the packet before, and routes the answer afterwards. Must not know how ports are
//! found or bytes rewritten.

use proxy_common::{
    BackendValue, Bit, Counter, FlowFlags, FlowState, MasqueradeKey, MasqueradeKind, PortBe, Scope,
    ServiceValue, Way, names::PROBE_SLOT,
};

use crate::{
    Work,
    env::{Env, Packet, Read},
    errors, flow,
    forward::{complete, drop},
    fragment, lookup,
    parse::{Fragment, Headers, Parsed, may_have_ports},
    select, source_port,
    source_port::Assigned,
    state::{self, ACK, FIN, RST, SYN, TCP},
    translate::rewrite_source,
    wire::Wire,
    work::{Next, Verdict},
};

/// It is not ours.
const LEAVE: Next = Next::Done(Verdict::Pass);

/// A packet that leaves the node and belongs to no flow of a Service.
#[inline(always)]
pub(crate) fn leaving<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, parsed: Parsed) -> Next {
    if matches!(parsed, Parsed::IcmpError) {
        return errors::about_masqueraded(env, work);
    }
    if !env.may_be_pod(work.outer.source) {
        return LEAVE;
    }
    let next = find(env, work, parsed);
    if matches!(next, Next::Masquerade) { begin(env, work) } else { next }
}

/// What is asked first is what most packets answer: another pod is told by two comparisons or, as nobody has been masqueraded
/// towards it, by its prefix; a flow that is known by its key alone.
#[inline(never)]
fn find<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, parsed: Parsed) -> Next {
    let destination = work.outer.destination;
    if lookup::inside(env, destination) {
        return LEAVE;
    }
    // A flow that was masqueraded before its destination became exempt goes on, so such a flow is asked for first.
    if !env.is_noted(Bit::of_masqueraded(destination)) && is_exempt(env, destination) {
        return LEAVE;
    }
    if !has_ends(env, work, parsed) {
        let dropped = may_be_told_apart::<A>(work.outer.protocol) && concerns(env, work);
        return if dropped { give_up(env, unknown(parsed)) } else { LEAVE };
    }
    work.key = flow::key(work, Way::Forward);
    if flow::find(env, work) {
        let masqueraded = work.flow.flags().has(FlowFlags::MASQUERADED);
        if masqueraded && !begins_anew(work) {
            return Next::CarryOut;
        }
        if !masqueraded && !deserted(env, work) {
            return LEAVE;
        }
        flow::retire(env, work);
    }
    if answers_echo(work) {
        if work.outer.fragment == Fragment::First as u8 {
            flow::read_clock(env, work);
            fragment::remember(env, work);
        }
        return LEAVE;
    }
    if concerns(env, work) { Next::Masquerade } else { LEAVE }
}

/// Whether it is known between which ports the packet goes; of a later fragment: by its first.
#[inline(always)]
fn has_ends<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, parsed: Parsed) -> bool {
    if matches!(parsed, Parsed::Later) {
        flow::read_clock(env, work);
        return fragment::recall(env, work);
    }
    !matches!(parsed, Parsed::Malformed | Parsed::TooManyHeaders)
}

/// Why a packet is dropped whose ports are not known: nobody could tell its answers apart.
#[inline(always)]
fn unknown(parsed: Parsed) -> Counter {
    match parsed {
        Parsed::Later => Counter::DroppedFragment,
        Parsed::TooManyHeaders => Counter::DroppedHeaders,
        _ => Counter::DroppedMalformed,
    }
}

/// Whether it answers an echo request that came straight to the pod. Only a first fragment says of what type it is; the
/// port that a request has is the one on the asking side.
#[inline(always)]
fn answers_echo<A: Wire>(work: &Work<A>) -> bool {
    let headers = &work.outer;
    headers.protocol == A::ICMP && headers.source_port == PortBe::ANY && !A::is_echo(headers.icmp_type)
}

/// Whether a packet of which only the protocol's number is known can be one that is masqueraded.
#[inline(always)]
fn may_be_told_apart<A: Wire>(protocol: u8) -> bool {
    protocol == A::ICMP || may_have_ports::<A>(protocol)
}

/// Whether a pod of this node sends it to somebody who does not see pods' own addresses.
#[inline(always)]
fn concerns<A: Wire, E: Env<A>>(env: &mut E, work: &Work<A>) -> bool {
    let (source, destination) = (work.outer.source, work.outer.destination);
    env.masquerade(&MasqueradeKey { address: source.to_mapped() }) == MasqueradeKind::Pod as u32
        && destination.is_one_host()
        && !destination.is_link_local()
        && !is_exempt(env, destination)
}

/// Whether a prefix says that pods' own addresses are seen there.
#[inline(always)]
fn is_exempt<A: Wire, E: Env<A>>(env: &mut E, destination: A) -> bool {
    env.masquerade(&MasqueradeKey { address: destination.to_mapped() }) != 0
}

/// Whether a pod's flow of a Service is nobody's any more: its packets, which nothing has translated, are for whoever has
/// the address now. A backend at the Service's own address is asked without a translation, so that flow goes on.
#[inline(always)]
fn deserted<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    let flow = &work.flow;
    let translated = flow.frontend != flow.backend || flow.frontend_port != flow.backend_port;
    translated && concerns(env, work) && matches!(lookup::address(env, work), Read::Missing)
}

/// Whether the pod's port begins a new life: with a connection after the one that has ended, or with one of its own after
/// one that it answered.
#[inline(always)]
fn begins_anew<A: Wire>(work: &Work<A>) -> bool {
    let flags = work.outer.tcp_flags;
    if work.outer.protocol != TCP || work.outer.fragment == Fragment::Later as u8 || flags & SYN == 0 {
        return false;
    }
    let ended = work.flow.state == FlowState::Closing as u8 || work.flow.state == FlowState::HalfClosed as u8;
    let translated = work.flow.flags().has(FlowFlags::SOURCE_IS_NODE);
    ended || translated != state::opens(flags)
}

/// Whether a TCP packet accepts somebody's connection. Without a flow it is one from outside straight to the pod, whose
/// address must stay what was asked for.
#[inline(always)]
fn accepts(tcp_flags: u8) -> bool {
    tcp_flags & (SYN | ACK | RST | FIN) == SYN | ACK
}

/// Whether a TCP packet refuses somebody's connection: it answers a SYN, which acknowledges nothing (RFC 9293, 3.10.7.1).
/// Without a flow it is one from outside straight to the pod, and there is nothing to remember.
#[inline(always)]
fn refuses<A: Wire>(headers: &Headers<A>) -> bool {
    headers.tcp_flags & (SYN | ACK | RST | FIN) == RST | ACK && headers.sequence == 0
}

/// Whether a TCP packet without a flow is of a connection from outside straight to the pod: it accepts one, or goes on with
/// one whose record is lost. Then nobody knows who began it; servers' ports are the lower ones.
#[inline(always)]
fn serves<A: Wire>(headers: &Headers<A>) -> bool {
    let lower = headers.source_port.to_host() < headers.destination_port.to_host();
    accepts(headers.tcp_flags) || lower && state::continues(headers.tcp_flags)
}

/// A new flow.
#[inline(never)]
fn begin<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Next {
    let tcp = work.outer.protocol == TCP;
    let flags = work.outer.tcp_flags;
    let opening = !tcp || state::opens(flags);
    if work.outer.fragment == Fragment::Later as u8 {
        return give_up(env, Counter::DroppedFragment);
    }
    if !opening && !accepts(flags) && !state::continues(flags) {
        return if refuses(&work.outer) { LEAVE } else { give_up(env, Counter::DroppedNoFlow) };
    }
    work.service = ServiceValue::EMPTY;
    work.scope = Scope::Internal as u32;
    work.backend = BackendValue {
        address: work.outer.destination,
        port: work.outer.destination_port,
        ..BackendValue::FREE
    };
    work.backend_id = PROBE_SLOT;
    work.hash = select::hash(work);
    flow::read_clock(env, work);
    match make(env, work) {
        Assigned::Yes => (),
        failed => return give_up(env, failed.counter()),
    }
    env.count(if opening || accepts(flags) { Counter::FlowNew } else { Counter::FlowRebuilt });
    Next::CarryOut
}

/// Makes the flow's record and enters its keys.
#[inline(always)]
fn make<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Assigned {
    if !flow::find_place(env, work) {
        return Assigned::NoPlace;
    }
    flow::begin(env, work);
    work.flow.flags |= FlowFlags::MASQUERADED;
    env.note(Bit::of_masqueraded(work.flow.frontend));
    let own = work.outer.protocol == TCP && serves(&work.outer);
    let assigned = if own { source_port::keep(env, work) } else { source_port::masquerade(env, work) };
    complete(env, work, assigned)
}

/// Gives the packet the source of `Work::flow`.
#[inline(never)]
pub(crate) fn carry<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Verdict {
    if work.outer.fragment == Fragment::First as u8 {
        fragment::remember(env, work);
    }
    if work.outer.fragment != Fragment::Later as u8 {
        state::client_sent(&mut work.flow, &work.outer);
    }
    flow::touch(env, work);
    if !work.flow.flags().has(FlowFlags::SOURCE_IS_NODE) {
        return Verdict::Pass;
    }
    let (source, port) = (work.flow.source, work.flow.source_port);
    if !rewrite_source(env, &mut work.outer, source, port) {
        return drop(env, Counter::DroppedRewrite);
    }
    env.count(Counter::PacketForward);
    Verdict::Pass
}

#[inline(always)]
fn give_up<E: Packet>(env: &mut E, reason: Counter) -> Next {
    Next::Done(drop(env, reason))
}
