//! From a service record to a backend for a new flow: session affinity, else by a hash of the client's end.
//!
//! A hash and not chance, so that a flow whose record was lost finds its backend again while the list is the same. Must
//! not know what a packet looks like.

use proxy_common::{AffinityKey, AffinityValue, Counter, PortBe, ServiceFlags};

use crate::{Work, env::Env, wire::Wire};

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// How many positions of the ring are tried: a backend's record may be in the middle of a change.
const ATTEMPTS: u32 = 4;

/// Chooses into `Work::backend`; false if no record could be read. The Service must have a backend.
#[inline(always)]
pub(crate) fn choose<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    work.hash = hash(work);
    if !work.service.flags().has(ServiceFlags::AFFINITY) {
        return by_hash(env, work);
    }
    work.affinity_key =
        AffinityKey::of_address(work.outer.source.to_mapped(), work.service.service_id, A::FAMILY);
    let now = env.now_ns();
    if by_affinity(env, work, now) {
        env.count(Counter::AffinityHit);
    } else if !by_hash(env, work) {
        return false;
    }
    work.affinity = AffinityValue {
        backend_id: work.backend_id,
        tag: work.affinity_key.tag(work.service.generation),
        last_used_ns: now,
    };
    env.set_affinity(&work.affinity_key, &work.affinity);
    true
}

#[inline(always)]
fn by_affinity<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, now: u64) -> bool {
    if !env.affinity(&work.affinity_key, &mut work.affinity) {
        return false;
    }
    let idle = now.saturating_sub(work.affinity.last_used_ns);
    if idle >= u64::from(work.service.affinity_seconds) * SECOND {
        return false;
    }
    work.backend_id = work.affinity.backend_id;
    let current = work.affinity.tag == work.affinity_key.tag(work.service.generation);
    if !current && !env.lists(work.service.ring_base, work.service.ring_len, work.backend_id) {
        return false;
    }
    env.backend(work.backend_id, &mut work.backend)
}

#[inline(always)]
fn by_hash<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    for attempt in 0..ATTEMPTS {
        // The verifier knows no more of the length than we do here.
        let length = if work.service.ring_len == 0 { 1 } else { work.service.ring_len };
        let position = work.service.ring_base.wrapping_add(work.hash.wrapping_add(attempt) % length);
        if env.ring(position, &mut work.backend_id) && env.backend(work.backend_id, &mut work.backend) {
            return true;
        }
    }
    false
}

/// Hash of the client's end and the Service: MurmurHash3's word mixing and finish, so that neighbouring ports spread.
#[inline(always)]
pub(crate) fn hash<A: Wire>(work: &Work<A>) -> u32 {
    let ends = &work.outer;
    let ports = pair(ends.source_port, ends.destination_port);
    let mut hash = mix(0x9747_b28c, ports);
    for word in ends.source.words() {
        hash = mix(hash, word);
    }
    hash = mix(hash, work.service.service_id);
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[inline(always)]
fn pair(a: PortBe, b: PortBe) -> u32 {
    (u32::from(a.network_bits()) << 16) | u32::from(b.network_bits())
}

#[inline(always)]
fn mix(hash: u32, word: u32) -> u32 {
    let word = word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    (hash ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}
