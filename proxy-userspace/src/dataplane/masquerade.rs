//! Writing the map `masquerade`: whose packets leave with the node's address, and where to they do not.
//!
//! Must not know where the prefixes come from.

use std::{collections::BTreeMap, io, net::IpAddr};

use aya::maps::{
    MapData,
    lpm_trie::{Key, LpmTrie},
};
use ipnetwork::IpNetwork;
use proxy_common::{Address, Ipv4Be, Ipv6Be, MasqueradeKey, MasqueradeKind, names};

use super::{
    ApplyError,
    handles::{MapHandles, io_error},
    pod_ranges,
};

/// Bits of an IPv4-mapped address before the IPv4 address.
const MAPPED_BITS: u32 = 96;

/// Prefixes of egress masquerade. Of two that hold an address the longer counts, and of the same in both lists the pods'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masquerade {
    /// Pods of this node: what they send to an address that is in neither list leaves with the node's address.
    pub pods: Vec<IpNetwork>,
    /// What sees pods' own addresses: other pods, every node, and what routes pods' addresses itself.
    pub exempt: Vec<IpNetwork>,
}

type Prefix = (u32, MasqueradeKey);

impl Masquerade {
    /// What the map should hold.
    fn entries(&self) -> BTreeMap<Prefix, u32> {
        let of = |kind: MasqueradeKind| move |network: &IpNetwork| (prefix(*network), kind as u32);
        let exempt = self.exempt.iter().map(of(MasqueradeKind::Exempt));
        exempt.chain(self.pods.iter().map(of(MasqueradeKind::Pod))).collect()
    }
}

/// A network as the map knows it; host bits are cleared.
fn prefix(network: IpNetwork) -> Prefix {
    let (address, before) = match network.network() {
        IpAddr::V4(address) => (Ipv4Be::from(address).to_mapped(), MAPPED_BITS),
        IpAddr::V6(address) => (Ipv6Be::from(address), 0),
    };
    (before + u32::from(network.prefix()), MasqueradeKey { address })
}

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Remove(Prefix),
    Put(Prefix, u32),
}

/// What leads from one content to the other. At no moment a packet is masqueraded that neither wants to be: pods go
/// first and come last.
fn writes(known: &BTreeMap<Prefix, u32>, wanted: &BTreeMap<Prefix, u32>) -> Vec<Write> {
    let pod = MasqueradeKind::Pod as u32;
    let gone = |kind: bool| {
        let gone = known.iter().filter(|(prefix, _)| !wanted.contains_key(prefix));
        gone.filter(move |(_, value)| (**value == pod) == kind).map(|(prefix, _)| Write::Remove(*prefix))
    };
    let new = |kind: bool| {
        let new = wanted.iter().filter(|(prefix, value)| known.get(prefix) != Some(value));
        let of_kind = new.filter(move |(_, value)| (**value == pod) == kind);
        of_kind.map(|(prefix, value)| Write::Put(*prefix, *value))
    };
    gone(true).chain(new(false)).chain(gone(false)).chain(new(true)).collect()
}

/// Makes the map hold exactly these prefixes; what is there already is not written again.
pub(super) fn replace(handles: &MapHandles, wanted: &Masquerade) -> Result<(), ApplyError> {
    let mut known = BTreeMap::new();
    handles.for_each(names::MASQUERADE, |key: Key<MasqueradeKey>, kind: u32| {
        known.insert((key.prefix_len(), key.data()), kind);
    })?;
    let wanted = wanted.entries();
    let is_pods = |(_, kind): &(&Prefix, &u32)| **kind == MasqueradeKind::Pod as u32;
    // Those that go, too: another agent's programs may have made flows for them.
    let pods: Vec<_> = known.iter().chain(&wanted).filter(is_pods).map(|(prefix, _)| *prefix).collect();
    pod_ranges::cover(handles, &pods)?;
    let mut map: LpmTrie<MapData, MasqueradeKey, u32> = handles.typed(names::MASQUERADE)?;
    for write in writes(&known, &wanted) {
        let (action, result) = match write {
            Write::Remove((bits, key)) => ("remove from", map.remove(&Key::new(bits, key))),
            Write::Put((bits, key), kind) => ("write to", map.insert(&Key::new(bits, key), kind, 0)),
        };
        match result.map_err(io_error) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ApplyError::Kernel { action, map: names::MASQUERADE, source: error });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masquerade(pods: &[&str], exempt: &[&str]) -> Masquerade {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Masquerade { pods: networks(pods), exempt: networks(exempt) }
    }

    #[test]
    fn a_prefix_in_both_lists_is_the_pods() {
        let entries = masquerade(&["10.244.1.0/24"], &["10.244.1.9/24", "10.244.0.0/16"]).entries();
        let kinds: Vec<_> = entries.iter().map(|((bits, _), kind)| (*bits, *kind)).collect();
        assert_eq!(kinds, [(112, MasqueradeKind::Exempt as u32), (120, MasqueradeKind::Pod as u32)]);
    }

    #[test]
    fn both_families_share_the_map_without_meeting() {
        let entries = masquerade(&["0.0.0.0/0"], &["::/0"]).entries();
        assert_eq!(entries.into_keys().map(|(bits, _)| bits).collect::<Vec<_>>(), [0, 96]);
    }

    #[test]
    fn pods_go_before_anything_else_and_come_after_everything_else() {
        let before = masquerade(&["10.244.1.0/24"], &["10.0.0.0/8"]).entries();
        let after = masquerade(&["10.245.1.0/24"], &["172.16.0.0/12"]).entries();
        let pod = |text: &str| prefix(text.parse().unwrap());
        let expected = [
            Write::Remove(pod("10.244.1.0/24")),
            Write::Put(pod("172.16.0.0/12"), MasqueradeKind::Exempt as u32),
            Write::Remove(pod("10.0.0.0/8")),
            Write::Put(pod("10.245.1.0/24"), MasqueradeKind::Pod as u32),
        ];
        assert_eq!(writes(&before, &after), expected);
    }

    #[test]
    fn what_is_there_is_not_written_again() {
        let entries = masquerade(&["10.244.1.0/24", "fd00:10:244:1::/64"], &["10.0.0.0/8"]).entries();
        assert_eq!(writes(&entries, &entries), []);
    }
}
