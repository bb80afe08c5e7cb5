//! From a service record to one of its backends: session affinity, else at random.
//!
//! Must not know which system call asks.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use proxy_common::{
    Address, AffinityKey, AffinityValue, BackendId, BackendValue, Counter, ServiceFlags, ServiceValue,
};

use crate::{copy::copy_words, family::Family, lookup::ATTEMPTS, maps, membership, verdict::count};

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// A chosen backend: written through `&mut`, for the reason given at [`crate::lookup::Found`].
pub struct Choice<A> {
    /// Its id.
    pub id: BackendId,
    /// Where it is.
    pub backend: BackendValue<A>,
}

impl<A: Address> Choice<A> {
    /// To be overwritten.
    pub const NONE: Self = Self { id: 0, backend: BackendValue::FREE };
}

/// Chooses a backend for a new connection or flow, or says why there is none.
///
/// Errors: [`Counter::RefusedNoEndpoint`], [`Counter::DroppedNoLocalEndpoint`], [`Counter::RefusedUnstable`].
#[inline(always)]
pub fn choose<F: Family>(
    service: &ServiceValue,
    netns: impl Fn() -> u64,
    choice: &mut Choice<F::Address>,
) -> Result<(), Counter> {
    if service.ring_len == 0 {
        let drop = service.flags().has(ServiceFlags::DROP_WHEN_EMPTY);
        return Err(if drop { Counter::DroppedNoLocalEndpoint } else { Counter::RefusedNoEndpoint });
    }
    if !service.flags().has(ServiceFlags::AFFINITY) {
        return at_random::<F>(service, choice);
    }
    let key = AffinityKey::of_netns(netns(), service.service_id, F::NUMBER);
    if by_affinity::<F>(service, &key, choice) {
        count(Counter::AffinityHit);
        return Ok(());
    }
    at_random::<F>(service, choice)?;
    let value =
        AffinityValue { backend_id: choice.id, tag: key.tag(service.generation), last_used_ns: now() };
    // Cannot fail but for memory: an LRU map makes room. Then the client chooses anew next time.
    let _ = maps::AFFINITY.insert(key, value, 0);
    Ok(())
}

/// Copies a backend; false unless its place holds a whole record.
#[inline(always)]
pub fn read_backend<F: Family>(id: BackendId, copy: &mut BackendValue<F::Address>) -> bool {
    let Some(at) = F::backends().get_ptr(id) else { return false };
    // SAFETY: the pointer is valid for the length of the program; the contents may change, which the check finds.
    unsafe { copy_words(at, copy) };
    copy.is_whole(id)
}

/// Monotonic time in nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn at_random<F: Family>(service: &ServiceValue, choice: &mut Choice<F::Address>) -> Result<(), Counter> {
    for _ in 0..ATTEMPTS {
        // SAFETY: the helper has no precondition.
        let random = unsafe { bpf_get_prandom_u32() };
        let position = service.ring_base.wrapping_add(random % service.ring_len);
        let Some(id) = maps::RING.get(position) else { continue };
        choice.id = *id;
        if read_backend::<F>(choice.id, &mut choice.backend) {
            return Ok(());
        }
    }
    Err(Counter::RefusedUnstable)
}

/// The backend this client used last, if that was recent enough and new connections may still go there.
#[inline(always)]
fn by_affinity<F: Family>(
    service: &ServiceValue,
    key: &AffinityKey,
    choice: &mut Choice<F::Address>,
) -> bool {
    let Some(at) = maps::AFFINITY.get_ptr_mut(key) else { return false };
    // SAFETY: valid for the length of the program. Another CPU may write the same client's entry, or reuse the element
    // for another client: each field is read once, and the tag tells whose they are.
    let entry = unsafe { at.read_volatile() };
    let now = now();
    choice.id = entry.backend_id;
    let tag = key.tag(service.generation);
    // Another CPU may have used the entry between the reading and the clock: then it was used just now.
    let expired = now.saturating_sub(entry.last_used_ns) >= u64::from(service.affinity_seconds) * SECOND;
    if expired || (entry.tag != tag && !membership::selectable(service, choice.id)) {
        return false;
    }
    if !read_backend::<F>(choice.id, &mut choice.backend) {
        return false;
    }
    // SAFETY: as above. Not the backend: an element that was reused meanwhile keeps its new client's, and the tag, which
    // is not that client's, only makes the next look-up check it.
    unsafe {
        (&raw mut (*at).tag).write_volatile(tag);
        (&raw mut (*at).last_used_ns).write_volatile(now);
    }
    true
}
