//! The IPv6 header and its extension headers (RFC 8200, 3 and 4).
//!
//! Must not know what follows them.

use proxy_common::{Ipv6Be, addr::wire};

use super::{Fragment, Headers, Parsed};
use crate::{
    env::Packet,
    wire::{Bytes, Wire as _},
};

/// How many extension headers are followed. RFC 8200, 4.1 recommends an order in which no packet has more.
const EXTENSIONS: u32 = 6;

/// Of the answers made here; RFC 1700's default.
const HOP_LIMIT: u8 = 64;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Reads the header at `to.l3` and steps over extension headers. [`Parsed::Ports`]: what is at `to.l4` is to be
/// looked at.
#[inline(always)]
pub(crate) fn header<E: Packet>(env: &mut E, quoted: bool, to: &mut Headers<Ipv6Be>) -> Parsed {
    let mut header = Bytes([0; 40]);
    if !env.load(to.l3, &mut header.0) {
        return Parsed::Malformed;
    }
    if header.byte(0) >> 4 != 6 {
        return Parsed::NotIp;
    }
    to.l4 = to.l3 + Ipv6Be::HEADER;
    to.source = header.address6(8);
    to.destination = header.address6(24);
    to.protocol = header.byte(6);
    to.hop_limit = header.byte(7);
    if !end(env, u32::from(header.half(4)), quoted, to) {
        return Parsed::Malformed;
    }
    extensions(env, quoted, to)
}

/// Sets the end of the packet; false if it contradicts the packet. A GSO packet may say 0 (more than 65,535 bytes).
/// Jumbograms on the wire (RFC 2675) are not known: no device takes them.
#[inline(always)]
fn end<E: Packet>(env: &mut E, payload: u32, quoted: bool, to: &mut Headers<Ipv6Be>) -> bool {
    let there = env.length();
    to.end = to.l4 + payload;
    if quoted {
        to.end = if payload == 0 || to.end > there { there } else { to.end };
        return to.l4 + 8 <= to.end;
    }
    if env.segment() != 0 {
        to.end = there;
    }
    to.end <= there
}

#[inline(always)]
fn extensions<E: Packet>(env: &mut E, quoted: bool, to: &mut Headers<Ipv6Be>) -> Parsed {
    for _ in 0..EXTENSIONS {
        if !extends(to.protocol) {
            break;
        }
        let found = extension(env, to);
        if found != Parsed::Ports {
            return found;
        }
    }
    if extends(to.protocol) {
        return Parsed::TooManyHeaders;
    }
    if quoted && to.l4 + 8 > to.end { Parsed::Malformed } else { Parsed::Ports }
}

/// Whether it is the number of an extension header.
#[inline(always)]
pub(crate) fn extends(protocol: u8) -> bool {
    protocol == HOP_BY_HOP
        || protocol == ROUTING
        || protocol == FRAGMENT
        || protocol == AUTHENTICATION
        || protocol == DESTINATION_OPTIONS
}

/// Steps over one extension header. Not inlined: the verifier would follow each kind through all that come after it.
#[inline(never)]
fn extension<E: Packet>(env: &mut E, to: &mut Headers<Ipv6Be>) -> Parsed {
    let mut extension = Bytes([0; 8]);
    if !env.load(to.l4, &mut extension.0) {
        return Parsed::Malformed;
    }
    let kind = to.protocol;
    let length = match kind {
        FRAGMENT => 8,
        AUTHENTICATION => (u32::from(extension.byte(1)) + 2) * 4,
        _ => (u32::from(extension.byte(1)) + 1) * 8,
    };
    if to.l4 + length > to.end {
        return Parsed::Malformed;
    }
    // On its way to elsewhere: the destination is not the last one, neither here nor in the checksum (RFC 8200, 8.1).
    if kind == ROUTING && extension.byte(3) != 0 {
        return Parsed::Other;
    }
    to.l4 += length;
    to.protocol = extension.byte(0);
    if kind == FRAGMENT { fragment(&extension, to) } else { Parsed::Ports }
}

/// A fragment header; one that says "first and last" (RFC 6946) changes nothing.
#[inline(always)]
fn fragment(extension: &Bytes<8>, to: &mut Headers<Ipv6Be>) -> Parsed {
    if to.fragment != Fragment::Whole as u8 {
        return Parsed::Malformed;
    }
    let field = extension.half(2);
    to.identification = extension.word(4);
    if field & 0xfff8 != 0 {
        to.fragment = Fragment::Later as u8;
        return Parsed::Later;
    }
    if field & 1 != 0 {
        to.fragment = Fragment::First as u8;
    }
    Parsed::Ports
}

/// Writes a header before `length` bytes of `protocol`.
#[inline(always)]
pub(crate) fn store<E: Packet>(
    env: &mut E,
    at: u32,
    ends: (Ipv6Be, Ipv6Be),
    length: u32,
    protocol: u8,
) -> bool {
    let [_, _, a, b] = wire::word_bytes(length);
    env.store(at, &[6 << 4, 0, 0, 0, a, b, protocol, HOP_LIMIT])
        && ends.0.store(env, at + Ipv6Be::SOURCE_AT)
        && ends.1.store(env, at + Ipv6Be::DESTINATION_AT)
}
