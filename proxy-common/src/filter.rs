//! The filters that packets are asked before any table: one bit tells for most of them that no table knows them.
//!
//! A bit is set before what it stands for can be found, and never cleared while that may be. Two things may share a bit: then
//! a packet pays a look-up that finds nothing. Must not know how a table is looked up.

use crate::{
    addr::Address,
    flow::{FlowFlags, FlowKey, FlowValue},
};

/// Bits of `flow_filter`, as a power of two.
const FLOW_BITS: u32 = 18;
/// Bits of `address_filter`, as a power of two.
const ADDRESS_BITS: u32 = 20;
/// Bits of an element of a filter, as a power of two.
const ELEMENT_BITS: u32 = 6;

/// Elements of `flow_filter`.
pub const FLOW_FILTER: u32 = 1 << (FLOW_BITS - ELEMENT_BITS);
/// Elements of `address_filter`.
pub const ADDRESS_FILTER: u32 = 1 << (ADDRESS_BITS - ELEMENT_BITS);

/// An odd number without a pattern (2^64 / the golden ratio): the upper bits of a product depend on all bits of the other.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// One bit of a filter: which element, and which bit of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bit {
    /// Index of the element, a `u64`.
    pub element: u32,
    /// The bit within it.
    pub mask: u64,
}

impl Bit {
    #[inline(always)]
    fn of(word: u64, bits: u32) -> Self {
        let number = word.wrapping_mul(SPREAD) >> (64 - bits);
        Self { element: (number >> ELEMENT_BITS) as u32, mask: 1 << (number & ((1 << ELEMENT_BITS) - 1)) }
    }

    /// The bit of `address_filter` for an address with a frontend.
    #[inline(always)]
    pub fn of_address<A: Address>(address: A) -> Self {
        Self::of(address.fold(), ADDRESS_BITS)
    }

    /// The bit of `flow_filter` to set for a flow.
    #[inline(always)]
    pub fn of_flow<A: Address>(flow: &FlowValue<A>) -> Self {
        let key = flow.reply_key();
        let given = flow.flags().has(FlowFlags::SOURCE_IS_NODE);
        if given { Self::of_given_source(&key) } else { Self::of_reply(&key) }
    }

    /// The bit of `flow_filter` for a backend's packets to what they have as their destination, under
    /// [`crate::FlowFlags::SOURCE_IS_NODE`]: an address of this node.
    #[inline(always)]
    pub fn of_given_source<A: Address>(reply: &FlowKey<A>) -> Self {
        Self::of(reply.destination.fold() ^ 2 << 48, FLOW_BITS)
    }

    /// The bit of `flow_filter` for a backend's packets of all other flows. Goes by the end with the lower port, which is a
    /// server's: of these there are few, and clients come and go.
    #[inline(always)]
    pub fn of_reply<A: Address>(reply: &FlowKey<A>) -> Self {
        let (source, destination) = (reply.source_port.to_host(), reply.destination_port.to_host());
        let (address, port, side) = if source <= destination {
            (reply.source.fold(), source, 0)
        } else {
            (reply.destination.fold(), destination, 1)
        };
        Self::of(address ^ u64::from(port) << 32 ^ side << 48, FLOW_BITS)
    }
}

/// How many prefixes of each family [`PodRanges`] has room for.
pub const POD_RANGES: usize = 2;

shared_struct! {
    /// The one element of `pod_ranges`: no address outside of these ranges is a pod's that egress masquerade knows, or the
    /// client of a flow that it made. Of IPv6 the first half of an address is compared.
    pub struct PodRanges {
        /// 0: the rest does not count, any address may be one.
        pub exact: u32,
        /// Reserved, 0.
        pub reserved: u32,
        /// Address and mask, network byte order. One without mask, but with an address, is not in use.
        pub four: [[u32; 2]; POD_RANGES],
        /// The first two words of the address and of the mask, network byte order; as `four`.
        pub six: [[u32; 4]; POD_RANGES],
    }
}

impl PodRanges {
    /// As a new map has it: any address may be a pod's.
    pub const ANY: Self =
        Self { exact: 0, reserved: 0, four: [[0; 2]; POD_RANGES], six: [[0; 4]; POD_RANGES] };

    /// Whether an address may be a pod's; `is_v4`: it is the first of the words. `word` reads the struct, which the agent may
    /// be writing, by the word.
    #[inline(always)]
    pub fn may_hold(address: [u32; 4], is_v4: bool, word: impl Fn(usize) -> u32) -> bool {
        let [first, second, _, _] = address;
        let four = core::mem::offset_of!(Self, four) / 4;
        let six = core::mem::offset_of!(Self, six) / 4;
        let differs = |range: usize| {
            if is_v4 {
                let at = four + range * 2;
                return (first & word(at + 1)) ^ word(at);
            }
            let at = six + range * 4;
            ((first & word(at + 2)) ^ word(at)) | ((second & word(at + 3)) ^ word(at + 1))
        };
        word(0) == 0 || differs(0) == 0 || differs(1) == 0
    }
}
