//! Addresses and networks as the API writes them.
//!
//! Must not know which field a text came from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Reads an address as kube-proxy does: decimal parts of an IPv4 address may have leading zeros (objects stored before
/// Kubernetes 1.22 have them), and an IPv4-mapped IPv6 address is the IPv4 address that it holds.
pub(crate) fn parse_address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(|address| IpAddr::V6(address).to_canonical());
    }
    let mut parts = text.split('.').map(decimal);
    let mut next = || u8::try_from(parts.next()??).ok();
    let octets = [next()?, next()?, next()?, next()?];
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

/// Reads `address/prefix` and clears the bits after the prefix. A bare address is not a network.
pub(crate) fn parse_network(text: &str) -> Option<IpNetwork> {
    let (address, prefix) = text.split_once('/')?;
    let written_as_v6 = address.contains(':');
    let address = parse_address(address)?;
    let prefix = u8::try_from(decimal(prefix)?).ok()?;
    // ::ffff:10.0.0.0/104 is 10.0.0.0/8.
    let prefix = if written_as_v6 && address.is_ipv4() { prefix.checked_sub(96)? } else { prefix };
    let network = IpNetwork::new(address, prefix).ok()?;
    IpNetwork::new(network.network(), prefix).ok()
}

/// The class of an address that neither a Service nor an endpoint may have, because taking it over would redirect
/// traffic that belongs to a host or a link. Takes canonical addresses (IPv4-mapped ones unwrapped).
pub(crate) fn special_class(address: IpAddr) -> Option<&'static str> {
    let classes = match address {
        IpAddr::V4(v4) => [
            (v4.is_unspecified(), "an unspecified"),
            (v4.is_loopback(), "a loopback"),
            (v4.is_link_local(), "a link-local"),
            (v4.is_multicast(), "a multicast"),
            (v4.is_broadcast(), "a broadcast"),
        ],
        IpAddr::V6(v6) => [
            (v6.is_unspecified(), "an unspecified"),
            (v6.is_loopback(), "a loopback"),
            (v6.is_unicast_link_local(), "a link-local"),
            (v6.is_multicast(), "a multicast"),
            (false, ""),
        ],
    };
    classes.iter().find(|(matches, _)| *matches).map(|(_, name)| *name)
}

/// A number of decimal digits and nothing else (`str::parse` also takes a sign).
fn decimal(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_kube_proxy_reads_them() {
        let cases = [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.000.00.1", Some("10.0.0.1")),
            ("fd00::1", Some("fd00::1")),
            ("FD00:0::0001", Some("fd00::1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("", None),
            ("10.0.0", None),
            ("10.0.0.1.2", None),
            ("10.0.0.256", None),
            ("10.0.0.+1", None),
            ("10.0..1", None),
            ("10.0.0.1 ", None),
            ("fe80::1%eth0", None),
            ("host.example", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse_address(text).map(|found| found.to_string()).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn networks_lose_their_host_bits_and_bare_addresses_are_refused() {
        let cases = [
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("fd00::5/64", Some("fd00::/64")),
            ("::ffff:10.1.0.0/104", Some("10.0.0.0/8")),
            ("::ffff:10.1.0.0/95", None),
            ("10.0.0.1", None),
            ("10.0.0.0/33", None),
            ("10.0.0.0/+8", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/255.0.0.0", None),
            ("fd00::/129", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse_network(text).map(|found| found.to_string()).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn addresses_that_belong_to_a_host_or_a_link_are_special() {
        let special = [
            "0.0.0.0",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.0.1",
        ];
        for text in special {
            assert!(special_class(parse_address(text).unwrap()).is_some(), "{text}");
        }
        for text in
            ["10.0.0.1", "192.0.2.1", "240.0.0.1", "fd00::1", "fec0::1", "2001:db8::1", "::ffff:10.0.0.1"]
        {
            assert_eq!(special_class(parse_address(text).unwrap()), None, "{text}");
        }
    }
}
