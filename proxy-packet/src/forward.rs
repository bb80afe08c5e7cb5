//! A client's packet to a Service's address: its flow, or a new one, and the way to the backend.
//!
//! Must not know how bytes are rewritten, places found or ports chosen.

use proxy_common::{Counter, FlowFlags, FlowState, ServiceFlags, SourceRangeKey, Way, device::NODE_DEFAULT};

use crate::{
    Work, answer,
    answer::Answer,
    entry::Place,
    env::{Env, Reached},
    flow,
    lookup::{self, Found},
    onward::{self, Onward},
    parse::Fragment,
    select, setting, source_port,
    source_port::Assigned,
    state::{self, TCP},
    translate::{rewrite_destination, rewrite_source},
    wire::Wire,
    work::{Next, Verdict},
};

/// Finds the flow of a packet to an address with an address record, which is in `Work::service`; ports are known.
#[inline(never)]
pub(crate) fn find<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, place: Place) -> Next {
    work.key = flow::key(work, Way::Forward);
    let known = flow::find(env, work);
    if known && work.outer.protocol == TCP && !state::opens(work.outer.tcp_flags) {
        // An established connection stays where it is, whatever became of the Service.
        return Next::Carry;
    }
    let found = lookup::frontend(env, work, place);
    if matches!(found, Found::Torn) {
        return Next::Done(drop(env, Counter::RefusedUnstable));
    }
    let served = matches!(found, Found::Service);
    if known {
        if served && keeps(env, work) {
            return Next::Carry;
        }
        // What no Service serves may be masqueraded where it leaves: that flow is not over.
        if served || !work.flow.flags().has(FlowFlags::MASQUERADED) {
            flow::retire(env, work);
        }
    }
    if served { Next::Begin } else { Next::Done(unserved(env, work, true)) }
}

/// Whether the flow goes on under the service record as it is now. A generation that is the same answers at once;
/// otherwise the backend must still be listed, serving (services.md 3.11), and at the same place.
#[inline(always)]
fn keeps<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    let ended = work.flow.state == FlowState::Closing as u8 || work.flow.state == FlowState::HalfClosed as u8;
    if work.outer.protocol == TCP && ended {
        // The client's port begins a new life.
        return false;
    }
    let service = &work.service;
    if work.flow.service_id == service.service_id && work.flow.generation == service.generation {
        return true;
    }
    let listed = service.ring_len.wrapping_add(service.keep_len);
    let usable = env.lists(service.ring_base, listed, work.flow.backend_id)
        && env.backend(work.flow.backend_id, &mut work.backend)
        && work.backend.address == work.flow.backend
        && work.backend.port == work.flow.backend_port;
    if !usable {
        env.count(Counter::FlowMoved);
        return false;
    }
    work.flow.service_id = service.service_id;
    work.flow.generation = service.generation;
    true
}

/// A new flow, if policy and the Service's state allow one.
#[inline(never)]
pub(crate) fn begin<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, place: Place) -> Next {
    let tcp = work.outer.protocol == TCP;
    let opening = !tcp || state::opens(work.outer.tcp_flags);
    if work.outer.fragment == Fragment::Later as u8 {
        return Next::Done(drop(env, Counter::DroppedFragment));
    }
    if !opening && !state::continues(work.outer.tcp_flags) {
        return Next::Done(drop(env, Counter::DroppedNoFlow));
    }
    if !admitted(env, work) {
        return Next::Done(drop(env, Counter::DroppedSourceRange));
    }
    if work.service.ring_len == 0 {
        return Next::Done(empty(env, work));
    }
    if !select::choose(env, work) {
        return Next::Done(drop(env, Counter::RefusedUnstable));
    }
    match make(env, work, place) {
        Assigned::Yes => (),
        failed => return Next::Done(drop(env, failed.counter())),
    }
    env.count(if opening { Counter::FlowNew } else { Counter::FlowRebuilt });
    Next::Carry
}

/// Makes the flow's record and enters its keys: the reply key, the record, the forward key. Nothing can lead to a
/// record that is not whole.
#[inline(always)]
fn make<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, place: Place) -> Assigned {
    if !flow::find_place(env, work) {
        return Assigned::NoPlace;
    }
    flow::begin(env, work);
    let assigned = source_port::assign(env, work, place);
    complete(env, work, assigned)
}

/// Completes a flow whose reply key is entered, if it is.
#[inline(always)]
pub(crate) fn complete<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, assigned: Assigned) -> Assigned {
    if !matches!(assigned, Assigned::Yes) {
        flow::abandon(env, work);
        return assigned;
    }
    flow::note(env, work);
    env.set_flow(work.place.slot, &work.flow);
    work.other_key = work.flow.forward_key();
    if flow::claim(env, work) {
        return Assigned::Yes;
    }
    // Another packet of the same flow was faster on another CPU: its record counts.
    flow::abandon(env, work);
    work.key = flow::key(work, Way::Forward);
    if flow::find(env, work) { Assigned::Yes } else { Assigned::NoPlace }
}

/// `loadBalancerSourceRanges` bind every client, inside and outside the cluster (services.md 3.6).
#[inline(always)]
fn admitted<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    if !work.service.flags().has(ServiceFlags::SOURCE_RANGES) {
        return true;
    }
    let (service_id, client) = (work.service.service_id, work.outer.source);
    if env.admitted(&SourceRangeKey { service_id, client: client.to_mapped() }) {
        return true;
    }
    // A node that has the load balancer's address sends from it what it sends to it: it is the node all the same.
    if work.from_host == 0 || client != work.outer.destination {
        return false;
    }
    let node = source_port::address_on(env, work, NODE_DEFAULT);
    env.admitted(&SourceRangeKey { service_id, client: node.to_mapped() })
}

/// No backend: refuse, or be silent where another node could answer (services.md 3.2).
#[inline(always)]
fn empty<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Verdict {
    if work.service.flags().has(ServiceFlags::DROP_WHEN_EMPTY) {
        return drop(env, Counter::DroppedNoLocalEndpoint);
    }
    refuse(env, work, Counter::RefusedNoEndpoint)
}

/// Translates the packet to `Work::flow`'s backend and sends it on.
#[inline(never)]
pub(crate) fn carry<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Verdict {
    if work.outer.fragment != Fragment::Later as u8 {
        state::client_sent(&mut work.flow, &work.outer);
    }
    flow::touch(env, work);
    let by_stack = work.from_host == 0 && !work.flow.flags().has(FlowFlags::SOURCE_IS_NODE);
    let way = if by_stack {
        Onward::Out
    } else {
        onward::look_onward(env, work, work.flow.source, work.flow.backend)
    };
    if matches!(way, Onward::Answered | Onward::Dropped) {
        return way.verdict();
    }
    if matches!(way, Onward::Host) && work.from_host == 0 {
        // No route any more: a backend of this host is reached with the client's own source.
        return drop(env, Counter::DroppedNoRoute);
    }
    if !rewrite_to_backend(env, work) || (!by_stack && !age(env, work, way)) {
        return drop(env, Counter::DroppedRewrite);
    }
    env.count(Counter::PacketForward);
    if by_stack {
        return Verdict::Pass;
    }
    if matches!(way, Onward::Host) {
        work.route.device = setting!(env, loopback);
        return Verdict::ToHost;
    }
    Verdict::Redirect
}

/// A packet of the host's own has its first hop before it.
#[inline(always)]
fn age<A: Wire, E: Env<A>>(env: &mut E, work: &Work<A>, way: Onward) -> bool {
    work.from_host != 0 || matches!(way, Onward::Host) || onward::count_hop(env, &work.outer)
}

#[inline(always)]
fn rewrite_to_backend<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    let (source, source_port) = (work.flow.source, work.flow.source_port);
    let (backend, backend_port) = (work.flow.backend, work.flow.backend_port);
    let moved = source != work.outer.source || source_port != work.outer.source_port;
    (!moved || rewrite_source(env, &mut work.outer, source, source_port))
        && rewrite_destination(env, &mut work.outer, backend, backend_port)
}

/// A packet to a Service's address that no Service serves. `has_ports`: it asks for a port.
///
/// A ClusterIP refuses what it does not serve. Any other address may be somebody's: the packet goes on, unless this node
/// would only send it back to the router that sent it here, which would send it again (cilium #14118).
#[inline(never)]
pub(crate) fn unserved<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, has_ports: bool) -> Verdict {
    if has_ports && ServiceFlags(work.address_flags).has(ServiceFlags::REFUSE_UNKNOWN_PORT) {
        return refuse(env, work, Counter::RefusedUnknownPort);
    }
    let (source, destination) = (work.outer.source, work.outer.destination);
    let reached = onward::ask_route(env, work, source, destination, 0);
    if matches!(reached, Reached::Device) && work.route.device == env.device() && work.from_host == 0 {
        return drop(env, Counter::DroppedLoop);
    }
    Verdict::Pass
}

/// Answers with a reset or "port unreachable".
#[inline(always)]
pub(crate) fn refuse<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, reason: Counter) -> Verdict {
    answer::note(env, work, Answer::Refused, reason)
}

/// Counts why a packet is dropped.
#[inline(always)]
pub(crate) fn drop<E: crate::env::Packet>(env: &mut E, reason: Counter) -> Verdict {
    env.count(reason);
    Verdict::Drop
}
