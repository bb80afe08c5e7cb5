//! `loadBalancerSourceRanges` at a socket of the host.
//!
//! Must not know what becomes of who is not admitted.

use aya_ebpf::maps::lpm_trie::Key;
use proxy_common::{Address, ServiceFlags, ServiceValue, SourceRangeKey, device::NODE_DEFAULT};
use proxy_packet::Wire;

use crate::{family::Family, maps};

/// Bits of a whole [`SourceRangeKey`].
pub const KEY_BITS: u32 = 8 * size_of::<SourceRangeKey>() as u32;

/// Whether a process of the host may use a frontend at `asked`. A socket that is not bound will get its address from
/// the kernel's routing: the node's is taken for it, also where the load balancer's own address is on the node and the
/// kernel would take that (services.md 3.6).
#[inline(always)]
pub fn admit<F: Family>(service: &ServiceValue, asked: F::Address, source: impl Fn() -> F::Address) -> bool {
    if !service.flags().has(ServiceFlags::SOURCE_RANGES) {
        return true;
    }
    let source = source();
    let bound = source != F::Address::UNSPECIFIED;
    if bound && holds(service, source) {
        return true;
    }
    (!bound || source == asked) && holds(service, node::<F>())
}

#[inline(always)]
fn holds<A: Address>(service: &ServiceValue, client: A) -> bool {
    let key = SourceRangeKey { service_id: service.service_id, client: client.to_mapped() };
    maps::SOURCE_RANGES.get(Key::new(KEY_BITS, key)).is_some()
}

/// The node's own address.
#[inline(always)]
fn node<F: Family>() -> F::Address {
    let Some(at) = maps::DEVICES.get_ptr(NODE_DEFAULT) else { return F::Address::UNSPECIFIED };
    // SAFETY: valid for the length of the program; the agent puts another element in its place, and does so seldom.
    F::Address::of_device(unsafe { &*at })
}
