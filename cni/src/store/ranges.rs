//! Which addresses of a range a pod may have, as numbers.
//!
//! Must not know which of them are taken.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The address with this number; numbers of IPv4 are below 2^32.
    fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
            Self::V6 => IpAddr::V6(number.into()),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => address.into(),
    }
}

/// The ranges of one family in the order of their use, without what no pod may have: of IPv4 the network's address, the
/// first after it (a gateway by custom, though none of ours) and the broadcast address; of IPv6 `::0` (RFC 4291, 2.6.1)
/// and `::1`. Where a range has two addresses or one (RFC 3021, RFC 6164), all of them count.
#[derive(Debug)]
pub(super) struct Ranges {
    family: Family,
    /// First and last address.
    spans: Vec<(u128, u128)>,
}

impl Ranges {
    pub(super) fn new(family: Family, all: &[IpNetwork]) -> Self {
        let spans = all.iter().filter(|range| Family::of(range.ip()) == family).map(span).collect();
        Self { family, spans }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let wanted = number(address);
        Family::of(address) == self.family
            && self.spans.iter().any(|(first, last)| (*first..=*last).contains(&wanted))
    }

    /// How many there are.
    pub(super) fn capacity(&self) -> u128 {
        let number = |(first, last): &(u128, u128)| last.saturating_sub(*first).saturating_add(1);
        self.spans.iter().map(number).fold(0, u128::saturating_add)
    }

    /// Every address once, from the one after `last` on, round to `last` itself.
    pub(super) fn after(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + '_ {
        let last = last.filter(|address| self.contains(*address)).map(number);
        let here = last.and_then(|last| self.spans.iter().position(|span| (span.0..=span.1).contains(&last)));
        let (before, from) = self.spans.split_at_checked(here.unwrap_or(0)).unwrap_or_default();
        let (current, behind) = from.split_at_checked(1).unwrap_or_default();
        let rest = current.iter().filter_map(move |span| match last {
            Some(last) => Some((last.checked_add(1)?, span.1)),
            None => Some(*span),
        });
        let begun = current.iter().filter_map(move |span| Some((span.0, last?)));
        let order = rest.chain(behind.iter().copied()).chain(before.iter().copied()).chain(begun);
        order.flat_map(|(first, last)| first..=last).map(|number| self.family.address(number))
    }
}

fn span(range: &IpNetwork) -> (u128, u128) {
    let (first, last) = (number(range.network()), number(range.broadcast()));
    match (last - first, range) {
        (0 | 1, _) => (first, last),
        (_, IpNetwork::V4(_)) => (first + 2, last - 1),
        (_, IpNetwork::V6(_)) => (first + 2, last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(ranges: &[&str], last: Option<&str>) -> Vec<String> {
        let all: Vec<IpNetwork> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let ranges = Ranges::new(Family::of(all[0].ip()), &all);
        ranges.after(last.map(|last| last.parse().unwrap())).map(|address| address.to_string()).collect()
    }

    #[test]
    fn no_pod_has_the_address_of_a_network_a_gateway_or_a_broadcast() {
        assert_eq!(
            from(&["10.0.0.7/29"], None),
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        assert_eq!(from(&["fd00::/126"], None), ["fd00::2", "fd00::3"]);
        assert_eq!(from(&["10.0.0.0/30"], None), ["10.0.0.2"]);
    }

    #[test]
    fn small_ranges_are_used_whole() {
        assert_eq!(from(&["10.0.0.0/31", "10.0.1.9/32"], None), ["10.0.0.0", "10.0.0.1", "10.0.1.9"]);
        assert_eq!(from(&["fd00::/127", "fd01::9/128"], None), ["fd00::", "fd00::1", "fd01::9"]);
    }

    #[test]
    fn the_round_goes_on_after_the_last_address_and_names_each_once() {
        let ranges = ["10.0.0.0/29", "10.0.1.0/30", "10.0.2.0/30"];
        let whole = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.1.2", "10.0.2.2"];
        assert_eq!(from(&ranges, None), whole);
        assert_eq!(from(&ranges, Some("192.0.2.1")), whole);
        for (at, last) in whole.iter().enumerate() {
            let mut expected = whole.to_vec();
            expected.rotate_left(at + 1);
            assert_eq!(from(&ranges, Some(last)), expected);
        }
    }

    #[test]
    fn the_end_of_the_address_space_is_an_end() {
        assert_eq!(from(&["255.255.255.252/30"], Some("255.255.255.254")), ["255.255.255.254"]);
        let highest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let lower = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe";
        assert_eq!(from(&[&format!("{highest}/127")], Some(highest)), [lower, highest]);
    }
}
