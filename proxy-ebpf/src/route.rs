//! The kernel's routing and sockets: where a packet would go, and whose it is.
//!
//! Must not know why somebody asks.

use core::mem;

use aya_ebpf::{
    bindings::{
        BPF_F_CURRENT_NETNS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT,
        bpf_fib_lookup as Question,
    },
    helpers::generated::{bpf_fib_lookup, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
};
use proxy_common::FlowKey;
use proxy_packet::{Reached, Route};

use crate::{family::PacketFamily, frame, maps, skb::Skb};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Asks the routing table. A packet that leaves is asked for as the host's own before it had a device: the one it
/// leaves through was chosen for another destination. The kernel goes by that route again if it has to wait for the next
/// hop's hardware address (`neigh_update`), so it is told no next hop then and looks for the route anew.
#[inline(always)]
pub fn ask<A: PacketFamily>(skb: &Skb, route: &mut Route<A>) -> Reached {
    // SAFETY: integers only, for which zero is a value.
    let mut question: Question = unsafe { mem::zeroed() };
    A::ask(&mut question, route.source, route.destination);
    question.l4_protocol = route.protocol as u8;
    question.ifindex = if route.leaving == 0 { route.device } else { maps::loopback() };
    // 0 would ask for the packet as it is now, whole if it is GSO.
    question.__bindgen_anon_1.tot_len = route.length.clamp(1, 0xffff) as u16;
    let size = size_of::<Question>() as i32;
    // SAFETY: the question is whole and outlives the call.
    let answer = unsafe { bpf_fib_lookup(skb.context().cast(), &raw mut question, size, 0) };
    match answer as u32 {
        BPF_FIB_LKUP_RET_SUCCESS => {
            route.device = question.ifindex;
            route.destination = A::next_hop(&question);
            Reached::Device
        }
        BPF_FIB_LKUP_RET_NO_NEIGH => {
            route.device = question.ifindex;
            route.destination = if route.leaving == 0 { A::next_hop(&question) } else { A::UNSPECIFIED };
            Reached::Device
        }
        // Local, broadcast, and no route at all: in each case the stack knows best.
        BPF_FIB_LKUP_RET_NOT_FWDED => Reached::Host,
        BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            // SAFETY: this answer sets the field.
            route.mtu = u32::from(unsafe { question.__bindgen_anon_1.mtu_result });
            Reached::TooBig
        }
        _ => Reached::Nowhere,
    }
}

/// Addresses the frame to the pod behind `device`; see [`proxy_packet::Tables::face_pod`].
#[inline(always)]
pub fn face_pod(skb: &mut Skb, device: u32) -> bool {
    let Some(at) = maps::ENDPOINTS.get_ptr(device) else { return false };
    // SAFETY: valid for the length of the program; nobody changes what is read here, an update is a new record.
    let (limit, hardware) = unsafe { ((*at).to_rate, (*at).mac) };
    limit == 0 && skb.is_for_host() && frame::address(skb, &hardware)
}

/// Whether a socket of the device's network namespace is connected from, or listens at, the destination of `key`.
#[inline(always)]
pub fn host_socket<A: PacketFamily>(skb: &Skb, key: &FlowKey<A>) -> bool {
    // The key begins as `bpf_sock_tuple` does: both addresses, both ports.
    let (context, ends) = (skb.context().cast(), (&raw const *key).cast_mut().cast());
    let length = (size_of::<A>() * 2 + 4) as u32;
    let here = BPF_F_CURRENT_NETNS as u64;
    // SAFETY: the helpers read `length` bytes of the key.
    let socket = unsafe {
        match key.protocol {
            TCP => bpf_skc_lookup_tcp(context, ends, length, here, 0),
            UDP => bpf_sk_lookup_udp(context, ends, length, here, 0),
            _ => return false,
        }
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the socket is the one that was found, released once.
    unsafe { bpf_sk_release(socket.cast()) };
    true
}

/// The hardware address of a device, if a neighbour behind it that is on the way to `destination` is known.
#[inline(always)]
pub fn own_hardware<A: PacketFamily>(
    skb: &Skb,
    device: u32,
    source: A,
    destination: A,
    to: &mut [u8; 6],
) -> bool {
    // SAFETY: integers only, for which zero is a value.
    let mut question: Question = unsafe { mem::zeroed() };
    A::ask(&mut question, source, destination);
    question.ifindex = device;
    question.__bindgen_anon_1.tot_len = 1;
    let size = size_of::<Question>() as i32;
    // SAFETY: the question is whole and outlives the call.
    let answer =
        unsafe { bpf_fib_lookup(skb.context().cast(), &raw mut question, size, BPF_FIB_LOOKUP_OUTPUT) };
    *to = question.smac;
    answer as u32 == BPF_FIB_LKUP_RET_SUCCESS
}
