//! The map `address_filter`: which addresses packets look up at all. Bits are set and never cleared.
//!
//! Must not know when an address comes into use.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use proxy_common::{Address, Bit};

use super::mapped::Mapped;

/// The filter, to be written. Any number of writers at a time.
pub(super) struct AddressFilter(Mapped<AtomicU64>);

impl AddressFilter {
    /// Maps the array.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn map(array: BorrowedFd<'_>, elements: u32) -> io::Result<Self> {
        Mapped::map(array, elements).map(Self)
    }

    /// Has packets to an address look it up. What the caller writes afterwards is visible only after this. False: the map has
    /// no such bit.
    pub(super) fn admit<A: Address>(&self, address: A) -> bool {
        let bit = Bit::of_address(address);
        let Some(element) = self.0.elements().get(bit.element as usize) else { return false };
        element.fetch_or(bit.mask, Ordering::Relaxed);
        // A packet that the program saw before has missed the record, too.
        fence(Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, os::fd::AsFd, os::unix::fs::FileExt};

    use proxy_common::{Ipv4Be, filter::ADDRESS_FILTER};

    use super::*;

    /// An ordinary file maps like the kernel's array does.
    #[test]
    fn two_writers_of_one_map_keep_each_others_bits() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(u64::from(ADDRESS_FILTER) * 8).unwrap();
        let map = || AddressFilter::map(file.as_fd(), ADDRESS_FILTER).unwrap();
        let (one, other) = (map(), map());
        let addresses = || (0..5_000_u32).map(|n| Ipv4Be::from(Ipv4Addr::from(0x0a60_0000 + n)));
        for (number, address) in addresses().enumerate() {
            assert!(if number % 2 == 0 { one.admit(address) } else { other.admit(address) });
        }
        for address in addresses() {
            let bit = Bit::of_address(address);
            let mut element = [0; 8];
            file.read_exact_at(&mut element, u64::from(bit.element) * 8).unwrap();
            assert_ne!(u64::from_ne_bytes(element) & bit.mask, 0, "{address:?}");
        }
    }

    #[test]
    fn a_map_that_is_too_small_is_noticed() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8).unwrap();
        let filter = AddressFilter::map(file.as_fd(), 1).unwrap();
        let kept = (0..100_u32).filter(|n| filter.admit(Ipv4Be::from(Ipv4Addr::from(*n)))).count();
        assert!(kept < 100);
    }
}
