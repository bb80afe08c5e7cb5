//! A packet as bytes in memory, with the checksum state of a kernel packet.
//!
//! Behaves like the helpers of kernel 6.18 (`net/core/filter.c`, `net/core/utils.c`): what they refuse is refused.
//! Must not know tables.

use std::vec;

use proxy_common::Counter;

use super::{Offload, Simulation};
use crate::{
    checksum,
    env::{LONGEST_SUM, Packet, Sum},
    wire::Wire,
};

impl Packet for Simulation {
    fn length(&self) -> u32 {
        number(self.bytes.len())
    }

    fn segment(&self) -> u32 {
        self.segment
    }

    fn ethertype(&self) -> u16 {
        self.ethertype
    }

    fn device(&self) -> u32 {
        self.device
    }

    fn link_header(&self) -> u32 {
        self.link_header
    }

    fn is_from_host(&self) -> bool {
        self.from_host
    }

    fn load<const N: usize>(&mut self, at: u32, to: &mut [u8; N]) -> bool {
        match self.bytes.get(at as usize..).and_then(<[u8]>::first_chunk::<N>) {
            Some(bytes) => *to = *bytes,
            None => return false,
        }
        true
    }

    fn store<const N: usize>(&mut self, at: u32, bytes: &[u8; N]) -> bool {
        match self.bytes.get_mut(at as usize..).and_then(<[u8]>::first_chunk_mut::<N>) {
            Some(to) => *to = *bytes,
            None => return false,
        }
        true
    }

    fn update_sum<A: Wire>(&mut self, at: u32, difference: u32, sum: Sum) -> bool {
        let mut field = [0; 2];
        if !self.load(at, &mut field) {
            return false;
        }
        let old = u16::from_ne_bytes(field);
        let optional = matches!(sum, Sum::UdpPayload | Sum::UdpPseudo);
        if optional && old == 0 {
            return true;
        }
        let mut new = self.updated::<A>(old, difference, sum);
        if optional && new == 0 {
            new = 0xffff;
        }
        self.store(at, &new.to_ne_bytes())
    }

    fn note_change(&mut self, difference: u32) {
        if let Offload::Complete(sum) = &mut self.offload {
            *sum = checksum::add(*sum, difference);
        }
    }

    fn sum(&mut self, from: u32, end: u32, sum: &mut u32) -> bool {
        let Some(bytes) = self.bytes.get(from as usize..end as usize) else { return false };
        if number(bytes.len()) > LONGEST_SUM {
            return false;
        }
        for chunk in bytes.chunks(4) {
            let mut word = [0; 4];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            *sum = checksum::add(*sum, u32::from_ne_bytes(word));
        }
        true
    }

    fn resize(&mut self, length: u32) -> bool {
        if let Offload::Partial { field, .. } = self.offload
            && length < field + 2
        {
            return false;
        }
        if length != self.length() && matches!(self.offload, Offload::Complete(_)) {
            self.offload = Offload::None;
        }
        self.bytes.resize(length as usize, 0);
        self.segment = 0;
        true
    }

    fn make_room(&mut self, bytes: u32) -> bool {
        let at = self.link_header as usize;
        // The kernel grows no UDP GSO packet, and none whose type it notes as a VLAN tag.
        let ip = [0x0800_u16.to_be(), 0x86dd_u16.to_be()].contains(&self.ethertype);
        if !ip || self.segment != 0 || at > self.bytes.len() {
            return false;
        }
        self.bytes.splice(at..at, vec![0; bytes as usize]);
        if let Offload::Partial { start, field } = &mut self.offload {
            *start += bytes;
            *field += bytes;
        }
        true
    }

    fn now_ns(&mut self) -> u64 {
        self.clock_ns
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn random(&mut self) -> u32 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number((z >> 33) as usize)
    }

    fn count(&mut self, counter: Counter) {
        *self.counts.entry(counter).or_default() += 1;
    }

    fn may_refuse(&mut self) -> bool {
        let may = self.refusals > 0;
        self.refusals = self.refusals.saturating_sub(1);
        may
    }
}

impl Simulation {
    /// What `bpf_l3_csum_replace` and `bpf_l4_csum_replace` (with `BPF_F_IPV6` where it is known) make of a field.
    fn updated<A: Wire>(&mut self, old: u16, difference: u32, sum: Sum) -> u16 {
        let pseudo = matches!(sum, Sum::Pseudo | Sum::UdpPseudo);
        match &mut self.offload {
            Offload::Partial { .. } if sum != Sum::Ip => {
                if pseudo {
                    checksum::fold16(checksum::add(u32::from(old), difference))
                } else {
                    old
                }
            }
            Offload::Complete(total) if pseudo && A::FAMILY == 4 => {
                // The checksum falls by what the address rises, and the IP header's sum stays nothing.
                *total = checksum::add(*total, !difference);
                checksum::update(old, difference)
            }
            _ => checksum::update(old, difference),
        }
    }

    /// Leaves the checksum at `field`, over the bytes from `start`, to the device, as the sender's kernel does: the
    /// field gets the sum of the pseudo header, which is what the rest with the whole checksum leaves to be said.
    pub fn leave_to_device(&mut self, start: u32, field: u32) {
        let rest = self.bytes.get(start as usize..).map_or(0, total);
        self.store(field, &checksum::finish(rest).to_ne_bytes());
        self.offload = Offload::Partial { start, field };
    }

    /// Does what the device does on transmission: completes a checksum left to it.
    pub fn transmit(&mut self) {
        if let Offload::Partial { start, field } = self.offload {
            let sum = self.bytes.get(start as usize..).map_or(0, total);
            let checksum = match checksum::finish(sum) {
                0 => 0xffff,
                other => other,
            };
            self.store(field, &checksum.to_ne_bytes());
        }
        self.offload = Offload::None;
    }

    /// Lets the device sum the packet, as on reception.
    pub fn sum_by_device(&mut self) {
        self.offload = Offload::Complete(self.true_sum());
    }

    /// Whether a sum that the device made still fits the packet.
    pub fn device_sum_fits(&self) -> bool {
        match self.offload {
            Offload::Complete(sum) => {
                checksum::fold16(sum) % 0xffff == checksum::fold16(self.true_sum()) % 0xffff
            }
            _ => true,
        }
    }

    fn true_sum(&self) -> u32 {
        self.bytes.get(self.link_header as usize..).map_or(0, total)
    }
}

/// The sum of bytes in pairs as they are in memory; a missing last one counts as 0.
pub(super) fn total(bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(0, |sum, pair| {
        let word = [pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)];
        checksum::add(sum, u32::from(u16::from_ne_bytes(word)))
    })
}

/// A length as the packet path counts; what is longer than that is as good as endless.
fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
