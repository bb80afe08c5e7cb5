//! The ring map as memory: ids are written with plain stores, no system call for each.
//!
//! Must not know which positions are in use.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::atomic::{Ordering, fence},
};

use proxy_common::BackendId;

use super::mapped::{Mapped, Padded};

/// A shared mapping of the whole ring.
pub(super) struct RingMemory(Mapped<Padded>);

impl RingMemory {
    /// Maps an array map of `positions` ids of 4 bytes that was created with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// The kernel's; it refuses a mapping larger than the map.
    pub(super) fn map(ring: BorrowedFd<'_>, positions: u32) -> io::Result<Self> {
        Mapped::map(ring, positions).map(Self)
    }

    /// How many positions there are.
    pub(super) fn len(&self) -> usize {
        self.0.elements().len()
    }

    /// Writes ids from `base` on. Nothing is written unless all fit. What the caller publishes afterwards is visible
    /// only after these ids.
    pub(super) fn write(&self, base: u32, ids: &[BackendId]) -> bool {
        let base = base as usize;
        let Some(range) = base.checked_add(ids.len()).and_then(|end| self.0.elements().get(base..end)) else {
            return false;
        };
        for (slot, id) in range.iter().zip(ids) {
            slot.value.store(*id, Ordering::Relaxed);
        }
        // Pairs with the program's dependent read: it finds the range through the service record, which is written after.
        fence(Ordering::Release);
        true
    }

    /// A copy of all ids.
    pub(super) fn read(&self) -> Vec<BackendId> {
        self.0.elements().iter().map(|slot| slot.value.load(Ordering::Relaxed)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;

    /// An ordinary file maps like the kernel's array does.
    fn ring(positions: u32) -> (RingMemory, File) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(u64::from(positions) * 8).unwrap();
        (RingMemory::map(file.as_fd(), positions).unwrap(), file)
    }

    #[test]
    fn ids_lie_eight_bytes_apart() {
        use std::os::unix::fs::FileExt;
        let (ring, file) = ring(600);
        assert!(ring.write(598, &[7, 0x0102_0304]));
        let mut bytes = [0; 16];
        file.read_exact_at(&mut bytes, 598 * 8).unwrap();
        assert_eq!(bytes[..4], 7_u32.to_ne_bytes());
        assert_eq!(bytes[8..12], 0x0102_0304_u32.to_ne_bytes());
    }

    #[test]
    fn a_write_beyond_the_end_writes_nothing() {
        let (ring, _file) = ring(4);
        assert!(!ring.write(3, &[1, 2]));
        assert!(!ring.write(u32::MAX, &[1]));
        assert_eq!(ring.read(), [0; 4]);
        assert!(ring.write(0, &[1, 2, 3, 4]));
        assert_eq!(ring.read(), [1, 2, 3, 4]);
    }
}
