//! Whether a backend is still among those of a service record.
//!
//! Runs only when the record changed since a choice was remembered, not for every packet or connection.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use proxy_common::{BackendId, ServiceValue};

use crate::maps;

/// State of the search, shared with the loop's callback.
#[repr(C)]
struct Search {
    base: u32,
    wanted: BackendId,
    found: u32,
}

/// Whether new connections may go to `id`.
#[inline(always)]
pub fn selectable(service: &ServiceValue, id: BackendId) -> bool {
    contains(service.ring_base, service.ring_len, id)
}

/// Whether flows that have `id` may keep it.
#[inline(always)]
pub fn usable(service: &ServiceValue, id: BackendId) -> bool {
    contains(service.ring_base, service.ring_len.wrapping_add(service.keep_len), id)
}

/// Whether `wanted` is among `len` ring positions from `base`.
#[inline(always)]
pub fn contains(base: u32, len: u32, wanted: BackendId) -> bool {
    let mut search = Search { base, wanted, found: 0 };
    let callback: unsafe extern "C" fn(u64, *mut Search) -> i64 = compare;
    // SAFETY: `compare` has the signature that the helper calls and `search` outlives the call.
    unsafe { bpf_loop(len, callback as *mut c_void, (&raw mut search).cast(), 0) };
    search.found != 0
}

/// One step: 1 ends the loop.
unsafe extern "C" fn compare(index: u64, search: *mut Search) -> i64 {
    // SAFETY: the pointer is the one given to `bpf_loop`.
    let search = unsafe { &mut *search };
    match maps::RING.get(search.base.wrapping_add(index as u32)) {
        Some(id) if *id == search.wanted => {
            search.found = 1;
            1
        }
        _ => 0,
    }
}
