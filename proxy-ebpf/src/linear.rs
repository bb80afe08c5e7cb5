//! Reading the linear part of a packet without a helper.
//!
//! In assembler, for two reasons. The verifier knows how far a packet pointer may be read from a comparison of that very
//! pointer, and the compiler would compute it in another order for the comparison than for the read. And a packet's
//! words are at any address, which every processor we support reads, but which the compiler reads byte by byte.
//! Must not know headers.

use core::arch::asm;

/// Offsets of so many bits are read here; what lies beyond is left to the helper.
const BITS: u32 = 10;

/// Copies `N` bytes at `at` of the packet from `data` to `end`; false if they are not all there.
#[inline(always)]
pub fn copy<const N: usize>(data: usize, end: usize, at: u32, to: &mut [u8; N]) -> bool {
    let Some(from) = reach(data, at.into()) else { return false };
    if from + N > end {
        return false;
    }
    let (eights, rest) = to.as_chunks_mut::<8>();
    for (index, eight) in eights.iter_mut().enumerate() {
        *eight = read8(from + index * 8).to_ne_bytes();
    }
    let from = from + N / 8 * 8;
    let (fours, rest) = rest.as_chunks_mut::<4>();
    for four in fours {
        *four = read4(from).to_ne_bytes();
    }
    let from = from + N % 8 / 4 * 4;
    for (index, byte) in rest.iter_mut().enumerate() {
        *byte = read1(from + index);
    }
    true
}

/// The pointer `at` bytes behind `data`, unless that is too far. Nothing is compared with `at` itself: the verifier would
/// remember for good what it learned of it, and follow both cases to the end.
#[inline(always)]
fn reach(data: usize, at: u64) -> Option<usize> {
    let (mut pointer, mut near, mut far) = (data, at, at);
    // SAFETY: arithmetic.
    unsafe {
        asm!(
            "{far} >>= {BITS}",
            "{near} &= {MASK}",
            "{pointer} += {near}",
            far = inlateout(reg) far,
            near = inlateout(reg) near,
            pointer = inlateout(reg) pointer,
            BITS = const BITS,
            MASK = const (1 << BITS) - 1,
            options(pure, nomem, nostack),
        );
    }
    let _ = near;
    (far == 0).then_some(pointer)
}

#[inline(always)]
fn read8(from: usize) -> u64 {
    let value: u64;
    // SAFETY: the caller has compared the pointer with the packet's end; the verifier proves it again.
    unsafe {
        asm!("{0} = *(u64 *)({1} + 0)", out(reg) value, in(reg) from, options(pure, readonly, nostack));
    }
    value
}

#[inline(always)]
fn read4(from: usize) -> u32 {
    let value: u64;
    // SAFETY: as for `read8`.
    unsafe {
        asm!("{0} = *(u32 *)({1} + 0)", out(reg) value, in(reg) from, options(pure, readonly, nostack));
    }
    value as u32
}

#[inline(always)]
fn read1(from: usize) -> u8 {
    let value: u64;
    // SAFETY: as for `read8`.
    unsafe {
        asm!("{0} = *(u8 *)({1} + 0)", out(reg) value, in(reg) from, options(pure, readonly, nostack));
    }
    value as u8
}
