//! The IPv4 header (RFC 791, 3.1).
//!
//! Must not know what follows it.

use proxy_common::{Ipv4Be, addr::wire};

use super::{Fragment, Headers, Parsed};
use crate::{
    checksum,
    env::Packet,
    wire::{Bytes, Wire as _},
};

/// Of the answers made here; RFC 1700's default.
const TIME_TO_LIVE: u8 = 64;
/// Precedence "internetwork control", which an ICMP error should have (RFC 1812, 4.3.2.5).
const CONTROL: u8 = 0xc0;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Reads the header at `to.l3`, steps over its options. [`Parsed::Ports`]: what is at `to.l4` is to be looked at.
#[inline(always)]
pub(crate) fn header<E: Packet>(env: &mut E, quoted: bool, to: &mut Headers<Ipv4Be>) -> Parsed {
    let mut header = Bytes([0; 20]);
    if !env.load(to.l3, &mut header.0) {
        return Parsed::Malformed;
    }
    let first = header.byte(0);
    if first >> 4 != 4 {
        return Parsed::NotIp;
    }
    let length = u32::from(first & 15) * 4;
    if length < Ipv4Be::HEADER {
        return Parsed::Malformed;
    }
    to.l4 = to.l3 + length;
    to.source = Ipv4Be::from_network_bits(header.bits(12));
    to.destination = Ipv4Be::from_network_bits(header.bits(16));
    to.protocol = header.byte(9);
    to.hop_limit = header.byte(8);
    if !end(env, u32::from(header.half(2)), quoted, to) {
        return Parsed::Malformed;
    }
    fragment(&header, to)
}

/// Sets the end of the packet; false if it contradicts the packet. A packet longer than it says is padded (Ethernet
/// sends no less than 46 bytes); of a GSO packet the length may be 0 (more than 65,535 bytes).
#[inline(always)]
fn end<E: Packet>(env: &mut E, total: u32, quoted: bool, to: &mut Headers<Ipv4Be>) -> bool {
    let there = env.length();
    to.end = to.l3 + total;
    if quoted {
        // A quotation that reports a packet of more than 65,535 bytes says 0, too.
        to.end = if total == 0 || to.end > there { there } else { to.end };
        return to.l4 + 8 <= to.end;
    }
    if env.segment() != 0 {
        to.end = there;
    }
    to.l4 <= to.end && to.end <= there
}

#[inline(always)]
fn fragment(header: &Bytes<20>, to: &mut Headers<Ipv4Be>) -> Parsed {
    let field = header.half(6);
    to.dont_fragment = u8::from(field & DONT_FRAGMENT != 0);
    if field & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == 0 {
        return Parsed::Ports;
    }
    to.identification = u32::from(header.half(4));
    if field & FRAGMENT_OFFSET != 0 {
        to.fragment = Fragment::Later as u8;
        return Parsed::Later;
    }
    to.fragment = Fragment::First as u8;
    Parsed::Ports
}

/// Writes a header before `length` bytes of `protocol`.
#[inline(always)]
pub(crate) fn store<E: Packet>(
    env: &mut E,
    at: u32,
    ends: (Ipv4Be, Ipv4Be),
    length: u32,
    protocol: u8,
) -> bool {
    let service = if protocol == Ipv4Be::ICMP { CONTROL } else { 0 };
    let [_, _, a, b] = wire::word_bytes(Ipv4Be::HEADER + length);
    let [c, d, e, f] = ends.0.network_bits().to_ne_bytes();
    let [g, h, i, j] = ends.1.network_bits().to_ne_bytes();
    let [flags, _] = wire::half_bytes(DONT_FRAGMENT);
    let header = [0x45, service, a, b, 0, 0, flags, 0, TIME_TO_LIVE, protocol, 0, 0, c, d, e, f, g, h, i, j];
    let sum = checksum::finish(checksum::sum(&header));
    env.store(at, &header) && env.store(at + 10, &sum.to_ne_bytes())
}
