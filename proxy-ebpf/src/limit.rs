//! How many refusals each CPU sends in a second: answering must cost whoever floods us more than it costs us.
//!
//! Must not know what a refusal is.

use proxy_common::PacketSettings;

use crate::{maps, select::now};

const SECOND_NS: u64 = 1_000_000_000;

/// Value of the map `refusals`.
#[repr(C)]
pub struct Window {
    second: u64,
    sent: u64,
}

/// Whether this CPU may send one more, which is counted.
#[inline(always)]
pub fn may_refuse() -> bool {
    let Some(at) = maps::REFUSALS.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own, valid for the length of the program.
    let window = unsafe { &mut *at };
    let second = now() / SECOND_NS;
    if window.second != second {
        *window = Window { second, sent: 0 };
    }
    window.sent += 1;
    let limit = maps::setting(core::mem::offset_of!(PacketSettings, refusals_per_s) / 4);
    window.sent <= u64::from(limit)
}
