//! From bytes to headers: IPv4 with options, IPv6 with extension headers, fragments, ports, TCP flags, ICMP.
//!
//! Must not know Services or flows.

use proxy_common::{Address, PortBe, addr::wire};

use crate::{
    env::Packet,
    wire::{Bytes, Wire},
};

pub(crate) mod ipv4;
pub(crate) mod ipv6;
#[cfg(test)]
mod tests;

/// Protocol number of TCP.
pub(crate) const TCP: u8 = 6;
/// Protocol number of UDP.
pub(crate) const UDP: u8 = 17;
/// Protocol number of SCTP.
pub(crate) const SCTP: u8 = 132;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q.
const ETHERTYPE_VLAN: u16 = 0x8100;
/// IEEE 802.1ad.
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
/// As many as 802.1ad knows.
const VLAN_TAGS: u32 = 2;

/// Which part of a fragmented datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// All of it.
    Whole = 0,
    /// The first: it has the ports.
    First = 1,
    /// A later one: it has none.
    Later = 2,
}

/// What was found behind the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Parsed {
    /// TCP, UDP or SCTP, with ports (of a first fragment, too).
    Ports,
    /// An ICMP error; the quoted packet begins 8 bytes behind `Headers::l4`.
    IcmpError,
    /// An ICMP echo request or its reply. The identifier stands for the asking side's port, the other port is 0.
    Echo,
    /// Another ICMP message, or another protocol.
    Other,
    /// A later fragment: addresses, no ports.
    Later,
    /// Ends too early or contradicts itself. Addresses are set if `Headers::l4` is not 0.
    Malformed,
    /// More extension headers than are followed. Addresses are set.
    TooManyHeaders,
    /// Not an IP packet of this family.
    NotIp,
}

/// What a packet's headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Headers<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Offset of the IP header.
    pub l3: u32,
    /// Offset of what follows the IP header and its extensions; 0 if that is not known.
    pub l4: u32,
    /// Offset of the end of the IP packet as its header says (a GSO packet or jumbogram: as its length says).
    pub end: u32,
    /// Source port; an unfragmented TCP, UDP or SCTP packet or a first fragment.
    pub source_port: PortBe,
    /// Destination port.
    pub destination_port: PortBe,
    /// TCP: sequence number, host byte order.
    pub sequence: u32,
    /// TCP: acknowledgement number, host byte order.
    pub acknowledgement: u32,
    /// Identification of a fragmented datagram, as the header has it.
    pub identification: u32,
    /// IP protocol number of what is at `l4`.
    pub protocol: u8,
    /// TCP: the flags byte (offset 13).
    pub tcp_flags: u8,
    /// TCP: length of its header in bytes.
    pub tcp_header: u8,
    /// See [`Fragment`].
    pub fragment: u8,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// ICMP: type.
    pub icmp_type: u8,
    /// ICMP: code.
    pub icmp_code: u8,
    /// IPv4: 1 if the packet must not be fragmented.
    pub dont_fragment: u8,
}

impl<A: Address> Headers<A> {
    /// To be overwritten.
    pub const NONE: Self = Self {
        source: A::UNSPECIFIED,
        destination: A::UNSPECIFIED,
        l3: 0,
        l4: 0,
        end: 0,
        source_port: PortBe::ANY,
        destination_port: PortBe::ANY,
        sequence: 0,
        acknowledgement: 0,
        identification: 0,
        protocol: 0,
        tcp_flags: 0,
        tcp_header: 0,
        fragment: 0,
        hop_limit: 0,
        icmp_type: 0,
        icmp_code: 0,
        dont_fragment: 0,
    };
}

/// Finds the IP header behind the link layer and up to two VLAN tags that are still in the packet (the kernel notes
/// the outermost one's type as the packet's); writes its offset to `l3`. 4, 6, or 0 if there is none.
#[inline(always)]
pub fn network<E: Packet>(env: &mut E, l3: &mut u32) -> u32 {
    let mut ethertype = wire::half(env.ethertype().to_ne_bytes());
    *l3 = env.link_header();
    for _ in 0..VLAN_TAGS {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_SERVICE_VLAN {
            break;
        }
        let mut tag = Bytes([0; 4]);
        if !env.load(*l3, &mut tag.0) {
            return 0;
        }
        ethertype = tag.half(2);
        *l3 += 4;
    }
    match ethertype {
        ETHERTYPE_IPV4 => 4,
        ETHERTYPE_IPV6 => 6,
        _ => 0,
    }
}

/// Parses the IP packet at offset `at` into `to`. `quoted` relaxes what an ICMP error may leave out: of the quoted
/// packet only 8 bytes behind the IP header need be there, and its lengths may say more.
#[inline(never)]
pub fn parse<A: Wire, E: Packet>(env: &mut E, at: u32, quoted: bool, to: &mut Headers<A>) -> Parsed {
    *to = Headers { l3: at, ..Headers::NONE };
    let found = A::parse_header(env, quoted, to);
    if found != Parsed::Ports {
        return found;
    }
    match to.protocol {
        TCP => tcp(env, quoted, to),
        UDP => udp(env, quoted, to),
        SCTP => sctp(env, quoted, to),
        protocol if protocol == A::ICMP => icmp(env, quoted, to),
        _ => Parsed::Other,
    }
}

/// Whether a packet of which only the protocol's number is known can have ports. Behind an extension header of IPv6,
/// which the first fragment has alone, any protocol can be.
#[inline(always)]
pub(crate) fn may_have_ports<A: Wire>(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP) || A::FAMILY == 6 && ipv6::extends(protocol)
}

/// Whether `bytes` of what follows the IP header are within the packet.
#[inline(always)]
fn reaches<A: Address>(headers: &Headers<A>, bytes: u32) -> bool {
    headers.l4 + bytes <= headers.end
}

/// TCP (RFC 9293, 3.1). A first fragment must hold the whole header: a smaller one hides flags (RFC 1858).
#[inline(always)]
fn tcp<A: Wire, E: Packet>(env: &mut E, quoted: bool, to: &mut Headers<A>) -> Parsed {
    if quoted {
        let mut start = Bytes([0; 8]);
        if !env.load(to.l4, &mut start.0) {
            return Parsed::Malformed;
        }
        ports(&start, to);
        to.sequence = start.word(4);
        return Parsed::Ports;
    }
    let mut header = Bytes([0; 16]);
    if !env.load(to.l4, &mut header.0) {
        return Parsed::Malformed;
    }
    to.tcp_header = (header.byte(12) >> 4) * 4;
    if to.tcp_header < 20 || !reaches(to, u32::from(to.tcp_header)) {
        return Parsed::Malformed;
    }
    ports(&header, to);
    to.sequence = header.word(4);
    to.acknowledgement = header.word(8);
    to.tcp_flags = header.byte(13);
    Parsed::Ports
}

/// UDP (RFC 768). Its length says 0 only in a packet of more than 65,535 bytes (RFC 2675, 4), and in a fragment or
/// a GSO packet that of the whole.
#[inline(always)]
fn udp<A: Wire, E: Packet>(env: &mut E, quoted: bool, to: &mut Headers<A>) -> Parsed {
    let mut header = Bytes([0; 8]);
    if !reaches(to, 8) || !env.load(to.l4, &mut header.0) {
        return Parsed::Malformed;
    }
    ports(&header, to);
    let length = u32::from(header.half(4));
    let huge = length == 0 && reaches(to, 0x1_0000);
    if length < 8 && !huge {
        return Parsed::Malformed;
    }
    let whole = !quoted && to.fragment == Fragment::Whole as u8 && env.segment() == 0;
    if whole && !reaches(to, length) {
        return Parsed::Malformed;
    }
    Parsed::Ports
}

/// SCTP (RFC 9260, 3.1).
#[inline(always)]
fn sctp<A: Wire, E: Packet>(env: &mut E, quoted: bool, to: &mut Headers<A>) -> Parsed {
    let mut header = Bytes([0; 8]);
    let needed = if quoted { 8 } else { 12 };
    if !reaches(to, needed) || !env.load(to.l4, &mut header.0) {
        return Parsed::Malformed;
    }
    ports(&header, to);
    Parsed::Ports
}

/// ICMP of either family (RFC 792, RFC 4443). An error in fragments is nobody's: senders keep errors small.
#[inline(always)]
fn icmp<A: Wire, E: Packet>(env: &mut E, quoted: bool, to: &mut Headers<A>) -> Parsed {
    let mut header = Bytes([0; 8]);
    if !reaches(to, 8) || !env.load(to.l4, &mut header.0) {
        return Parsed::Malformed;
    }
    to.icmp_type = header.byte(0);
    to.icmp_code = header.byte(1);
    let whole = !quoted && to.fragment == Fragment::Whole as u8;
    if whole && A::quotes(to.icmp_type) {
        return Parsed::IcmpError;
    }
    let identifier = PortBe::from_host(header.half(4));
    if A::is_echo(to.icmp_type) {
        to.source_port = identifier;
    } else if A::is_echo_reply(to.icmp_type) {
        to.destination_port = identifier;
    } else {
        return Parsed::Other;
    }
    Parsed::Echo
}

#[inline(always)]
fn ports<A: Address, const N: usize>(header: &Bytes<N>, to: &mut Headers<A>) {
    to.source_port = PortBe::from_host(header.half(0));
    to.destination_port = PortBe::from_host(header.half(2));
}
