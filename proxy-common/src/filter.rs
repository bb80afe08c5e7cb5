//! The filters that packets are asked before any table: one bit tells for most of them that no table knows them.
//!
//! A bit is set before what it stands for can be found, and never cleared while that may be. Two things may share a bit: then
//! a packet pays a look-up that finds nothing. Must not know how a table is looked up.

use crate::{
    addr::Address,
    flow::{FlowFlags, FlowKey, FlowValue},
    layout,
};

/// Bits of each half of `flow_filter`, as a power of two: the first is for replies, the second for what pods send out.
const FLOW_BITS: u32 = 18;
/// Bits of `address_filter`, as a power of two.
const ADDRESS_BITS: u32 = 20;
/// Bits of an element of a filter, as a power of two.
const ELEMENT_BITS: u32 = 6;

/// Elements of each half of `flow_filter`.
const FLOW_HALF: u32 = 1 << (FLOW_BITS - ELEMENT_BITS);
/// Elements of `flow_filter`.
pub const FLOW_FILTER: u32 = 2 * FLOW_HALF;
/// Elements of `address_filter`.
pub const ADDRESS_FILTER: u32 = 1 << (ADDRESS_BITS - ELEMENT_BITS);

/// An odd number without a pattern (2^64 / the golden ratio): the upper bits of a product depend on all bits of the other.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Says which bit stands for what. Raise the last number when that changes otherwise.
pub(crate) const SCHEMA: u32 = {
    let hash = layout::fold(layout::fold(layout::SEED, FLOW_BITS), ADDRESS_BITS);
    layout::fold(hash, 1)
};

/// Like [`SCHEMA`], for `flow_filter` alone: a table without its bits hides its flows.
pub(crate) const FLOW_SCHEMA: u32 = layout::fold(SCHEMA, 2);

/// One bit of a filter: which element, and which bit of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bit {
    /// Index of the element, a `u64`.
    pub element: u32,
    /// The bit within it.
    pub mask: u64,
}

impl Bit {
    #[expect(clippy::cast_possible_truncation, reason = "20 bits are left, less those of the element")]
    #[inline(always)]
    fn of(word: u64, bits: u32) -> Self {
        // Twice: neighbours differ in the upper bits of a word in network byte order, which one product leaves there.
        let once = word.wrapping_mul(SPREAD);
        let number = (once ^ once >> 32).wrapping_mul(SPREAD) >> (64 - bits);
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

    /// The bit of `flow_filter` for what pods send to an address under [`crate::FlowFlags::MASQUERADED`]. They are apart from
    /// the others: there is no end of addresses outside, and they must not fill what replies are told by.
    #[inline(always)]
    pub fn of_masqueraded<A: Address>(destination: A) -> Self {
        let Self { element, mask } = Self::of(destination.fold(), FLOW_BITS);
        Self { element: element + FLOW_HALF, mask }
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
        /// 1: there were more prefixes than places.
        pub full: u32,
        /// Address and mask, network byte order. One without mask, but with an address, is not in use.
        pub four: [[u32; 2]; POD_RANGES],
        /// The first two words of the address and of the mask, network byte order; as `four`.
        pub six: [[u32; 4]; POD_RANGES],
    }
}

impl PodRanges {
    /// As a new map has it: any address may be a pod's.
    pub const ANY: Self = Self { exact: 0, full: 0, four: [[0; 2]; POD_RANGES], six: [[0; 4]; POD_RANGES] };

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::{Ipv4Be, Ipv6Be, PortBe, Way};

    fn reply<A: Address>(source: (A, u16), destination: (A, u16)) -> FlowKey<A> {
        let [source_port, destination_port] = [source.1, destination.1].map(PortBe::from_host);
        let (source, destination) = (source.0, destination.0);
        FlowKey { source, destination, source_port, destination_port, way: Way::Reply as u8, ..FlowKey::NONE }
    }

    fn v4(address: u32) -> Ipv4Be {
        Ipv4Addr::from(address).into()
    }

    fn v6(address: u128) -> Ipv6Be {
        Ipv6Addr::from(0xfd00_0010_0096_0000_0000_0000_0000_0000 + address).into()
    }

    #[test]
    fn every_bit_is_within_its_filter() {
        for number in (0..u32::MAX).step_by(65_521) {
            let address = Bit::of_address(v4(number));
            assert!(address.element < ADDRESS_FILTER && address.mask.is_power_of_two());
            let bit = Bit::of_reply(&reply((v6(number.into()), 80), (v6(1), 40_000)));
            assert!(bit.element < FLOW_HALF && bit.mask.is_power_of_two());
            let bit = Bit::of_masqueraded(v4(number));
            assert!((FLOW_HALF..FLOW_FILTER).contains(&bit.element) && bit.mask.is_power_of_two());
        }
    }

    #[test]
    fn neighbouring_addresses_have_bits_of_their_own() {
        let four: BTreeSet<_> = (0..10_000).map(|n| Bit::of_address(v4(0x0a60_0000 + n))).collect();
        let six: BTreeSet<_> = (0..10_000).map(|n| Bit::of_address(v6(n))).collect();
        let wide: BTreeSet<_> = (0..10_000).map(|n| Bit::of_address(v6(n << 64))).collect();
        for bits in [four, six, wide] {
            assert!(bits.len() > 9_800, "{}", bits.len());
        }
    }

    #[test]
    fn clients_of_one_backend_share_its_bit_and_its_other_ports_do_not() {
        let backend = (v4(0x0af4_0007), 8_080);
        let bit = |port, client| Bit::of_reply(&reply((backend.0, port), client));
        let bits: BTreeSet<_> = (32_768..60_999).map(|port| bit(8_080, (v4(port.into()), port))).collect();
        assert_eq!(bits.len(), 1);
        assert!(!bits.contains(&bit(8_081, (v4(1), 40_000))));
        let forward = Bit::of_reply(&reply((v4(1), 40_000), backend));
        assert!(!bits.contains(&forward), "what goes the other way is told apart");
    }

    #[test]
    fn what_was_given_the_nodes_address_is_told_by_that_address() {
        let node = v4(0xc000_0201);
        let of = |source| Bit::of_given_source(&reply(source, (node, 12_000)));
        assert_eq!(of((v4(1), 80)), of((v4(2), 443)));
        let flow = FlowValue { source: node, flags: FlowFlags::SOURCE_IS_NODE, ..FlowValue::FREE };
        assert_eq!(Bit::of_flow(&flow), of((v4(1), 80)));
    }
}
