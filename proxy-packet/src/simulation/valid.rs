//! Checks every checksum of a packet, quoted ones included. Reads packets on its own, so that a fault of the parser
//! shows.
//!
//! Must not know who changed the packet.

use std::{format, net::IpAddr, string::String, vec::Vec};

use super::{bytes::total, frame::pseudo_sum};
use crate::{checksum, crc32c};

/// What an IP header says.
struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// What follows it and its extensions, as far as it is there.
    upper: &'a [u8],
    /// How long that is said to be.
    length: usize,
    fragment: bool,
}

/// Whether every checksum of an Ethernet frame, or a bare IP packet, is right: IP header, TCP, UDP, SCTP, ICMP, and
/// those of a packet that an ICMP error quotes as far as they are wholly quoted.
///
/// # Errors
///
/// Says what is wrong.
pub fn checksums_valid(frame: &[u8]) -> Result<(), String> {
    packet(network(frame)?, true)
}

/// As [`checksums_valid`], without those of a quoted packet.
///
/// # Errors
///
/// Says what is wrong.
pub fn outer_checksums_valid(frame: &[u8]) -> Result<(), String> {
    packet(network(frame)?, false)
}

fn packet(bytes: &[u8], quoted_too: bool) -> Result<(), String> {
    let ip = header(bytes)?;
    if ip.upper.len() != ip.length {
        return Err(format!("{} bytes of {}", ip.upper.len(), ip.length));
    }
    upper(&ip)?;
    match quotation(&ip) {
        Some(quoted) if quoted_too => quotation_valid(quoted).map_err(|error| format!("quoted: {error}")),
        _ => Ok(()),
    }
}

/// The quoted packet of an ICMP error.
fn quotation<'a>(ip: &Ip<'a>) -> Option<&'a [u8]> {
    let kind = *ip.upper.first()?;
    let error = match ip.protocol {
        1 => [3, 11, 12].contains(&kind),
        58 => (1..=4).contains(&kind),
        _ => false,
    };
    if error && !ip.fragment { ip.upper.get(8..) } else { None }
}

fn quotation_valid(bytes: &[u8]) -> Result<(), String> {
    let ip = header(bytes)?;
    if ip.upper.len() < ip.length { Ok(()) } else { upper(&ip) }
}

/// What is behind the link layer and its tags.
fn network(frame: &[u8]) -> Result<&[u8], String> {
    let mut at = 12;
    while let Some(kind) = field(frame, at) {
        at += 2;
        match kind {
            0x8100 | 0x88a8 => at += 2,
            0x0800 | 0x86dd => return Ok(frame.get(at..).unwrap_or_default()),
            _ => break,
        }
    }
    match frame.first().map(|first| first >> 4) {
        Some(4 | 6) => Ok(frame),
        _ => Err("neither a frame nor a packet".into()),
    }
}

fn header(bytes: &[u8]) -> Result<Ip<'_>, String> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => header4(bytes).ok_or("IPv4 header cut off")?,
        Some(6) => header6(bytes).ok_or("IPv6 header cut off")?,
        _ => Err("no IP packet".into()),
    }
}

fn header4(bytes: &[u8]) -> Option<Result<Ip<'_>, String>> {
    let length = usize::from(bytes.first()? & 15) * 4;
    let header = bytes.get(..length)?;
    let end = usize::from(field(bytes, 2)?);
    if checksum::fold16(total(header)) != 0xffff {
        return Some(Err(format!("IPv4 header checksum {:04x}", field(bytes, 10)?)));
    }
    Some(Ok(Ip {
        source: IpAddr::from(*bytes.get(12..)?.first_chunk::<4>()?),
        destination: IpAddr::from(*bytes.get(16..)?.first_chunk::<4>()?),
        protocol: *bytes.get(9)?,
        upper: bytes.get(length..end.min(bytes.len()))?,
        length: end.checked_sub(length)?,
        fragment: field(bytes, 6)? & 0x3fff != 0,
    }))
}

fn header6(bytes: &[u8]) -> Option<Result<Ip<'_>, String>> {
    let end = 40 + usize::from(field(bytes, 4)?);
    let mut protocol = *bytes.get(6)?;
    let mut fragment = false;
    let mut at = 40;
    while let 0 | 43 | 44 | 51 | 60 = protocol {
        let length = usize::from(*bytes.get(at + 1)?);
        fragment |= protocol == 44 && field(bytes, at + 2)? & 0xfff9 != 0;
        let next = *bytes.get(at)?;
        at += match protocol {
            44 => 8,
            51 => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        protocol = next;
    }
    Some(Ok(Ip {
        source: IpAddr::from(*bytes.get(8..)?.first_chunk::<16>()?),
        destination: IpAddr::from(*bytes.get(24..)?.first_chunk::<16>()?),
        protocol,
        upper: bytes.get(at..end.min(bytes.len()))?,
        length: end.checked_sub(at)?,
        fragment,
    }))
}

fn upper(ip: &Ip<'_>) -> Result<(), String> {
    let pseudo = pseudo_sum(ip.source, ip.destination, ip.length, ip.protocol);
    let sum = total(ip.upper);
    let none = ip.source.is_ipv4() && field(ip.upper, 6) == Some(0);
    let right = match ip.protocol {
        _ if ip.fragment => true,
        17 if none => true,
        17 if field(ip.upper, 6) == Some(0) => false,
        6 | 17 => checksum::fold16(checksum::add(sum, pseudo)) == 0xffff,
        58 if !ip.source.is_ipv4() => checksum::fold16(checksum::add(sum, pseudo)) == 0xffff,
        1 if ip.source.is_ipv4() => checksum::fold16(sum) == 0xffff,
        132 => crc_right(ip.upper),
        _ => true,
    };
    if right { Ok(()) } else { Err(format!("checksum of protocol {}", ip.protocol)) }
}

fn crc_right(upper: &[u8]) -> bool {
    let Some(stored) = upper.get(8..).and_then(<[u8]>::first_chunk::<4>) else { return false };
    let mut message: Vec<u8> = upper.to_vec();
    if let Some(place) = message.get_mut(8..12) {
        place.fill(0);
    }
    crc32c::crc32c(&message) == u32::from_le_bytes(*stored)
}

fn field(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::simulation::Frame;

    #[test]
    fn every_flipped_bit_behind_the_ip_header_is_noticed() {
        for ends in ["192.0.2.1:1025 192.0.2.2:80", "[2001:db8::1]:1025 [2001:db8::2]:80"] {
            let ends: Vec<SocketAddr> = ends.split(' ').map(|end| end.parse().unwrap()).collect();
            let quoted = Frame::udp(ends[0], ends[1], b"quoted").bare().build();
            let frames = [
                Frame::tcp(ends[0], ends[1], 2, (1, 2), b"abc"),
                Frame::udp(ends[0], ends[1], b"abc"),
                Frame::sctp(ends[0], ends[1], b"abcd"),
                Frame::icmp(ends[1].ip(), ends[0].ip(), (3, 1), 0, &quoted),
            ];
            for frame in frames {
                let bytes = frame.build();
                assert_eq!(checksums_valid(&bytes), Ok(()));
                // An IPv6 header has no checksum.
                let first = if ends[0].is_ipv4() { 14 } else { 54 };
                for bit in first * 8..bytes.len() * 8 {
                    let mut wrong = bytes.clone();
                    wrong[bit / 8] ^= 1 << (bit % 8);
                    assert!(checksums_valid(&wrong).is_err(), "bit {} of byte {}", bit % 8, bit / 8);
                }
            }
        }
    }

    #[test]
    fn a_wrong_checksum_in_a_quotation_is_told_apart() {
        let ends: [SocketAddr; 2] = ["192.0.2.1:1025".parse().unwrap(), "192.0.2.2:80".parse().unwrap()];
        let mut quoted = Frame::udp(ends[0], ends[1], b"quoted").bare().build();
        quoted[28] ^= 1;
        let frame = Frame::icmp(ends[1].ip(), ends[0].ip(), (3, 1), 0, &quoted).build();
        assert!(checksums_valid(&frame).is_err_and(|error| error.starts_with("quoted")));
        assert_eq!(outer_checksums_valid(&frame), Ok(()));
        // Not wholly quoted: nothing can be said.
        let frame = Frame::icmp(ends[1].ip(), ends[0].ip(), (3, 1), 0, &quoted[..30]).build();
        assert_eq!(checksums_valid(&frame), Ok(()));
    }
}
