//! Reading a whole map in few system calls.
//!
//! Must not know what the map holds.

use std::{io, os::fd::BorrowedFd};

use aya::Pod;

use super::sys::{self, Cursor};

/// Elements for each system call.
const BATCH: usize = 4096;
/// The largest batch tried: a hash bucket with more elements than this would mean a broken hash.
const MAX_BATCH: usize = 1 << 20;

/// Calls `visit` for every element of a hash, LRU hash, LPM trie or array. The caller must not delete elements
/// meanwhile; elements that the kernel itself evicts may be missed.
///
/// # Errors
/// The kernel's, or `InvalidInput` if the map's element sizes (`sizes`: key, value) are not those of `K` and `V`.
pub(super) fn for_each<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    sizes: (u32, u32),
    mut visit: impl FnMut(K, V),
) -> io::Result<()> {
    if sizes != (sys::size::<K>(), sys::size::<V>()) || size_of::<K>() > size_of::<Cursor>() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let (mut keys, mut values) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    let mut cursor: Option<Cursor> = None;
    loop {
        // SAFETY: the sizes were compared above; Pod is plain data.
        let next = unsafe { sys::lookup_batch::<K, V>(map, cursor.as_ref(), &mut keys, &mut values) };
        match next {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && keys.capacity() < MAX_BATCH => {
                let larger = keys.capacity() * 2;
                (keys, values) = (Vec::with_capacity(larger), Vec::with_capacity(larger));
            }
            Err(error) => return Err(error),
            Ok(next) => {
                keys.iter().zip(&values).for_each(|(key, value)| visit(*key, *value));
                match next {
                    Some(next) => cursor = Some(next),
                    None => return Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn element_sizes_other_than_the_maps_are_refused() {
        let stdin = io::stdin();
        let error = for_each::<u32, u64>(stdin.as_fd(), (4, 4), |_, _| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
