//! ICMP errors about translated packets: path MTU discovery and "unreachable" work through a Service only if each side is
//! told of the packets that it sent (RFC 5508, 4).
//!
//! Must not know how an error came about.

use proxy_common::{Counter, FlowFlags, Way};

use crate::{
    Work,
    env::Env,
    flow,
    forward::drop,
    onward::{self, Onward},
    parse::{Parsed, parse},
    setting,
    translate::{Ends, rewrite_quoted},
    wire::Wire,
    work::{Next, Verdict},
};

/// Length of the ICMP header before the quoted packet.
const ICMP_HEADER: u32 = 8;

/// How much of what follows its IP header a quoted packet has at least (RFC 792).
const QUOTED: u32 = 8;

/// Reads the packet that the error quotes; false if it has no ports to go by.
#[inline(always)]
fn read_quoted<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    let at = work.outer.l4.wrapping_add(ICMP_HEADER);
    if !matches!(parse(env, at, true, &mut work.inner), Parsed::Ports | Parsed::Echo) {
        return false;
    }
    // What stands behind the error in the frame is no part of it.
    let end = work.outer.end;
    work.inner.end = if work.inner.end > end { end } else { work.inner.end };
    work.inner.l4.wrapping_add(QUOTED) <= work.inner.end
}

/// An error that arrives: [`Next::Done`] if it is not about a translated packet.
#[inline(always)]
pub(crate) fn arriving<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, is_service: bool) -> Next {
    if !read_quoted(env, work) {
        return Next::Done(Verdict::Pass);
    }
    // About a reply, which the client's side saw come from the Service.
    work.key = flow::quoted_key(work, Way::Forward);
    if is_service && flow::find(env, work) {
        return Next::ErrorToBackend;
    }
    // About a request whose source was this node.
    work.key = flow::quoted_key(work, Way::Reply);
    let ours = FlowFlags::SOURCE_IS_NODE | FlowFlags::FROM_HOST;
    if flow::find(env, work) && work.flow.flags & ours != 0 {
        return Next::ErrorToClient;
    }
    Next::Done(Verdict::Pass)
}

/// An error that leaves the node or enters a pod, towards a client whose packets kept their source. True if it is about
/// such a packet; then `verdict` says what becomes of it.
#[inline(never)]
pub(crate) fn leaving<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, verdict: &mut Verdict) -> bool {
    if !read_quoted(env, work) {
        return false;
    }
    work.key = flow::quoted_key(work, Way::Reply);
    if !flow::find(env, work) || work.flow.flags().has(FlowFlags::SOURCE_IS_NODE) {
        return false;
    }
    if !rewrite_for_client(env, work) {
        *verdict = drop(env, Counter::DroppedRewrite);
    }
    true
}

/// An error that this host itself sends about a Service's reply to one of its processes. The quoted packet was read by
/// [`leaving`].
#[inline(always)]
pub(crate) fn from_host<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Next {
    work.key = flow::quoted_key(work, Way::Forward);
    if flow::find(env, work) && work.flow.flags().has(FlowFlags::FROM_HOST) {
        return Next::ErrorToBackend;
    }
    Next::Done(Verdict::Pass)
}

/// About a packet of the backend, which the client's side saw come from the Service.
#[inline(never)]
pub(crate) fn to_backend<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Verdict {
    let translated = work.flow.flags().has(FlowFlags::SOURCE_IS_NODE);
    // A pod's: the kernel's stack has routed it.
    let routed = work.flow.flags().has(FlowFlags::MASQUERADED);
    let redirected = (translated && !routed) || work.from_host != 0;
    let from = if translated { work.flow.source } else { work.outer.source };
    let quoted = Ends {
        source: work.flow.backend,
        destination: work.flow.source,
        source_port: work.flow.backend_port,
        destination_port: work.flow.source_port,
    };
    let backend = work.flow.backend;
    let way = if redirected { onward::look_onward(env, work, from, backend) } else { Onward::Out };
    if matches!(way, Onward::Answered | Onward::Dropped) {
        return Verdict::Drop;
    }
    let aged = !redirected || work.from_host != 0 || onward::count_hop(env, &work.outer);
    if !aged || !rewrite_quoted(env, &mut work.outer, &mut work.inner, &quoted, (from, backend)) {
        return drop(env, Counter::DroppedRewrite);
    }
    env.count(Counter::PacketError);
    match (redirected, way) {
        (false, _) => Verdict::Pass,
        (true, Onward::Host) => {
            work.route.device = setting!(env, loopback);
            Verdict::ToHost
        }
        (true, _) => Verdict::Redirect,
    }
}

/// An error that leaves the node about a packet that a masqueraded pod was sent: from the pod itself, or from this node.
/// The quoted packet was read by [`leaving`].
#[inline(always)]
pub(crate) fn about_masqueraded<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Next {
    if work.inner.l4 == 0 || work.inner.l4.wrapping_add(QUOTED) > work.inner.end {
        return Next::Done(Verdict::Pass);
    }
    work.key = flow::quoted_key(work, Way::Forward);
    let wanted = FlowFlags::MASQUERADED | FlowFlags::SOURCE_IS_NODE;
    if flow::find(env, work) && work.flow.flags & wanted == wanted {
        return Next::ErrorToBackend;
    }
    Next::Done(Verdict::Pass)
}

/// About a packet of the client, whose source was this node, or whose sender is a process of this host.
#[inline(never)]
pub(crate) fn to_client<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Verdict {
    if work.flow.flags & (FlowFlags::FROM_HOST | FlowFlags::MASQUERADED) != 0 {
        work.route.device = work.flow.device;
        return by_stack(env, work);
    }
    let way = onward::look_onward(env, work, work.outer.source, work.flow.client);
    match way {
        Onward::Out => (),
        // The client is not this host: its route is gone.
        Onward::Host => return drop(env, Counter::DroppedNoRoute),
        Onward::Answered | Onward::Dropped => return Verdict::Drop,
    }
    if !onward::count_hop(env, &work.outer) || !rewrite_for_client(env, work) {
        return drop(env, Counter::DroppedRewrite);
    }
    Verdict::Redirect
}

/// To a process of this host, or to a pod that the kernel's stack knows the way to.
#[inline(always)]
fn by_stack<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Verdict {
    if !rewrite_for_client(env, work) {
        return drop(env, Counter::DroppedRewrite);
    }
    if work.flow.flags().has(FlowFlags::MASQUERADED) { Verdict::Pass } else { Verdict::ToHost }
}

/// The quoted packet becomes what the client sent; an error from the backend itself comes from the Service.
#[inline(never)]
fn rewrite_for_client<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    let quoted = Ends {
        source: work.flow.client,
        destination: work.flow.frontend,
        source_port: work.flow.client_port,
        destination_port: work.flow.frontend_port,
    };
    let from_backend = work.outer.source == work.flow.backend;
    let from = if from_backend { work.flow.frontend } else { work.outer.source };
    let client = work.flow.client;
    let done = rewrite_quoted(env, &mut work.outer, &mut work.inner, &quoted, (from, client));
    if done {
        env.count(Counter::PacketError);
    }
    done
}
