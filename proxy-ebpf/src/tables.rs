//! The packet path's tables: each method is one map.
//!
//! Must not decide anything.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::bpf_loop,
    maps::{Array, lpm_trie::Key},
};
use proxy_common::{
    AffinityKey, AffinityValue, BackendId, BackendValue, Bit, DeviceValue, FlowFlags, FlowKey, FlowPlace,
    FlowValue, FragmentKey, FragmentValue, MasqueradeKey, PodRanges, ServiceKey, ServiceValue,
    SourceRangeKey,
};
use proxy_packet::{Env, Reached, Read, Route, Step, Tables, Work};

use crate::{
    copy::copy_words, family::PacketFamily, lookup, maps, membership, ranges, route, select, skb::Skb,
};

/// Bits of a whole [`MasqueradeKey`].
const MASQUERADE_BITS: u32 = 8 * size_of::<MasqueradeKey>() as u32;

/// Copies what a pointer into a map leads to.
macro_rules! copy {
    ($at:expr, $to:expr) => {
        match $at {
            Some(at) => {
                // SAFETY: valid for the length of the program; the callers can tell a copy that is not whole.
                unsafe { copy_words(at, $to) };
                true
            }
            None => false,
        }
    };
}

impl<A: PacketFamily> Tables<A> for Skb {
    #[inline(always)]
    fn service(&mut self, key: &ServiceKey<A>, to: &mut ServiceValue) -> Read {
        lookup::read::<A::Family>(key, to)
    }

    #[inline(always)]
    fn may_be_served(&mut self, address: A) -> bool {
        has(&maps::ADDRESS_FILTER, Bit::of_address(address))
    }

    #[inline(always)]
    fn may_be_pod(&mut self, address: A) -> bool {
        let Some(at) = maps::POD_RANGES.get_ptr(0) else { return true };
        // SAFETY: inside the element, which is valid for the length of the program; its writer orders what it writes.
        let word = |index| unsafe { at.cast::<u32>().add(index).read_volatile() };
        PodRanges::may_hold(address.words(), A::FAMILY == 4, word)
    }

    #[inline(always)]
    fn is_noted(&mut self, bit: Bit) -> bool {
        has(&maps::FLOW_FILTER, bit)
    }

    #[inline(always)]
    fn note(&mut self, bit: Bit) {
        if let Some(element) = maps::FLOW_FILTER.get_ptr_mut(bit.element) {
            // For this target, core has no such operation.
            // SAFETY: valid for the length of the program, one aligned word.
            unsafe {
                asm!("lock *(u64 *)({0} + 0) |= {1}", in(reg) element, in(reg) bit.mask, options(nostack));
            }
        }
    }

    #[inline(always)]
    fn ring(&mut self, position: u32, to: &mut BackendId) -> bool {
        copy!(maps::RING.get_ptr(position), to)
    }

    #[inline(always)]
    fn backend(&mut self, id: BackendId, to: &mut BackendValue<A>) -> bool {
        select::read_backend::<A::Family>(id, to)
    }

    #[inline(always)]
    fn lists(&mut self, base: u32, length: u32, id: BackendId) -> bool {
        membership::contains(base, length, id)
    }

    #[inline(always)]
    fn admitted(&mut self, key: &SourceRangeKey) -> bool {
        maps::SOURCE_RANGES.get(Key::new(ranges::KEY_BITS, *key)).is_some()
    }

    #[inline(always)]
    fn affinity(&mut self, key: &AffinityKey, to: &mut AffinityValue) -> bool {
        copy!(maps::AFFINITY.get_ptr(key), to)
    }

    #[inline(always)]
    fn set_affinity(&mut self, key: &AffinityKey, value: &AffinityValue) {
        // Cannot fail but for memory: an LRU map makes room. Then the client chooses anew next time.
        let _ = maps::AFFINITY.insert(key, value, 0);
    }

    #[inline(always)]
    fn flow_place(&mut self, key: &FlowKey<A>, to: &mut FlowPlace) -> bool {
        copy!(A::flow_keys().get_ptr(key), to)
    }

    #[inline(always)]
    fn enter_flow_key(&mut self, key: &FlowKey<A>, place: &FlowPlace) -> bool {
        A::flow_keys().insert(key, place, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn remove_flow_key(&mut self, key: &FlowKey<A>) {
        // Fails if another CPU has removed it.
        let _ = A::flow_keys().remove(key);
    }

    #[inline(always)]
    fn flow(&mut self, slot: u32, to: &mut FlowValue<A>) -> bool {
        let Some(at) = A::flows().get_ptr(slot) else { return false };
        // SAFETY: valid for the length of the program; the serial says whether the copy is whole.
        unsafe {
            copy_words(at, to);
            if (&raw const (*at).serial).read_volatile() != to.serial {
                to.serial = 0;
            }
        }
        true
    }

    #[inline(always)]
    fn set_flow(&mut self, slot: u32, flow: &FlowValue<A>) {
        if let Some(at) = A::flows().get_ptr_mut(slot) {
            // SAFETY: valid for the length of the program. A reader that meets it half written sees serial 0, which no key
            // has, or the old one before and another after.
            unsafe {
                (&raw mut (*at).serial).write_volatile(0);
                at.write(FlowValue { serial: 0, ..*flow });
                (&raw mut (*at).serial).write_volatile(flow.serial);
            }
        }
    }

    #[inline(always)]
    fn touch_flow(&mut self, slot: u32, flow: &FlowValue<A>) {
        let Some(at) = A::flows().get_ptr_mut(slot) else { return };
        // SAFETY: valid for the length of the program; each field is one word and whole whoever else writes it.
        unsafe {
            if (&raw const (*at).serial).read_volatile() != flow.serial {
                return;
            }
            // Another CPU may have gone further meanwhile: a flow never goes back, and what ended has ended.
            let state = (&raw const (*at).state).read_volatile();
            (&raw mut (*at).state).write_volatile(if state > flow.state { state } else { flow.state });
            let flags = (&raw const (*at).flags).read_volatile() & !FlowFlags::REBUILT;
            (&raw mut (*at).flags).write_volatile(flags | flow.flags);
            (&raw mut (*at).service_id).write_volatile(flow.service_id);
            (&raw mut (*at).generation).write_volatile(flow.generation);
            (&raw mut (*at).completing_ack).write_volatile(flow.completing_ack);
            (&raw mut (*at).seen_s).write_volatile(flow.seen_s);
        }
    }

    #[inline(always)]
    fn fragment(&mut self, key: &FragmentKey<A>, to: &mut FragmentValue) -> bool {
        copy!(A::fragments().get_ptr(key), to)
    }

    #[inline(always)]
    fn set_fragment(&mut self, key: &FragmentKey<A>, value: &FragmentValue) {
        // Cannot fail but for memory: an LRU map makes room. Then the later fragments are dropped and counted.
        let _ = A::fragments().insert(key, value, 0);
    }

    #[inline(always)]
    fn device_of(&mut self, index: u32, to: &mut DeviceValue) -> bool {
        copy!(maps::DEVICES.get_ptr(index), to)
    }

    #[inline(always)]
    fn masquerade(&mut self, key: &MasqueradeKey) -> u32 {
        maps::MASQUERADE.get(Key::new(MASQUERADE_BITS, *key)).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn route(&mut self, route: &mut Route<A>) -> Reached {
        route::ask(self, route)
    }

    #[inline(always)]
    fn face_pod(&mut self, device: u32) -> bool {
        route::face_pod(self, device)
    }

    #[inline(always)]
    fn host_socket(&mut self, key: &FlowKey<A>) -> bool {
        route::host_socket(self, key)
    }

    #[inline(always)]
    fn search<S: Step<A, Self>>(&mut self, work: &mut Work<A>, attempts: u32) -> bool {
        let mut search = Search { skb: self.again(), work, done: 0 };
        let callback: unsafe extern "C" fn(u64, *mut Search<A>) -> i64 = attempt::<A, S>;
        // SAFETY: `attempt` has the signature that the helper calls and `search` outlives the call.
        unsafe { bpf_loop(attempts, callback as *mut c_void, (&raw mut search).cast(), 0) };
        search.done != 0
    }
}

/// Whether a bit of a filter is set.
#[inline(always)]
fn has(filter: &Array<u64>, bit: Bit) -> bool {
    let Some(element) = filter.get_ptr(bit.element) else { return true };
    // SAFETY: valid for the length of the program; one word, whole whoever writes it.
    let bits = unsafe { element.read_volatile() };
    bits & bit.mask != 0
}

/// State of a search, shared with the loop's callback.
#[repr(C)]
struct Search<A> {
    skb: Skb,
    work: *mut Work<A>,
    done: u32,
}

/// One step: 1 ends the loop.
unsafe extern "C" fn attempt<A: PacketFamily, S: Step<A, Skb>>(number: u64, search: *mut Search<A>) -> i64 {
    // SAFETY: the pointer is the one given to `bpf_loop`, whose caller lent out what it refers to.
    let (search, work) = unsafe { (&mut *search, &mut *(*search).work) };
    if !S::attempt(&mut search.skb, work, number as u32) {
        return 0;
    }
    search.done = 1;
    1
}

impl<A: PacketFamily> Env<A> for Skb {
    #[inline(always)]
    fn setting(&self, word: usize) -> u32 {
        maps::setting(word)
    }
}
