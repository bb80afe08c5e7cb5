//! Single elements of a pinned map, for a program that shall start in a millisecond.
//!
//! Must not know what a key or value means.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use crate::bpf::{Access, Command, bpf, info_attr, number, open_pin};

#[repr(C)]
struct ElementAttr {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A map that was opened, and the sizes of its keys and values, which the calls on elements rely on.
#[derive(Debug)]
pub struct ElementMap {
    map: OwnedFd,
    key: usize,
    value: usize,
    entries: usize,
}

impl ElementMap {
    /// Opens a pinned map that is not per CPU.
    ///
    /// # Errors
    /// It is not there (`ENOENT`), or may not be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let map = open_pin(path, Access::Full)?;
        let mut info = MapInfo::default();
        let mut attr = info_attr(map.as_fd(), &mut info);
        // SAFETY: `info` outlives the call and the kernel writes no more than its size; integers of any value are valid.
        unsafe { bpf(Command::InfoByFd, &mut attr) }?;
        let [key, value, entries] = [info.key_size, info.value_size, info.max_entries].map(|it| it as usize);
        Ok(Self { map, key, value, entries })
    }

    /// The value of a key, `None` if there is none.
    ///
    /// # Errors
    /// The key has not the map's size, or the kernel refused.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value];
        let mut attr = self.attr(key, value.as_mut_ptr() as u64)?;
        // SAFETY: key and value outlive the call and have the sizes that the kernel told of the map.
        match unsafe { bpf(Command::ElementLookup, &mut attr) } {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the value of a key. `E2BIG`: the map is full.
    ///
    /// # Errors
    /// Key or value have not the map's sizes, or the kernel refused.
    pub fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if value.len() != self.value {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut attr = self.attr(key, value.as_ptr() as u64)?;
        // SAFETY: key and value outlive the call and have the sizes that the kernel told of the map.
        unsafe { bpf(Command::ElementUpdate, &mut attr) }.map(drop)
    }

    /// Removes a key; one that is not there is fine.
    ///
    /// # Errors
    /// The key has not the map's size, or the kernel refused.
    pub fn remove(&self, key: &[u8]) -> io::Result<()> {
        let mut attr = self.attr(key, 0)?;
        // SAFETY: the key outlives the call and has the size that the kernel told of the map.
        match unsafe { bpf(Command::ElementDelete, &mut attr) } {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The keys, some twice if others change the map meanwhile.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while keys.len() < self.entries {
            let mut next = vec![0; self.key];
            let mut attr = ElementAttr {
                map: number(self.map.as_fd()),
                padding: 0,
                // Without a key the first one is meant.
                key: keys.last().map_or(0, |key| key.as_ptr() as u64),
                value: next.as_mut_ptr() as u64,
                flags: 0,
            };
            // SAFETY: both keys outlive the call and have the size that the kernel told of the map.
            match unsafe { bpf(Command::NextKey, &mut attr) } {
                Ok(_) => keys.push(next),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(keys)
    }

    fn attr(&self, key: &[u8], value: u64) -> io::Result<ElementAttr> {
        if key.len() != self.key {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(ElementAttr {
            map: number(self.map.as_fd()),
            padding: 0,
            key: key.as_ptr() as u64,
            value,
            flags: 0,
        })
    }
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}
