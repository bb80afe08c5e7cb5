//! Sums over a packet: the Internet checksum's (RFC 1071), by the kernel's helper, and the change of a CRC32c.
//!
//! The verifier takes a function that others could call by its name to be right for any arguments, proves that once, and
//! does not walk through it again for each call. Must not know what is summed.

use core::{hint::black_box, ptr};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_csum_diff, bpf_skb_load_bytes},
};
use proxy_packet::{LONGEST_SUM, crc32c};

use crate::maps;

/// The most that the helper adds up at once before kernel 6.13.
const AT_ONCE: u32 = 512;
/// How often, so that the whole is a power of two.
const TIMES: usize = 4;

/// Value of the map `bytes`.
pub type Bytes = [[u64; AT_ONCE as usize / 8]; TIMES];

/// What a number of bytes is masked with, so that the verifier sees that they fit.
const MASK: u32 = AT_ONCE * TIMES as u32 - 1;

const _: () = assert!(LONGEST_SUM <= MASK);

/// Adds the bytes from `from` to `end` to a sum; negative if there are not so many, or more than [`LONGEST_SUM`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sum_bytes(context: *mut __sk_buff, from: u32, end: u32, sum: u32) -> i64 {
    let length = end.wrapping_sub(from);
    let Some(at) = maps::BYTES.get_ptr_mut(0) else { return -1 };
    if length == 0 || length > LONGEST_SUM {
        return if length == 0 { sum.into() } else { -1 };
    }
    // SAFETY: this CPU's own, valid for the length of the program.
    let bytes = unsafe { &mut *at };
    let parts = || (0..).step_by(AT_ONCE as usize).take_while(|start| length > *start);
    for (part, _) in bytes.iter_mut().zip(parts()) {
        *part = [0; AT_ONCE as usize / 8];
    }
    // The compiler would leave the mask out. The helper takes no length of 0.
    let masked = (black_box(length - 1) & MASK) + 1;
    // SAFETY: no more bytes are written than there are.
    if unsafe { bpf_skb_load_bytes(context.cast(), from, at.cast(), masked) } != 0 {
        return -1;
    }
    let mut sum = sum;
    for (part, _) in bytes.iter_mut().zip(parts()) {
        // SAFETY: the helper reads as many bytes as there are.
        sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, part.as_mut_ptr().cast(), AT_ONCE, sum) } as u32;
    }
    sum.into()
}

/// [`crc32c::change`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crc_change(length: u32, flipped: u32) -> u32 {
    crc32c::change(length, flipped)
}
