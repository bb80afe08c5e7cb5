//! One packet at a device: its bytes, its checksums, its size. Everything is a kernel helper call or a field of the
//! context.
//!
//! Must not know what a packet is for.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated::{
        bpf_csum_update, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_l3_csum_replace,
        bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
};
use proxy_common::Counter;
use proxy_packet::{Packet, Sum, Wire};

use crate::{
    frame, limit, linear,
    sum::{crc_change, sum_bytes},
    verdict::count,
};

/// A packet of one family.
///
/// A device may have summed the whole packet (`CHECKSUM_COMPLETE`); then that sum must follow every change. IPv4: a change
/// is made up for by the checksum that covers it, and the helpers leave the sum alone but for the pseudo header. IPv6 has
/// no header checksum, so here everything that is stored is added to the sum and everything a checksum loses is taken
/// off: right for the hop limit, too, and on every kernel (`BPF_F_IPV6`, the other way, is new in 6.16).
pub struct Skb {
    context: *mut __sk_buff,
    family: u32,
}

/// Reads a field of the context. Volatile: the verifier allows one access of exactly the field's size.
macro_rules! field {
    ($self:ident . $name:ident) => {
        // SAFETY: the kernel guarantees a valid context for the length of the program.
        unsafe { (&raw const (*$self.context).$name).read_volatile() }
    };
}

impl Skb {
    /// Wraps the program's argument. `family` is 4, 6, or 0 if nothing will be stored.
    #[inline(always)]
    pub fn new(context: *mut __sk_buff, family: u32) -> Self {
        Self { context, family }
    }

    /// The context, for helpers that want it.
    #[inline(always)]
    pub fn context(&self) -> *mut __sk_buff {
        self.context
    }

    /// Another handle of the same packet, for a callback: this one stays out of memory.
    #[inline(always)]
    pub fn again(&self) -> Self {
        Self { context: self.context, family: self.family }
    }

    /// Whether it bears the tag of a VLAN; tag 0 says only a priority.
    #[inline(always)]
    pub fn is_of_vlan(&self) -> bool {
        field!(self.vlan_present) != 0 && field!(self.vlan_tci) & 0xfff != 0
    }

    /// Whether the link layer has it for this host (`PACKET_HOST`): neither for a group nor for another on the same link.
    #[inline(always)]
    pub fn is_for_host(&self) -> bool {
        field!(self.pkt_type) == 0
    }

    /// Length in bytes of a packet that leaves, with the headers that each segment of a GSO packet will have. Of one that
    /// arrives it is without the link layer.
    #[inline(always)]
    pub fn wire_length(&self) -> u32 {
        field!(self.wire_len)
    }

    /// Where the part of the packet that can be read at once begins and ends.
    #[inline(always)]
    pub fn linear(&self) -> (usize, usize) {
        (field!(self.data) as usize, field!(self.data_end) as usize)
    }

    /// Bytes that are not in the linear part, or far behind.
    #[inline(always)]
    fn load_by_helper<const N: usize>(&mut self, at: u32, to: &mut [u8; N]) -> bool {
        // Not into `to` itself, which the compiler would have to keep in memory then.
        let mut bytes = [0; N];
        // SAFETY: N bytes are written to where N bytes are.
        let failed =
            unsafe { bpf_skb_load_bytes(self.context.cast(), at, bytes.as_mut_ptr().cast(), N as u32) };
        *to = bytes;
        failed == 0
    }

    #[inline(always)]
    fn store_flags(&self) -> u64 {
        if self.family == 6 { u64::from(BPF_F_RECOMPUTE_CSUM) } else { 0 }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn length(&self) -> u32 {
        field!(self.len)
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        field!(self.gso_size)
    }

    #[inline(always)]
    fn ethertype(&self) -> u16 {
        field!(self.protocol) as u16
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        field!(self.ifindex)
    }

    #[inline(always)]
    fn link_header(&self) -> u32 {
        frame::length(self)
    }

    #[inline(always)]
    fn is_from_host(&self) -> bool {
        field!(self.ingress_ifindex) == 0
    }

    #[inline(always)]
    fn load<const N: usize>(&mut self, at: u32, to: &mut [u8; N]) -> bool {
        let (data, end) = self.linear();
        linear::copy(data, end, at, to) || self.load_by_helper(at, to)
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, at: u32, bytes: &[u8; N]) -> bool {
        let flags = self.store_flags();
        // SAFETY: N bytes are read from where N bytes are.
        unsafe { bpf_skb_store_bytes(self.context, at, bytes.as_ptr().cast(), N as u32, flags) == 0 }
    }

    #[inline(always)]
    fn update_sum<A: Wire>(&mut self, at: u32, difference: u32, sum: Sum) -> bool {
        let (pseudo, mangled) = (u64::from(BPF_F_PSEUDO_HDR), u64::from(BPF_F_MARK_MANGLED_0));
        let flags = match sum {
            Sum::Ip => {
                // SAFETY: the helper checks the offset.
                return unsafe { bpf_l3_csum_replace(self.context, at, 0, u64::from(difference), 0) == 0 };
            }
            Sum::Payload => 0,
            Sum::Pseudo => pseudo,
            Sum::UdpPayload => mangled,
            Sum::UdpPseudo => mangled | pseudo,
        };
        // SAFETY: the helper checks the offset.
        let failed = unsafe { bpf_l4_csum_replace(self.context, at, 0, u64::from(difference), flags) };
        if A::FAMILY == 6 && flags & pseudo == 0 {
            // What the checksum loses; with the pseudo header the helper has done it. Fails unless the device has summed.
            // SAFETY: the helper has no precondition.
            unsafe { bpf_csum_update(self.context, !difference) };
        }
        failed == 0
    }

    #[inline(always)]
    fn note_change(&mut self, difference: u32) {
        if self.family != 6 {
            // Fails unless the device has summed the packet.
            // SAFETY: the helper has no precondition.
            unsafe { bpf_csum_update(self.context, difference) };
        }
    }

    #[inline(always)]
    fn sum(&mut self, from: u32, end: u32, sum: &mut u32) -> bool {
        let total = sum_bytes(self.context, from, end, *sum);
        *sum = total as u32;
        total >= 0
    }

    #[inline(always)]
    fn crc_change(&mut self, length: u32, flipped: u32) -> u32 {
        crc_change(length, flipped)
    }

    #[inline(always)]
    fn resize(&mut self, length: u32) -> bool {
        // SAFETY: the helper checks the length.
        unsafe { bpf_skb_change_tail(self.context, length, 0) == 0 }
    }

    /// The sum of the new bytes, zeros, is 0; and what the device has verified (`CHECKSUM_UNNECESSARY`) counts no more.
    #[inline(always)]
    fn make_room(&mut self, bytes: u32) -> bool {
        // SAFETY: the helper checks the length.
        unsafe { bpf_skb_adjust_room(self.context, bytes as i32, BPF_ADJ_ROOM_MAC, 0) == 0 }
    }

    /// The clock of the last tick: some milliseconds are nothing to a flow, and reading the hardware's costs each packet.
    #[inline(always)]
    fn now_ns(&mut self) -> u64 {
        // SAFETY: the helper has no precondition.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: the helper has no precondition.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn count(&mut self, counter: Counter) {
        count(counter);
    }

    #[inline(always)]
    fn may_refuse(&mut self) -> bool {
        limit::may_refuse()
    }
}
