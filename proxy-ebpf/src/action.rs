//! The only place where a packet's verdict becomes a return code and a redirection.
//!
//! Must not know how the verdict came about.

use core::ptr;

use aya_ebpf::{
    bindings::{
        BPF_F_INGRESS, bpf_redir_neigh as NextHop,
        tcx_action_base::{TCX_DROP, TCX_NEXT},
    },
    helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer},
};
use proxy_common::Counter;
use proxy_packet::{Packet, Verdict, Work};

use crate::{family::PacketFamily, frame, maps, packet::Direction, route, skb::Skb, verdict::count};

/// The next program, then the kernel's stack. With clsact, too: there it is `TC_ACT_UNSPEC`.
pub const NEXT: i32 = TCX_NEXT;
/// With clsact, too: there it is `TC_ACT_SHOT`.
const DROP: i32 = TCX_DROP;

/// Does what the verdict says.
#[inline(always)]
pub fn act<A: PacketFamily>(skb: &mut Skb, work: &Work<A>, verdict: Verdict, direction: Direction) -> i32 {
    match verdict {
        Verdict::Pass => NEXT,
        Verdict::Drop => DROP,
        Verdict::Redirect => redirect(skb, work),
        // To whoever sent it: the device's other side, or this host, which sees it come in.
        Verdict::Bounce if direction == Direction::Leaves => send(skb.device(), BPF_F_INGRESS),
        Verdict::Bounce => send(skb.device(), 0),
        Verdict::ToHost => to_host(skb, work),
        Verdict::Enter => enter(work.route.device),
    }
}

#[inline(always)]
fn send(device: u32, flags: u32) -> i32 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_redirect(device, flags.into()) as i32 }
}

/// The frame could not be made what the device wants.
#[inline(always)]
fn drop() -> i32 {
    count(Counter::DroppedRewrite);
    DROP
}

/// Out of the other end of a pair of devices, as if it had gone through.
#[inline(always)]
fn enter(device: u32) -> i32 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_redirect_peer(device, 0) as i32 }
}

/// Out through another device, with the link layer that the next hop wants.
#[inline(never)]
fn redirect<A: PacketFamily>(skb: &mut Skb, work: &Work<A>) -> i32 {
    if !frame::ensure(skb) {
        return drop();
    }
    let mut next = work.route.destination.redirection();
    // A next hop of the other family: the kernel finds it again by itself.
    let known = work.route.destination != A::UNSPECIFIED;
    let (next, size) =
        if known { (&raw mut next, size_of::<NextHop>() as i32) } else { (ptr::null_mut(), 0) };
    // SAFETY: the next hop is whole and outlives the call.
    unsafe { bpf_redirect_neigh(work.route.device, next, size, 0) as i32 }
}

/// Into the host's stack, as if it came in through `Work::route`'s device: that is where the host sent the packet that
/// this one answers, so that the kernel's reverse path filter finds it right.
#[inline(never)]
fn to_host<A: PacketFamily>(skb: &mut Skb, work: &Work<A>) -> i32 {
    let device = work.route.device;
    if device == skb.device() {
        return NEXT;
    }
    let mut hardware = [0; 6];
    let known = device == maps::loopback()
        || route::own_hardware(skb, device, work.outer.destination, work.outer.source, &mut hardware);
    if !known {
        return NEXT;
    }
    if !frame::ensure(skb) || !frame::address(skb, &hardware) {
        return drop();
    }
    send(device, BPF_F_INGRESS)
}
