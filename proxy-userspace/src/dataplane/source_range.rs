//! Source ranges as keys of the LPM trie, and back.
//!
//! Must not know what an admitted client may do.

use std::net::IpAddr;

use aya::maps::lpm_trie::Key;
use ipnetwork::IpNetwork;
use proxy_common::{Address, Ipv4Be, Ipv6Be, SourceRangeKey};

/// Bits of the service id before the address.
const ID_BITS: u32 = 32;
/// Bits of an IPv4-mapped address before the IPv4 address.
const MAPPED_BITS: u32 = 96;

/// The key of a network; host bits are cleared.
pub(super) fn encode(service_id: u32, network: IpNetwork) -> Key<SourceRangeKey> {
    let (client, before) = match network.network() {
        IpAddr::V4(address) => (Ipv4Be::from(address).to_mapped(), ID_BITS + MAPPED_BITS),
        IpAddr::V6(address) => (Ipv6Be::from(address), ID_BITS),
    };
    Key::new(before + u32::from(network.prefix()), SourceRangeKey { service_id, client })
}

/// The service id and network of a key; `None` for a key that [`encode`] does not make.
pub(super) fn decode(key: &Key<SourceRangeKey>) -> Option<(u32, IpNetwork)> {
    let SourceRangeKey { service_id, client } = key.data();
    let bits = key.prefix_len().checked_sub(ID_BITS)?;
    let (address, prefix) = match client.mapped() {
        Some(v4) if bits >= MAPPED_BITS => (IpAddr::V4(v4.into()), bits - MAPPED_BITS),
        _ => (IpAddr::V6(client.into()), bits),
    };
    let network = IpNetwork::new(address, u8::try_from(prefix).ok()?).ok()?;
    Some((service_id, network))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_both_families_survive_the_way_there_and_back() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "2001:db8::/32", "::/0", "2001:db8::1/128"] {
            let network: IpNetwork = text.parse().unwrap();
            assert_eq!(decode(&encode(7, network)), Some((7, network)), "{text}");
        }
    }

    #[test]
    fn host_bits_are_cleared() {
        let network: IpNetwork = "10.1.2.3/8".parse().unwrap();
        assert_eq!(decode(&encode(1, network)), Some((1, "10.0.0.0/8".parse().unwrap())));
    }

    #[test]
    fn a_key_without_a_whole_service_id_is_no_source_range() {
        let data = SourceRangeKey { service_id: 1, client: Ipv6Be::UNSPECIFIED };
        assert_eq!(decode(&Key::new(31, data)), None);
        assert_eq!(decode(&Key::new(200, data)), None);
    }
}
