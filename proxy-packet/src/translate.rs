//! Rewriting addresses and ports, with every checksum that covers them.
//!
//! Must not know why.

use proxy_common::{PortBe, addr::wire};

use crate::{
    checksum, crc32c,
    env::{Packet, Sum},
    parse::{Fragment, Headers, SCTP, TCP, UDP},
    wire::{Bytes, Wire},
};

#[cfg(test)]
mod tests;

/// Offset of the checksum in an IPv4 header.
const IPV4_SUM_AT: u32 = 10;
/// Offset of the checksum in an ICMP or ICMPv6 message.
pub(crate) const ICMP_SUM_AT: u32 = 2;
/// Offset of the identifier in an ICMP or ICMPv6 echo message.
const IDENTIFIER_AT: u32 = 4;
/// Offset of the CRC32c in an SCTP packet.
const SCTP_SUM_AT: u32 = 8;

/// Both ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ends<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port.
    pub source_port: PortBe,
    /// Destination port.
    pub destination_port: PortBe,
}

/// Gives a packet another source, in `headers`, too. Of a later fragment only the address is in the packet. False if
/// that cannot be done: of a fragment of an SCTP packet the CRC over all of it cannot follow a change of the port.
#[inline(never)]
pub fn rewrite_source<A: Wire, E: Packet>(
    env: &mut E,
    headers: &mut Headers<A>,
    address: A,
    port: PortBe,
) -> bool {
    let done = rewrite_port(env, headers, 0, headers.source_port, port)
        && rewrite_address(env, headers, A::SOURCE_AT, headers.source, address);
    if done {
        headers.source = address;
        headers.source_port = port;
    }
    done
}

/// Gives a packet another destination, in `headers`, too. As [`rewrite_source`].
#[inline(never)]
pub fn rewrite_destination<A: Wire, E: Packet>(
    env: &mut E,
    headers: &mut Headers<A>,
    address: A,
    port: PortBe,
) -> bool {
    let done = rewrite_port(env, headers, 2, headers.destination_port, port)
        && rewrite_address(env, headers, A::DESTINATION_AT, headers.destination, address);
    if done {
        headers.destination = address;
        headers.destination_port = port;
    }
    done
}

/// Offset behind the IP header of the checksum of TCP or UDP; 0 of anything else.
#[inline(always)]
pub(crate) fn sum_at(protocol: u8) -> u32 {
    match protocol {
        TCP => 16,
        UDP => 6,
        _ => 0,
    }
}

#[inline(always)]
fn rewrite_port<A: Wire, E: Packet>(
    env: &mut E,
    headers: &Headers<A>,
    at: u32,
    from: PortBe,
    to: PortBe,
) -> bool {
    if from == to {
        return true;
    }
    if headers.protocol == SCTP {
        return rewrite_sctp_port(env, headers, at, to);
    }
    let is_icmp = headers.protocol == A::ICMP;
    if is_icmp && A::is_echo(headers.icmp_type) != (at == 0) {
        // The identifier is the asking side's.
        return true;
    }
    let sum = if is_icmp { ICMP_SUM_AT } else { sum_at(headers.protocol) };
    let at = if is_icmp { IDENTIFIER_AT } else { at };
    if headers.fragment == Fragment::Later as u8 || sum == 0 {
        return true;
    }
    let difference = checksum::difference(&[u32::from(from.network_bits())], &[u32::from(to.network_bits())]);
    let kind = if headers.protocol == UDP { Sum::UdpPayload } else { Sum::Payload };
    env.update_sum::<A>(headers.l4 + sum, difference, kind)
        && env.store(headers.l4 + at, &to.network_bits().to_ne_bytes())
}

/// The CRC is updated, not computed anew: the payload is not looked at.
///
/// A CRC of 0 stays: the device computes it (the sender's kernel left it to one, `CHECKSUM_PARTIAL` with
/// `csum_not_inet`, and for that the field must be 0), or the ends agreed on none (RFC 9653). That a computed one
/// happens to be 0 costs one retransmission in four thousand million packets.
#[inline(always)]
fn rewrite_sctp_port<A: Wire, E: Packet>(env: &mut E, headers: &Headers<A>, at: u32, to: PortBe) -> bool {
    let length = headers.end - headers.l4;
    if headers.fragment != Fragment::Whole as u8 || length > crc32c::LONGEST {
        return false;
    }
    let mut header = Bytes([0; 12]);
    if !env.load(headers.l4, &mut header.0) {
        return false;
    }
    let [a, b] = to.network_bits().to_ne_bytes();
    let ports = [header.byte(0), header.byte(1), header.byte(2), header.byte(3)];
    let [c, d, e, f] = ports;
    let new = if at == 0 { [a, b, e, f] } else { [c, d, a, b] };
    let crc = wire::crc(header.bits(8).to_ne_bytes());
    if crc != 0 {
        let change = env.crc_change(length, wire::crc(ports) ^ wire::crc(new));
        if !env.store(headers.l4 + SCTP_SUM_AT, &wire::crc_bytes(crc ^ change)) {
            return false;
        }
    }
    env.store(headers.l4, &new)
}

#[inline(always)]
fn rewrite_address<A: Wire, E: Packet>(env: &mut E, headers: &Headers<A>, at: u32, from: A, to: A) -> bool {
    if from == to {
        return true;
    }
    let difference = from.difference(to);
    update_header_sum::<A, E>(env, headers, difference)
        && update_pseudo_sum(env, headers, difference)
        && to.store(env, headers.l3 + at)
}

#[inline(always)]
fn update_header_sum<A: Wire, E: Packet>(env: &mut E, headers: &Headers<A>, difference: u32) -> bool {
    A::FAMILY != 4 || env.update_sum::<A>(headers.l3 + IPV4_SUM_AT, difference, Sum::Ip)
}

/// What covers the addresses behind the IP header. SCTP's CRC and ICMP's checksum do not.
#[inline(always)]
fn update_pseudo_sum<A: Wire, E: Packet>(env: &mut E, headers: &Headers<A>, difference: u32) -> bool {
    if headers.fragment == Fragment::Later as u8 {
        // Reassembly adds up what devices summed. In IPv4 the header's checksum made up for the address.
        if A::FAMILY == 6 {
            env.note_change(difference);
        }
        return true;
    }
    let protocol = headers.protocol;
    if A::FAMILY == 6 && protocol == A::ICMP {
        return env.update_sum::<A>(headers.l4 + ICMP_SUM_AT, difference, Sum::Pseudo);
    }
    let sum = sum_at(protocol);
    let kind = if protocol == UDP { Sum::UdpPseudo } else { Sum::Pseudo };
    sum == 0 || env.update_sum::<A>(headers.l4 + sum, difference, kind)
}

/// Gives an ICMP error other outer addresses and the packet it quotes other ends; its own checksum covers the
/// quotation.
#[inline(always)]
pub fn rewrite_quoted<A: Wire, E: Packet>(
    env: &mut E,
    outer: &mut Headers<A>,
    inner: &mut Headers<A>,
    quoted: &Ends<A>,
    addresses: (A, A),
) -> bool {
    let source = rewrite_source(env, outer, addresses.0, outer.source_port);
    let destination = rewrite_destination(env, outer, addresses.1, outer.destination_port);
    let icmp_sum = outer.l4 + ICMP_SUM_AT;
    source
        && destination
        && quote_sums(env, icmp_sum, inner, quoted)
        && quote_address(env, icmp_sum, inner.l3 + A::SOURCE_AT, inner.source, quoted.source)
        && quote_address(env, icmp_sum, inner.l3 + A::DESTINATION_AT, inner.destination, quoted.destination)
        && quote_ports(env, icmp_sum, inner, quoted)
        && note(inner, quoted)
}

#[inline(always)]
fn note<A: Wire>(inner: &mut Headers<A>, quoted: &Ends<A>) -> bool {
    inner.source = quoted.source;
    inner.destination = quoted.destination;
    inner.source_port = quoted.source_port;
    inner.destination_port = quoted.destination_port;
    true
}

/// Ones' complement difference that the new addresses make.
#[inline(always)]
fn address_difference<A: Wire>(inner: &Headers<A>, quoted: &Ends<A>) -> u32 {
    let source = inner.source.difference(quoted.source);
    let destination = inner.destination.difference(quoted.destination);
    checksum::add(source, destination)
}

/// Ones' complement difference that the new ports make.
#[inline(always)]
fn port_difference<A: Wire>(inner: &Headers<A>, quoted: &Ends<A>) -> u32 {
    let ports = |source: PortBe, destination: PortBe| {
        [u32::from(source.network_bits()), u32::from(destination.network_bits())]
    };
    checksum::difference(
        &ports(inner.source_port, inner.destination_port),
        &ports(quoted.source_port, quoted.destination_port),
    )
}

/// Updates the quoted packet's own checksums as far as they are quoted. Nobody verifies them, but people who read a
/// capture should not be misled. A CRC32c is left alone: that of a cut-off packet says nothing.
#[inline(always)]
fn quote_sums<A: Wire, E: Packet>(env: &mut E, icmp_sum: u32, inner: &Headers<A>, quoted: &Ends<A>) -> bool {
    let addresses = address_difference(inner, quoted);
    if A::FAMILY == 4 && !quote_sum::<A, E>(env, icmp_sum, inner.l3 + IPV4_SUM_AT, addresses, false) {
        return false;
    }
    let is_icmp = inner.protocol == A::ICMP;
    let sum = if is_icmp { ICMP_SUM_AT } else { sum_at(inner.protocol) };
    if sum == 0 || inner.fragment == Fragment::Later as u8 || inner.l4 + sum + 2 > inner.end {
        return true;
    }
    // ICMP's covers no address, ICMPv6's does.
    let addresses = if is_icmp && A::FAMILY == 4 { 0 } else { addresses };
    let difference = checksum::add(addresses, port_difference(inner, quoted));
    quote_sum::<A, E>(env, icmp_sum, inner.l4 + sum, difference, inner.protocol == UDP)
}

/// Updates a quoted checksum at `at`, which is but payload to the ICMP message; `optional`: 0 means "none".
#[inline(always)]
fn quote_sum<A: Wire, E: Packet>(
    env: &mut E,
    icmp_sum: u32,
    at: u32,
    difference: u32,
    optional: bool,
) -> bool {
    let mut bytes = [0; 2];
    if !env.load(at, &mut bytes) {
        return false;
    }
    let old = u16::from_ne_bytes(bytes);
    if optional && old == 0 {
        return true;
    }
    let mut new = checksum::update(old, difference);
    if optional && new == 0 {
        new = 0xffff;
    }
    let change = checksum::difference(&[u32::from(old)], &[u32::from(new)]);
    env.update_sum::<A>(icmp_sum, change, Sum::Payload) && env.store(at, &new.to_ne_bytes())
}

#[inline(always)]
fn quote_address<A: Wire, E: Packet>(env: &mut E, icmp_sum: u32, at: u32, from: A, to: A) -> bool {
    from == to || (env.update_sum::<A>(icmp_sum, from.difference(to), Sum::Payload) && to.store(env, at))
}

#[inline(always)]
fn quote_ports<A: Wire, E: Packet>(env: &mut E, icmp_sum: u32, inner: &Headers<A>, quoted: &Ends<A>) -> bool {
    let same = inner.source_port == quoted.source_port && inner.destination_port == quoted.destination_port;
    if same || inner.fragment == Fragment::Later as u8 {
        return true;
    }
    let [a, b] = quoted.source_port.network_bits().to_ne_bytes();
    let [c, d] = quoted.destination_port.network_bits().to_ne_bytes();
    if !env.update_sum::<A>(icmp_sum, port_difference(inner, quoted), Sum::Payload) {
        return false;
    }
    if inner.protocol == A::ICMP {
        // One of both is 0.
        return env.store(inner.l4 + IDENTIFIER_AT, &[a | c, b | d]);
    }
    env.store(inner.l4, &[a, b, c, d])
}
