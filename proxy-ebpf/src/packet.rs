//! The programs of network devices: which family, the packet path, and what becomes of the packet.
//!
//! Must not decide anything.

use aya_ebpf::bindings::__sk_buff;
use proxy_common::{Ipv4Be, Ipv6Be};
use proxy_packet::{Place, egress, ingress, network};

use crate::{
    action::{NEXT, act},
    family::PacketFamily,
    skb::Skb,
};

/// Whether a packet arrives or leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Arrives,
    Leaves,
}

/// A packet at a device.
#[inline(always)]
pub fn meet(context: *mut __sk_buff, direction: Direction, place: Place) -> i32 {
    if direction == Direction::Arrives && Skb::new(context, 0).is_of_vlan() {
        // It arrives once more, without its tag, at the VLAN's own device.
        return NEXT;
    }
    let mut at = 0;
    match network(&mut Skb::new(context, 0), &mut at) {
        4 => handle::<Ipv4Be>(context, at, direction, place),
        6 => handle::<Ipv6Be>(context, at, direction, place),
        _ => NEXT,
    }
}

#[inline(always)]
fn handle<A: PacketFamily>(context: *mut __sk_buff, at: u32, direction: Direction, place: Place) -> i32 {
    let Some(work) = A::work().get_ptr_mut(0) else { return NEXT };
    // SAFETY: this CPU's own and the only reference: these programs run with bottom halves disabled, never one inside
    // another.
    let work = unsafe { &mut *work };
    let mut skb = Skb::new(context, A::FAMILY);
    let verdict = match direction {
        Direction::Arrives => ingress(&mut skb, work, at, place),
        Direction::Leaves => egress(&mut skb, work, at, place),
    };
    act(&mut skb, work, verdict, direction)
}
