//! The link layer of a packet: whether there is one, and what a redirection needs of it.
//!
//! Must not know what a packet is for.

use aya_ebpf::{
    bindings::bpf_hdr_start_off::BPF_HDR_START_NET,
    helpers::generated::{bpf_skb_change_head, bpf_skb_load_bytes_relative, bpf_skb_store_bytes},
};
use proxy_packet::Packet as _;

use crate::skb::Skb;

/// Length of an Ethernet header.
const ETHERNET: u32 = 14;
/// Where it has the type of what follows.
const ETHERTYPE_AT: u32 = 12;

/// Length of the link layer's header.
///
/// The kernel's own value is not in the context. A packet without link layer begins with the IP version, so one that
/// begins otherwise has one; the few hardware addresses that look like a version are told apart by a helper.
#[inline(always)]
pub fn length(skb: &Skb) -> u32 {
    match first_byte(skb) {
        Some(first) if first >> 4 != 4 && first >> 4 != 6 => ETHERNET,
        _ if begins_with_ip(skb) => 0,
        _ => ETHERNET,
    }
}

/// The first byte of the packet, if a link layer's header can be read at once.
#[inline(always)]
fn first_byte(skb: &Skb) -> Option<u8> {
    let (data, end) = skb.linear();
    // SAFETY: the byte is inside the linear part of the packet, which the verifier proves again.
    (data + ETHERNET as usize <= end).then(|| unsafe { (data as *const u8).read_volatile() })
}

/// Whether the IP header begins where the packet does: then the end of the linear part is as far behind the one as
/// behind the other.
#[inline(always)]
fn begins_with_ip(skb: &Skb) -> bool {
    let mut last = [0_u8; 2];
    let (data, end) = skb.linear();
    let at = (end as u32).wrapping_sub(data as u32).wrapping_sub(last.len() as u32);
    let (context, to) = (skb.context().cast_const().cast(), last.as_mut_ptr().cast());
    // SAFETY: two bytes are written to where two bytes are; the helper checks the offset.
    let failed = unsafe { bpf_skb_load_bytes_relative(context, at, to, 2, BPF_HDR_START_NET) };
    failed == 0
}

/// Gives a packet without link layer an Ethernet header: a redirection to a neighbour, and one into a device that has
/// such headers, is refused otherwise.
#[inline(always)]
pub fn ensure(skb: &mut Skb) -> bool {
    if length(skb) != 0 {
        return true;
    }
    let ethertype = skb.ethertype().to_ne_bytes();
    // SAFETY: the helper checks the length.
    let failed = unsafe { bpf_skb_change_head(skb.context(), ETHERNET, 0) };
    failed == 0 && store(skb, ETHERTYPE_AT, &ethertype)
}

/// Addresses the frame to a device.
#[inline(always)]
pub fn address(skb: &mut Skb, hardware: &[u8; 6]) -> bool {
    store(skb, 0, hardware)
}

/// Not [`proxy_packet::Packet::store`]: the link layer is in no sum.
#[inline(always)]
fn store<const N: usize>(skb: &mut Skb, at: u32, bytes: &[u8; N]) -> bool {
    // SAFETY: N bytes are read from where N bytes are.
    unsafe { bpf_skb_store_bytes(skb.context(), at, bytes.as_ptr().cast(), N as u32, 0) == 0 }
}
