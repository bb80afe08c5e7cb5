//! An array map as memory, shared with the programs.
//!
//! Must not know what its elements mean.

use std::{
    ffi::c_void,
    io,
    marker::PhantomData,
    num::NonZeroUsize,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// One element of 4 bytes: the kernel's arrays round each up to 8 bytes (`array_map_alloc`).
#[repr(C)]
pub(super) struct Padded {
    pub(super) value: AtomicU32,
    padding: u32,
}

/// What may lie in memory that others write.
///
/// # Safety
/// Any bytes are a value of it, all that is accessible changes through atomics only, and it is as large as an element of the map
/// with its padding.
pub(super) unsafe trait Shared {}

// SAFETY: integers; the padding is private.
unsafe impl Shared for Padded {}
// SAFETY: an atomic integer of 8 bytes.
unsafe impl Shared for AtomicU64 {}

/// A shared mapping of a whole array.
pub(super) struct Mapped<T> {
    address: NonNull<c_void>,
    bytes: NonZeroUsize,
    length: usize,
    elements: PhantomData<T>,
}

// SAFETY: the mapping belongs to this value alone and is only accessed through atomics.
unsafe impl<T: Shared> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Mapped<T> {}

impl<T: Shared> Mapped<T> {
    /// Maps an array map of `length` elements that was created with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// The kernel's; it refuses a mapping larger than the map.
    pub(super) fn map(array: BorrowedFd<'_>, length: u32) -> io::Result<Self> {
        let length = length as usize;
        let bytes = NonZeroUsize::new(length * size_of::<T>())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice disturbs no memory of ours.
        let address = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, array, 0) }?;
        Ok(Self { address, bytes, length, elements: PhantomData })
    }

    /// The elements.
    pub(super) fn elements(&self) -> &[T] {
        // SAFETY: the mapping is page-aligned, at least `length` elements long, lives as long as self, and any bytes are a valid
        // element; what changes under us is atomic.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr().cast::<T>(), self.length) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: address and length are those of our own mapping, and no reference into it outlives self.
        // Failure leaves a mapping behind that nobody uses.
        let _ = unsafe { munmap(self.address, self.bytes.get()) };
    }
}
