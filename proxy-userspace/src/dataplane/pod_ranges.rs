//! The map `pod_ranges`: a few prefixes that hold every pod whose packets egress masquerade looks at, so that all other
//! packets are told by comparisons.
//!
//! The ranges only grow: flows of a prefix that the node had before go on. Must not know where prefixes come from.

use aya::maps::{Array, MapData, MapError};
use proxy_common::{Address, Ipv4Be, MasqueradeKey, PodRanges, filter::POD_RANGES, names};

use super::{
    ApplyError, grace,
    handles::{MapHandles, io_error},
};

/// Bits of an IPv4-mapped address before the IPv4 address.
const MAPPED_BITS: u32 = 96;

/// An address that none has behind the mask of no bits.
const UNUSED: u32 = 1;

/// As long as there is nothing in them.
const NONE: PodRanges =
    PodRanges { exact: 1, full: 0, four: [[UNUSED, 0]; POD_RANGES], six: [[UNUSED, 0, 0, 0]; POD_RANGES] };

/// Has the ranges hold these prefixes, beside those that they held before. Returns when every packet that is looked at
/// from then on is compared with all of them.
pub(super) fn cover(handles: &MapHandles, pods: &[(u32, MasqueradeKey)]) -> Result<(), ApplyError> {
    let failed = |action| {
        move |error: MapError| ApplyError::Kernel { action, map: names::POD_RANGES, source: io_error(error) }
    };
    if pods.is_empty() {
        return Ok(());
    }
    let mut map: Array<MapData, PodRanges> = handles.typed(names::POD_RANGES)?;
    let known = map.get(&0, 0).map_err(failed("read"))?;
    let wanted = widened(known, pods);
    if wanted == known {
        return Ok(());
    }
    // A program reads several words: whoever reads while they change must not go by them.
    let steps = [PodRanges { exact: 0, ..known }, PodRanges { exact: 0, ..wanted }, wanted];
    for step in steps.into_iter().skip(usize::from(known.exact == 0)) {
        map.set(0, step, 0).map_err(failed("write"))?;
        if step != wanted {
            grace::wait_grace();
        }
    }
    Ok(())
}

/// These ranges, and room for the prefixes.
fn widened(known: PodRanges, pods: &[(u32, MasqueradeKey)]) -> PodRanges {
    let start = if known == PodRanges::ANY { NONE } else { PodRanges { exact: 1, ..known } };
    let all = pods.iter().try_fold(start, |ranges, (bits, key)| with(ranges, *bits, *key));
    all.filter(|all| all.full == 0).unwrap_or(PodRanges { exact: 0, full: 1, ..start })
}

/// `None` if there is no room.
fn with(ranges: PodRanges, bits: u32, key: MasqueradeKey) -> Option<PodRanges> {
    let [a, b, _, last] = key.address.network_words();
    let mapped = |address: u32| Ipv4Be::from_network_bits(address).to_mapped() == key.address;
    let mut ranges = ranges;
    if bits > MAPPED_BITS && mapped(last) {
        let mask = mask(bits - MAPPED_BITS);
        let holds = |[first, own]: &[u32; 2]| *own != 0 && own & mask == *own && last & own == *first;
        if ranges.four.iter().any(holds) {
            return Some(ranges);
        }
        put(&mut ranges.four, [last & mask, mask], &[UNUSED, 0])?;
    } else if bits <= MAPPED_BITS && (a, b) == (0, 0) {
        // It may hold IPv4's addresses, too.
        return None;
    } else {
        let masks = [mask(bits.min(32)), mask(bits.saturating_sub(32).min(32))];
        let holds = |[first, second, own, more]: &[u32; 4]| {
            *own != 0
                && own & masks[0] == *own
                && more & masks[1] == *more
                && a & own == *first
                && b & more == *second
        };
        if ranges.six.iter().any(holds) {
            return Some(ranges);
        }
        put(&mut ranges.six, [a & masks[0], b & masks[1], masks[0], masks[1]], &[UNUSED, 0, 0, 0])?;
    }
    Some(ranges)
}

fn put<T: PartialEq>(ranges: &mut [T], range: T, unused: &T) -> Option<()> {
    let place = ranges.iter().position(|used| *used == range || used == unused)?;
    ranges.get_mut(place).map(|place| *place = range)
}

/// The first bits of a word, network byte order.
fn mask(bits: u32) -> u32 {
    let word = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    u32::from_ne_bytes(proxy_common::addr::wire::word_bytes(word))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ipnetwork::IpNetwork;
    use proxy_common::Ipv6Be;

    use super::*;

    fn prefix(text: &str) -> (u32, MasqueradeKey) {
        let network: IpNetwork = text.parse().unwrap();
        let bits = u32::from(network.prefix());
        match network.network() {
            IpAddr::V4(address) => (96 + bits, MasqueradeKey { address: Ipv4Be::from(address).to_mapped() }),
            IpAddr::V6(address) => (bits, MasqueradeKey { address: address.into() }),
        }
    }

    fn all(known: PodRanges, texts: &[&str]) -> PodRanges {
        widened(known, &texts.iter().map(|text| prefix(text)).collect::<Vec<_>>())
    }

    fn holds(ranges: PodRanges, text: &str) -> bool {
        let words: Vec<u32> =
            [&[ranges.exact, ranges.full], ranges.four.as_flattened(), ranges.six.as_flattened()].concat();
        let (address, is_v4) = match text.parse().unwrap() {
            IpAddr::V4(address) => ([Ipv4Be::from(address).network_bits(), 0, 0, 0], true),
            IpAddr::V6(address) => (Ipv6Be::from(address).network_words(), false),
        };
        PodRanges::may_hold(address, is_v4, |at| words[at])
    }

    #[test]
    fn addresses_outside_of_the_prefixes_are_told_and_none_inside_is() {
        let ranges = all(PodRanges::ANY, &["10.244.1.0/24", "fd00:10:244:1::/64", "10.9.0.0/15"]);
        let inside = ["10.244.1.0", "10.244.1.255", "fd00:10:244:1::", "fd00:10:244:1::ffff", "10.9.7.7"];
        for address in inside {
            assert!(holds(ranges, address), "{address}");
        }
        for address in
            ["10.244.0.255", "10.244.2.0", "0.0.0.0", "1.0.0.0", "fd00:10:244:2::", "::", "10.10.0.0"]
        {
            assert!(!holds(ranges, address), "{address}");
        }
    }

    #[test]
    fn a_new_map_and_one_without_room_hold_every_address() {
        let one = all(PodRanges::ANY, &["10.244.1.0/24"]);
        let many = all(one, &["10.244.2.0/24", "10.244.3.0/24"]);
        let later = all(many, &["10.244.1.0/24"]);
        let everybody = all(PodRanges::ANY, &["::/0"]);
        for ranges in [PodRanges::ANY, many, later, everybody, all(PodRanges::ANY, &["0.0.0.0/0"])] {
            assert!(holds(ranges, "192.0.2.1") && holds(ranges, "2001:db8::1"), "{ranges:?}");
        }
    }

    #[test]
    fn what_a_prefix_holds_takes_no_place_of_its_own() {
        let both = all(PodRanges::ANY, &["10.244.1.0/24", "fd00:10:244:1::/64"]);
        let pods = ["10.244.1.7/32", "10.244.1.8/32", "fd00:10:244:1::7/128", "fd00:10:244:1::8/128"];
        assert_eq!(all(both, &pods), both);
    }

    #[test]
    fn a_prefix_that_was_there_stays() {
        let before = all(PodRanges::ANY, &["10.244.1.0/24"]);
        let after = all(before, &["10.244.2.0/24"]);
        assert!(holds(after, "10.244.1.9") && holds(after, "10.244.2.9") && !holds(after, "10.244.3.9"));
        assert_eq!(all(after, &["10.244.2.0/24", "10.244.1.0/24"]), after);
        // An agent that was killed while it changed them.
        assert_eq!(all(PodRanges { exact: 0, ..after }, &[]), after);
    }

    #[test]
    fn of_a_long_ipv6_prefix_the_first_half_counts() {
        let ranges = all(PodRanges::ANY, &["fd00:10:244:1:8000::/80", "fd00:20::/28"]);
        assert!(holds(ranges, "fd00:10:244:1::1") && holds(ranges, "fd00:2f::1"));
        assert!(!holds(ranges, "fd00:10:244:2::1") && !holds(ranges, "fd00:30::1"));
    }
}
