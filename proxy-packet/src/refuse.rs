//! Answers of refusal, made of the packet they refuse: TCP resets (RFC 9293, 3.10.7.1), ICMP errors (RFC 792, RFC
//! 4443).
//!
//! An answer inherits the packet's checksum state, and no kernel helper changes it:
//!
//! - *Complete* (the device summed the whole packet): `bpf_skb_change_tail` forgets the sum, but only if the length
//!   changes; [`cut`] sees to that.
//! - *Partial* (the sender's kernel, or GRO, left the TCP or UDP checksum to the device: from `csum_start` to the
//!   end, into the field at `csum_offset`): both stay where they are, and the length cannot go below that field. A
//!   reset therefore keeps the TCP header in its place, and its checksum goes through [`Packet::update_sum`], which
//!   leaves there what the state asks for: the whole checksum, or the pseudo header's sum. In an ICMP error the
//!   device may complete the *quoted* checksum, or, seeing ICMP, may not: see [`settle`].
//!
//! Must not know why something is refused.

use proxy_common::addr::wire;

use crate::{
    checksum,
    env::{Packet, Sum},
    parse::{Fragment, Headers, TCP},
    translate::sum_at,
    wire::Wire,
};

#[cfg(test)]
mod tests;

/// Length of a TCP header without options, and of what the reset sends.
const TCP_HEADER: u32 = 20;
/// Length of the header of an ICMP error.
const ICMP_HEADER: u32 = 8;
/// Length of both link-layer addresses.
const MAC_ADDRESSES: u32 = 12;

const FIN: u8 = 1;
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
const ACK: u8 = 1 << 4;

/// Which ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum IcmpError {
    /// Nobody listens there.
    PortUnreachable,
    /// No route.
    NoRoute,
    /// The hop limit is used up.
    TimeExceeded,
    /// It does not fit the next link (the MTU goes with it).
    TooBig,
}

/// Turns the TCP packet into the reset that refuses it. False if it must not be answered (a reset, a fragment, an end
/// that is not one host's) or cannot be: then it is spoilt and must be dropped.
#[inline(never)]
pub fn reset<A: Wire, E: Packet>(env: &mut E, headers: &Headers<A>) -> bool {
    let whole = headers.protocol == TCP && headers.fragment == Fragment::Whole as u8;
    if !whole || headers.tcp_flags & RST != 0 || !one_to_one(headers) {
        return false;
    }
    // IP options and extension headers are left out, which moves the TCP header.
    let l4 = headers.l3 + A::HEADER;
    if headers.l4 != l4 && left_to_device::<A, E>(env, headers.l4 + sum_at(TCP)) {
        return false;
    }
    turn_frame(env)
        && cut(env, l4 + TCP_HEADER)
        && A::store_header(env, headers.l3, (headers.destination, headers.source), TCP_HEADER, TCP)
        && store_reset(env, l4, headers)
}

#[inline(always)]
fn store_reset<A: Wire, E: Packet>(env: &mut E, l4: u32, refused: &Headers<A>) -> bool {
    let (sequence, acknowledgement, flags) = if refused.tcp_flags & ACK != 0 {
        (refused.acknowledgement, 0, RST)
    } else {
        (0, refused.sequence.wrapping_add(occupied(refused)), RST | ACK)
    };
    let [a, b] = refused.destination_port.network_bits().to_ne_bytes();
    let [c, d] = refused.source_port.network_bits().to_ne_bytes();
    let [e, f, g, h] = wire::word_bytes(sequence);
    let [i, j, k, l] = wire::word_bytes(acknowledgement);
    let header = [a, b, c, d, e, f, g, h, i, j, k, l, 5 << 4, flags, 0, 0, 0, 0, 0, 0];
    let sum = l4 + sum_at(TCP);
    env.store(l4, &header)
        && env.update_sum::<A>(sum, checksum::sum(&header), Sum::Payload)
        && env.update_sum::<A>(sum, pseudo(refused.source, refused.destination, TCP_HEADER, TCP), Sum::Pseudo)
}

/// How many sequence numbers a segment takes: its payload, SYN and FIN.
#[inline(always)]
fn occupied<A: Wire>(segment: &Headers<A>) -> u32 {
    let payload = segment.end - segment.l4 - u32::from(segment.tcp_header);
    payload + u32::from(segment.tcp_flags & SYN != 0) + u32::from(segment.tcp_flags & FIN != 0)
}

/// Turns the packet into an ICMP error about it, from `from`; `mtu` only for [`IcmpError::TooBig`]. False if it
/// must not be answered (RFC 1122, 3.2.2; RFC 4443, 2.4 e: ICMP errors, later fragments, an end that is not one
/// host's) or cannot be: then it is spoilt and must be dropped.
#[inline(never)]
pub fn icmp_error<A: Wire, E: Packet>(
    env: &mut E,
    headers: &Headers<A>,
    error: IcmpError,
    mtu: u32,
    from: A,
) -> bool {
    let is_error = headers.protocol == A::ICMP && A::never_answered(headers.icmp_type);
    if is_error || headers.fragment == Fragment::Later as u8 || !one_to_one(headers) || !turn_frame(env) {
        return false;
    }
    let sum = headers.l4 + sum_at(headers.protocol);
    let partial = sum != headers.l4 && left_to_device::<A, E>(env, sum);
    let there = headers.end - headers.l3;
    let quoted = if there > A::LONGEST_QUOTE { A::LONGEST_QUOTE } else { there };
    let room = A::HEADER + ICMP_HEADER;
    if !cut(env, headers.l3 + quoted) || !env.make_room(room) {
        return false;
    }
    let mut total = 0;
    let end = headers.l3 + room + quoted;
    if partial {
        // Between the fixed header of IPv6 and the checksum nothing else may stand, see `settle`.
        let plain = A::FAMILY == 4 || headers.l4 == headers.l3 + A::HEADER;
        if !plain || !settle(env, headers.l4 + room, sum + room, end) {
            return false;
        }
    }
    A::sum_header(env, headers.l3 + room, &mut total)
        && env.sum(A::behind_sum(headers) + room, end, &mut total)
        && store_error(env, headers, icmp_bytes::<A>(error, mtu), from, (quoted, total))
}

/// Writes the IP and ICMP headers. `quoted`: how many bytes are quoted, and their sum.
#[inline(always)]
fn store_error<A: Wire, E: Packet>(
    env: &mut E,
    refused: &Headers<A>,
    icmp: [u8; 8],
    from: A,
    quoted: (u32, u32),
) -> bool {
    let (length, quoted_sum) = (ICMP_HEADER + quoted.0, quoted.1);
    let mut sum = checksum::add(checksum::sum(&icmp), quoted_sum);
    if A::FAMILY == 6 {
        sum = checksum::add(sum, pseudo(from, refused.source, length, A::ICMP));
    }
    let [a, b, _, _, c, d, e, f] = icmp;
    let [g, h] = checksum::finish(sum).to_ne_bytes();
    A::store_header(env, refused.l3, (from, refused.source), length, A::ICMP)
        && env.store(refused.l3 + A::HEADER, &[a, b, g, h, c, d, e, f])
}

/// The ICMP header, its checksum 0. Of IPv4 "no route" is a host that cannot be reached (3/1), as routers say it.
#[inline(always)]
fn icmp_bytes<A: Wire>(error: IcmpError, mtu: u32) -> [u8; 8] {
    let four = A::FAMILY == 4;
    let [a, b, c, d] = wire::word_bytes(mtu);
    match error {
        IcmpError::PortUnreachable if four => [3, 3, 0, 0, 0, 0, 0, 0],
        IcmpError::PortUnreachable => [1, 4, 0, 0, 0, 0, 0, 0],
        IcmpError::NoRoute if four => [3, 1, 0, 0, 0, 0, 0, 0],
        IcmpError::NoRoute => [1, 0, 0, 0, 0, 0, 0, 0],
        IcmpError::TimeExceeded if four => [11, 0, 0, 0, 0, 0, 0, 0],
        IcmpError::TimeExceeded => [3, 0, 0, 0, 0, 0, 0, 0],
        // RFC 1191, 4: the lower half of the word.
        IcmpError::TooBig if four => [3, 4, 0, 0, 0, 0, c, d],
        IcmpError::TooBig => [2, 0, 0, 0, a, b, c, d],
    }
}

/// Whether one host sent to one host: only then an answer goes to the one who asked, and nobody is flooded by proxy.
/// What claims to come from a loopback address does so only on the loopback device, where both ends are loopback.
#[inline(always)]
fn one_to_one<A: Wire>(headers: &Headers<A>) -> bool {
    let loopback = headers.source.is_loopback() && !headers.destination.is_loopback();
    headers.source.is_one_host() && headers.destination.is_one_host() && !loopback
}

/// Swaps the link-layer addresses; false if the frame was for a group.
#[inline(always)]
fn turn_frame<E: Packet>(env: &mut E) -> bool {
    if env.link_header() < MAC_ADDRESSES {
        return true;
    }
    let mut macs = [0; MAC_ADDRESSES as usize];
    if !env.load(0, &mut macs) {
        return false;
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l] = macs;
    // The lowest bit of the first byte tells a group from one station (IEEE 802, 8.2).
    a & 1 == 0 && env.store(0, &[g, h, i, j, k, l, a, b, c, d, e, f])
}

/// Sets the length, and it does change: then the kernel forgets a sum that the device computed over the packet.
#[inline(always)]
fn cut<E: Packet>(env: &mut E, length: u32) -> bool {
    (env.length() != length || env.resize(length + 1)) && env.resize(length)
}

/// Whether the device is to complete the checksum at `at`: then changes of what it covers do not reach the field.
#[inline(always)]
fn left_to_device<A: Wire, E: Packet>(env: &mut E, at: u32) -> bool {
    let (mut before, mut after) = ([0; 2], [0; 2]);
    let seen = env.load(at, &mut before)
        && env.update_sum::<A>(at, 1, Sum::Payload)
        && env.load(at, &mut after)
        && env.store(at, &before);
    seen && before == after
}

/// Gives the quoted checksum at `field` the value that the device would write there itself: whether it completes
/// what the skb still asks for or sees ICMP and does nothing, the bytes are the same and the ICMP checksum is
/// right. It is half of what the rest leaves to be said, `field = -(rest + field)`, and a half in ones' complement
/// is a rotation.
#[inline(always)]
fn settle<E: Packet>(env: &mut E, l4: u32, field: u32, end: u32) -> bool {
    let mut rest = 0;
    env.store(field, &[0, 0])
        && env.sum(l4, end, &mut rest)
        && env.store(field, &checksum::finish(rest).rotate_right(1).to_ne_bytes())
}

/// Sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1).
#[inline(always)]
fn pseudo<A: Wire>(source: A, destination: A, length: u32, protocol: u8) -> u32 {
    let [_, _, high, low] = wire::word_bytes(length);
    let rest = u32::from_ne_bytes([0, protocol, high, low]);
    let addresses = checksum::add(
        checksum::difference(&[], &source.words()),
        checksum::difference(&[], &destination.words()),
    );
    checksum::add(addresses, rest)
}
