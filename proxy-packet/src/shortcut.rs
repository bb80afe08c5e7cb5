//! A packet that arrives for a pod of this node and that nobody translates: straight into the pod, past the host's stack.
//!
//! What the stack would do for it is done here or keeps it from going this way. Must not know where pods are.

use proxy_common::{Bit, Counter, Way};

use crate::{
    Work,
    env::{Env, Reached},
    flow,
    forward::drop,
    onward::{self, count_hop},
    parse::{Fragment, Parsed},
    setting,
    wire::Wire,
    work::Verdict,
};

/// Length of an Ethernet header without the tag of a VLAN: what a pod's device takes.
const ETHERNET: u32 = 14;

/// Whether the packet may go this way: whole, without options, from somebody who may send it, and of no flow of which it
/// would be translated where it enters the pod. The stack sees to all others, and to what it answers with an error.
#[inline(always)]
pub(crate) fn may_take<A: Wire, E: Env<A>>(env: &mut E, work: &Work<A>, parsed: Parsed) -> bool {
    let headers = &work.outer;
    setting!(env, shortcut) != 0
        && matches!(parsed, Parsed::Ports)
        && headers.fragment == Fragment::Whole as u8
        && headers.l3 == ETHERNET
        && headers.l4.wrapping_sub(headers.l3) == A::HEADER
        && headers.hop_limit > 1
        && headers.source.is_one_host()
        && !headers.source.is_loopback()
        && env.may_be_pod(headers.destination)
        && !env.is_noted(Bit::of_reply(&flow::key(work, Way::Reply)))
}

/// Sends it, if its way leads into a pod and it fits.
#[inline(never)]
pub(crate) fn take<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Verdict {
    let (source, destination) = (work.outer.source, work.outer.destination);
    let length = onward::longest_packet(env, &work.outer);
    let reached = onward::ask_route(env, work, source, destination, length);
    if !matches!(reached, Reached::Device) || !env.face_pod(work.route.device) {
        return Verdict::Pass;
    }
    if !count_hop(env, &work.outer) {
        return drop(env, Counter::DroppedRewrite);
    }
    Verdict::Enter
}
