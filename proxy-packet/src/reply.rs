//! A backend's packet: back to what the client asked for.
//!
//! Must not know how bytes are rewritten or how a flow came about.

use proxy_common::{Bit, Counter, FlowFlags, Way};

use crate::{
    Work,
    env::Env,
    flow,
    forward::drop,
    fragment,
    onward::{self, Onward},
    parse::{Fragment, Parsed},
    setting, source_port, state,
    translate::{rewrite_destination, rewrite_source},
    wire::Wire,
    work::Verdict,
};

/// A packet that arrives and may be addressed to a source that this node gave a flow. True if it was; then `Work::flow`
/// has it.
#[inline(always)]
pub(crate) fn is_for_given_source<A: Wire, E: Env<A>>(
    env: &mut E,
    work: &mut Work<A>,
    parsed: Parsed,
) -> bool {
    match parsed {
        Parsed::Later => {
            flow::read_clock(env, work);
            if !fragment::recall(env, work) {
                return false;
            }
        }
        Parsed::Ports | Parsed::Echo => (),
        _ => return false,
    }
    let key = flow::key(work, Way::Reply);
    let given = source_port::is_ours(env, key.destination_port) && env.is_noted(Bit::of_given_source(&key));
    let host = setting!(env, host_by_packet) != 0 && env.is_noted(Bit::of_reply(&key));
    if !given && !host {
        return false;
    }
    work.key = key;
    let ours = FlowFlags::SOURCE_IS_NODE | FlowFlags::FROM_HOST;
    if !flow::find(env, work) || work.flow.flags & ours == 0 {
        return false;
    }
    let another =
        work.flow.flags().has(FlowFlags::FROM_HOST) && state::answers_another(&work.flow, &work.outer);
    if another {
        flow::retire(env, work);
    }
    !another
}

/// Sends a packet for which [`is_for_given_source`] on to the client.
#[inline(never)]
pub(crate) fn to_client_elsewhere<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Verdict {
    follow(env, work);
    if work.flow.flags().has(FlowFlags::FROM_HOST) {
        return to_host(env, work);
    }
    // To a pod from where it sent: the kernel's stack finds nothing wrong with that.
    let by_stack = work.flow.flags().has(FlowFlags::MASQUERADED);
    let way = if by_stack {
        Onward::Out
    } else {
        onward::look_onward(env, work, work.flow.frontend, work.flow.client)
    };
    if matches!(way, Onward::Answered | Onward::Dropped) {
        return way.verdict();
    }
    if matches!(way, Onward::Host) {
        // No route any more, or a client whose address this host has taken since.
        return drop(env, Counter::DroppedNoRoute);
    }
    if !rewrite_to_client(env, work) || (!by_stack && !onward::count_hop(env, &work.outer)) {
        return drop(env, Counter::DroppedRewrite);
    }
    env.count(Counter::PacketReply);
    if by_stack { Verdict::Pass } else { Verdict::Redirect }
}

#[inline(always)]
fn to_host<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Verdict {
    if !rewrite_to_client(env, work) {
        return drop(env, Counter::DroppedRewrite);
    }
    env.count(Counter::PacketReply);
    work.route.device = work.flow.device;
    Verdict::ToHost
}

/// A packet that leaves the node or enters a pod: translated back if it answers a flow whose client is that way. True
/// if it was one; then `verdict` says what becomes of it.
#[inline(never)]
pub(crate) fn leaving<A: Wire, E: Env<A>>(
    env: &mut E,
    work: &mut Work<A>,
    parsed: Parsed,
    verdict: &mut Verdict,
) -> bool {
    if matches!(parsed, Parsed::Later) {
        flow::read_clock(env, work);
        if !fragment::recall(env, work) {
            return false;
        }
    }
    let key = flow::key(work, Way::Reply);
    if !env.is_noted(Bit::of_reply(&key)) {
        return false;
    }
    work.key = key;
    if !flow::find(env, work) || work.flow.flags().has(FlowFlags::SOURCE_IS_NODE) {
        return false;
    }
    if state::answers_another(&work.flow, &work.outer) {
        // The client has used its port anew, to ask the backend itself.
        flow::retire(env, work);
        return false;
    }
    follow(env, work);
    *verdict = if rewrite_to_client(env, work) {
        env.count(Counter::PacketReply);
        Verdict::Pass
    } else {
        drop(env, Counter::DroppedRewrite)
    };
    true
}

/// Notes the packet in its flow.
#[inline(always)]
fn follow<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) {
    if work.outer.fragment == Fragment::First as u8 {
        fragment::remember(env, work);
    }
    if work.outer.fragment != Fragment::Later as u8 {
        state::backend_sent(&mut work.flow, &work.outer);
    }
    flow::touch(env, work);
}

#[inline(always)]
fn rewrite_to_client<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    let (frontend, frontend_port) = (work.flow.frontend, work.flow.frontend_port);
    let (client, client_port) = (work.flow.client, work.flow.client_port);
    let moved = client != work.outer.destination || client_port != work.outer.destination_port;
    (!moved || rewrite_destination(env, &mut work.outer, client, client_port))
        && rewrite_source(env, &mut work.outer, frontend, frontend_port)
}
