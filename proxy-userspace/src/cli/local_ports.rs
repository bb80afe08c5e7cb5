//! Whether the host gives the same ports to its own connections as the packet path to translated ones: then the reply
//! to one would be taken for the other's.
//!
//! Must not know how ports are given.

use std::{fs, io};

use crate::config::PortRange;

/// `net.ipv4.ip_local_port_range`, of both families.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// `net.ipv4.ip_local_reserved_ports`: not given although they are in the range.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Compares with the settings of this network namespace. What cannot be read is not compared.
pub(super) fn check(snat: PortRange) -> Result<(), String> {
    let read = |path: &str| -> io::Result<String> { fs::read_to_string(path) };
    match (read(RANGE), read(RESERVED)) {
        (Ok(range), Ok(reserved)) => compare(snat, &range, &reserved),
        _ => Ok(()),
    }
}

fn compare(snat: PortRange, range: &str, reserved: &str) -> Result<(), String> {
    let mut bounds = range.split_whitespace().filter_map(|text| text.parse().ok());
    let (Some(first), Some(last)) = (bounds.next(), bounds.next()) else { return Ok(()) };
    let reserved: Vec<PortRange> = reserved.trim().split(',').filter_map(reserved_range).collect();
    let local = PortRange { first, last };
    let is_free = |port: u16| reserved.iter().any(|range| range.contains(port));
    let mut shared = snat.first.max(first)..=snat.last.min(last);
    if shared.all(is_free) {
        return Ok(());
    }
    Err(format!(
        "setting `snat-ports`, {snat}, and the kernel's net.ipv4.ip_local_port_range, {local}, overlap: replies to the \
         host's own connections would be taken for those of translated ones; reserve the ports (sysctl -w \
         net.ipv4.ip_local_reserved_ports={snat}), or set `snat-ports` to other ports"
    ))
}

/// `80` or `80-90`.
fn reserved_range(text: &str) -> Option<PortRange> {
    let single = || text.parse().ok().map(|port| PortRange { first: port, last: port });
    text.parse().ok().or_else(single)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_ports_are_refused_unless_they_are_reserved() {
        let cases = [
            ("1024-29999", "32768\t60999\n", "\n", true),
            ("1024-29999", "1024\t65535\n", "\n", false),
            ("1024-29999", "29999\t60999\n", "\n", false),
            ("1024-29999", "29999\t60999\n", "29999\n", true),
            ("1024-29999", "1024\t65535\n", "1024-29999\n", true),
            ("1024-29999", "1024\t65535\n", "1024-20000,20001-29999,40000\n", true),
            ("1024-29999", "1024\t65535\n", "1024-20000,20002-29999\n", false),
            ("1024-29999", "", "", true),
        ];
        for (snat, range, reserved, expected) in cases {
            let result = compare(snat.parse().unwrap(), range, reserved);
            assert_eq!(result.is_ok(), expected, "{snat} {range} {reserved}");
            if let Err(error) = result {
                for part in ["`snat-ports`, 1024-29999", "ip_local_port_range", "ip_local_reserved_ports="] {
                    assert!(error.contains(part), "{error}");
                }
            }
        }
    }

    #[test]
    fn the_defaults_of_this_machine_can_be_compared() {
        assert!(check("1-2".parse().unwrap()).is_ok());
    }
}
