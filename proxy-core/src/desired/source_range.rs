//! `loadBalancerSourceRanges`: which clients a LoadBalancer address admits, per family.
//!
//! A family that no entry is meant for stays open, as with kube-proxy: ranges of one family say nothing of the other.
//! But an entry that cannot be read must never open what somebody wanted closed. It counts as meant for the family its
//! text looks like (a colon: IPv6, else a dot: IPv4), or for both if it looks like neither or nothing in the list can
//! be read; a family whose entries are all unreadable admits nobody.
//!
//! Must not know which frontends use them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::{address::parse_network, field::Report, types::Family};

/// The admitted clients of a Service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SourceRanges {
    v4: Vec<IpNetwork>,
    v6: Vec<IpNetwork>,
}

impl SourceRanges {
    /// Reads `spec.loadBalancerSourceRanges`. Blanks around an entry are allowed.
    pub(super) fn read(texts: &[String], report: &mut Report<'_>) -> Self {
        let (mut ranges, mut unreadable) = (Self::default(), Vec::new());
        for (index, text) in texts.iter().enumerate() {
            if let Some(network) = parse_network(text.trim()) {
                ranges.of_mut(Family::of(network.ip())).push(network);
                continue;
            }
            unreadable.push(text);
            let message = format!("`{text}` is not a network and admits nobody: write it as 192.0.2.0/24");
            report.invalid(format!("spec.loadBalancerSourceRanges[{index}]"), message);
        }
        let none_readable = ranges == Self::default();
        for text in unreadable {
            let (like_v6, like_v4) = (text.contains(':'), text.contains('.'));
            if none_readable || like_v6 || !like_v4 {
                ranges.close(Family::V6);
            }
            if none_readable || !like_v6 {
                ranges.close(Family::V4);
            }
        }
        ranges.sort();
        ranges
    }

    /// The admitted networks of `family`; empty = everybody.
    pub(super) fn of(&self, family: Family) -> &[IpNetwork] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn of_mut(&mut self, family: Family) -> &mut Vec<IpNetwork> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Unless some client is admitted, admits nobody.
    fn close(&mut self, family: Family) {
        let networks = self.of_mut(family);
        if networks.is_empty() {
            networks.push(nobody(family));
        }
    }

    fn sort(&mut self) {
        for networks in [&mut self.v4, &mut self.v6] {
            networks.sort_unstable();
            networks.dedup();
        }
    }
}

/// A network that no packet can come from: the limited broadcast address (RFC 1122, 3.2.1.3) or a multicast address
/// (RFC 4291, 2.7). Not the unspecified address: that is what an unbound socket has.
fn nobody(family: Family) -> IpNetwork {
    match family {
        Family::V4 => IpNetwork::from(IpAddr::V4(Ipv4Addr::BROADCAST)),
        Family::V6 => IpNetwork::from(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    const NOBODY4: &str = "255.255.255.255/32";
    const NOBODY6: &str = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128";

    #[test]
    fn each_family_admits_what_its_own_entries_say() {
        /// Entries, admitted IPv4 and IPv6 clients, number of warnings.
        type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], usize);
        let cases: [Case<'_>; 13] = [
            (&[], &[], &[], 0),
            (&["10.0.0.0/8"], &["10.0.0.0/8"], &[], 0),
            (&[" 10.0.0.0/8 ", "\tfd00::/8\n"], &["10.0.0.0/8"], &["fd00::/8"], 0),
            (&["10.0.0.1/8", "10.0.0.0/8"], &["10.0.0.0/8"], &[], 0),
            (&["192.0.2.0/24", "10.0.0.0/8"], &["10.0.0.0/8", "192.0.2.0/24"], &[], 0),
            (&["10.0.0.0/8", "10.0.0.0/99"], &["10.0.0.0/8"], &[], 1),
            (&["10.0.0.0/8", "fd00::/999"], &["10.0.0.0/8"], &[NOBODY6], 1),
            (&["10.0.0.0/99", "fd00::/8"], &[NOBODY4], &["fd00::/8"], 1),
            (&["10.0.0.0/8", "::ffff:10.0.0.0/999"], &["10.0.0.0/8"], &[NOBODY6], 1),
            (&["10.0.0.0/8", "nonsense"], &["10.0.0.0/8"], &[NOBODY6], 1),
            (&["nonsense"], &[NOBODY4], &[NOBODY6], 1),
            (&["10.0.0.0/99", "fd00::/999"], &[NOBODY4], &[NOBODY6], 2),
            (&[""], &[NOBODY4], &[NOBODY6], 1),
        ];
        for (texts, v4, v6, wanted_warnings) in cases {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            let (name, mut warnings) = (ObjectName::new("ns", "a"), Vec::new());
            let ranges = SourceRanges::read(&texts, &mut Report::new("Service", &name, &mut warnings));
            let found = |family| ranges.of(family).iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(found(Family::V4), v4, "{texts:?}");
            assert_eq!(found(Family::V6), v6, "{texts:?}");
            assert_eq!(warnings.len(), wanted_warnings, "{texts:?}");
        }
    }
}
