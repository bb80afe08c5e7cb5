//! A limit of one direction of a pod: the generic cell rate algorithm (ITU-T I.371) over a word of its record.
//!
//! The word says when the next packet would be due if all kept to the rate. A packet may be early by what the burst is
//! worth; so the one that uses the burst up may be larger than what was left, and no packet is too large for any limit.
//! Must not know whose limit it is.

use core::arch::asm;

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_skb_set_tstamp};

use crate::skb::Skb;

const SECOND_NS: u64 = 1_000_000_000;
/// The largest burst that is told apart, bytes: times a second it fits 64 bits.
const LARGEST_BURST: u64 = 1 << 33;
/// `BPF_SKB_TSTAMP_DELIVERY_MONO` (linux/bpf.h): the time is when to send, and routing keeps it.
const DELIVERY: u32 = 1;

/// A limit.
pub struct Rate {
    /// Bytes in a second; 0: none.
    pub bytes: u64,
    /// Bytes at once.
    pub burst: u64,
    /// How long a packet may be delayed instead of dropped, nanoseconds: the queue of the device it leaves through
    /// (`fq`) keeps it until then.
    pub patience: u64,
}

impl Rate {
    /// Whether a packet of so many bytes may go on now, or later. Then it is accounted for.
    #[inline(always)]
    pub fn admits(&self, skb: &Skb, length: u32, due: *mut u64) -> bool {
        if self.bytes == 0 {
            return true;
        }
        // SAFETY: the helper has no precondition.
        let now = unsafe { bpf_ktime_get_ns() };
        // SAFETY: a word of a map's value, whole whoever else writes it.
        let expected = unsafe { due.read_volatile() };
        let burst = if self.burst > LARGEST_BURST { LARGEST_BURST } else { self.burst };
        let departure = expected.saturating_sub(burst * SECOND_NS / self.bytes);
        if departure > now + self.patience {
            return false;
        }
        let cost = u64::from(length) * SECOND_NS / self.bytes;
        account(due, expected, now, cost);
        if departure > now && self.patience != 0 {
            // SAFETY: the context is valid; a packet of a device has no other delivery time.
            unsafe { bpf_skb_set_tstamp(skb.context(), departure, DELIVERY) };
        }
        true
    }
}

/// Several CPUs may be here for one pod. While it is at its limit nobody's packet is lost from the account; only of
/// those that begin a burst at the same moment one may be.
#[inline(always)]
fn account(due: *mut u64, expected: u64, now: u64, cost: u64) {
    if expected < now {
        // SAFETY: as for the reading.
        return unsafe { due.write_volatile(now + cost) };
    }
    // SAFETY: an atomic addition to an aligned word of a map's value. Assembler, as the target has no atomic types.
    unsafe {
        asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) due, in(reg) cost, options(nostack));
    }
}
