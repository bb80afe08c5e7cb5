//! What an agent pins for the plugin, without an agent: two maps, and a guard that lets everything pass.
//!
//! Must not know: what the real guard does (`tests/maps`).

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use cni::facts;
use nix::libc;
use proxy_common::{ENDPOINT_SCHEMA_HASH, EndpointValue};
use proxy_kernel::bpf::{self, Access};

use crate::bpffs::BpfFs;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
/// `r0 = TCX_NEXT; exit`.
const PASS: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
const MAP_SIZE: u32 = 4096;

/// The pins, gone with the value.
#[derive(Debug)]
pub struct Pins {
    bpffs: BpfFs,
    /// Their paths, as the plugin is told.
    pub facts: facts::Pins,
}

impl Pins {
    /// Makes them.
    ///
    /// # Errors
    /// Not root.
    pub fn new() -> Result<Self> {
        let bpffs = BpfFs::new()?;
        let at = |name: &str| bpffs.path().join(name);
        let facts = facts::Pins {
            schema: ENDPOINT_SCHEMA_HASH,
            endpoints: at("endpoints"),
            packet_only: at("packet_only"),
            guard_ingress: at("guard_ingress"),
            guard_egress: at("guard_egress"),
            path: None,
        };
        let sizes = [(&facts.endpoints, 4, size_of::<EndpointValue>()), (&facts.packet_only, 8, 1)];
        for (path, key, value) in sizes {
            bpf::pin(map(key, value.try_into()?)?.as_fd(), path).context("cannot pin a map")?;
        }
        for path in [&facts.guard_ingress, &facts.guard_egress] {
            bpf::pin(program()?.as_fd(), path).context("cannot pin a program")?;
        }
        Ok(Self { bpffs, facts })
    }

    /// The root of all of them.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.bpffs.path()
    }

    /// A line for each element of the two maps.
    ///
    /// # Errors
    /// They are gone.
    pub fn elements(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for (path, size) in [(&self.facts.endpoints, 4), (&self.facts.packet_only, 8)] {
            let map = bpf::open_pin(path, Access::Full)?;
            let mut key = Vec::new();
            while let Some(next) = next_key(&map, &key, size)? {
                lines.push(format!("element {next:?} of {}", path.display()));
                key = next;
            }
        }
        Ok(lines)
    }
}

/// The part of `union bpf_attr` that `BPF_MAP_CREATE` needs.
#[repr(C)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    rest: [u64; 14],
}

fn map(key_size: u32, value_size: u32) -> Result<OwnedFd> {
    let mut create =
        Create { map_type: BPF_MAP_TYPE_HASH, key_size, value_size, max_entries: MAP_SIZE, rest: [0; 14] };
    Ok(owned(call(BPF_MAP_CREATE, &mut create).context("cannot make a map (root needed)")?))
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs.
#[repr(C)]
struct Load {
    program_type: u32,
    instructions: u32,
    code: u64,
    license: u64,
    rest: [u64; 14],
}

fn program() -> Result<OwnedFd> {
    let mut load = Load {
        program_type: BPF_PROG_TYPE_SCHED_CLS,
        instructions: 2,
        code: PASS.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        rest: [0; 14],
    };
    Ok(owned(call(BPF_PROG_LOAD, &mut load).context("cannot load a program (root needed)")?))
}

/// The part of `union bpf_attr` that `BPF_MAP_GET_NEXT_KEY` needs.
#[repr(C)]
struct NextKey {
    map: u32,
    pad: u32,
    key: u64,
    next: u64,
}

/// The key after `key`; an empty one stands before all.
fn next_key(map: &OwnedFd, key: &[u8], size: usize) -> Result<Option<Vec<u8>>> {
    let mut next = vec![0; size];
    let start = if key.is_empty() { 0 } else { key.as_ptr() as u64 };
    let number = map.as_raw_fd().try_into()?;
    let mut attributes = NextKey { map: number, pad: 0, key: start, next: next.as_mut_ptr() as u64 };
    match call(BPF_MAP_GET_NEXT_KEY, &mut attributes) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attributes` is a prefix of `union bpf_attr` of the length given, and the addresses in it are those of
    // buffers that outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

fn owned(descriptor: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just given this descriptor to us alone.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
