//! Copies of map values that somebody else may be writing.
//!
//! Word by word, each read exactly once and into its place: of a volatile read of the whole the compiler makes a copy on
//! the stack first. Must not know what is copied.

/// Copies a value of 32-bit words.
///
/// # Safety
/// `from` must be valid for reads, if not for a consistent view.
#[inline(always)]
pub unsafe fn copy_words<T: Copy>(from: *const T, to: &mut T) {
    const { assert!(size_of::<T>().is_multiple_of(4) && align_of::<T>() >= 4) };
    let (from, to) = (from.cast::<u32>(), (&raw mut *to).cast::<u32>());
    for word in 0..size_of::<T>() / 4 {
        // SAFETY: inside both values; the caller vouches for `from`. The words are a value of `T` if they are whole, and
        // any words are: the values are made of integers.
        unsafe { to.add(word).write(from.add(word).read_volatile()) };
    }
}
