//! What differs between IPv4 and IPv6 on the wire: where addresses are and how they are read, written and summed.
//!
//! Must not know what a packet is for.

use proxy_common::{Address, Ipv4Be, Ipv6Be, addr::wire};

use crate::{
    checksum,
    env::Packet,
    parse::{Headers, Parsed, ipv4, ipv6},
};

/// Bytes out of a packet, aligned so that a field costs one load.
#[repr(C, align(8))]
pub(crate) struct Bytes<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> Bytes<N> {
    /// The byte at a constant offset; 0 outside.
    #[inline(always)]
    pub(crate) fn byte(&self, at: usize) -> u8 {
        match self.0.get(at) {
            Some(byte) => *byte,
            None => 0,
        }
    }

    /// A 16-bit field.
    #[inline(always)]
    pub(crate) fn half(&self, at: usize) -> u16 {
        wire::half([self.byte(at), self.byte(at + 1)])
    }

    /// A 32-bit field.
    #[inline(always)]
    pub(crate) fn word(&self, at: usize) -> u32 {
        wire::word(self.bits(at).to_ne_bytes())
    }

    /// A 32-bit field as it is in memory.
    #[inline(always)]
    pub(crate) fn bits(&self, at: usize) -> u32 {
        u32::from_ne_bytes([self.byte(at), self.byte(at + 1), self.byte(at + 2), self.byte(at + 3)])
    }

    /// An IPv6 address.
    #[inline(always)]
    pub(crate) fn address6(&self, at: usize) -> Ipv6Be {
        Ipv6Be::from_network_words([self.bits(at), self.bits(at + 4), self.bits(at + 8), self.bits(at + 12)])
    }
}

/// An address family as packets carry it.
pub trait Wire: Address {
    /// 4 or 6.
    const FAMILY: u32;
    /// Offset of the source address in the IP header.
    const SOURCE_AT: u32;
    /// Offset of the destination address in the IP header.
    const DESTINATION_AT: u32;
    /// Protocol number of the family's ICMP.
    const ICMP: u8;
    /// Smallest IP header.
    const HEADER: u32;
    /// The most bytes of a packet that an ICMP error about it quotes.
    const LONGEST_QUOTE: u32;

    /// Reads an address.
    fn load<E: Packet>(env: &mut E, at: u32, to: &mut Self) -> bool;

    /// Writes an address.
    fn store<E: Packet>(self, env: &mut E, at: u32) -> bool;

    /// Ones' complement difference that replacing `self` by `new` makes.
    fn difference(self, new: Self) -> u32;

    /// The address as words, unused ones 0.
    fn words(self) -> [u32; 4];

    /// The address of this family that a device has.
    fn of_device(device: &proxy_common::DeviceValue) -> Self;

    /// Reads the IP header at `to.l3` and whatever stands between it and the next protocol.
    /// [`Parsed::Ports`]: that one is to be looked at.
    fn parse_header<E: Packet>(env: &mut E, quoted: bool, to: &mut Headers<Self>) -> Parsed;

    /// Whether an ICMP message of this type is an error, which quotes the packet that it is about.
    fn quotes(icmp_type: u8) -> bool;

    /// Whether an ICMP message of this type is never answered by an ICMP error: errors, and redirects.
    fn never_answered(icmp_type: u8) -> bool;

    /// Whether the address is one host's, as far as it can be seen: not unspecified, not a group's.
    fn is_one_host(self) -> bool;

    /// Whether the address is good on its own link only.
    fn is_link_local(self) -> bool;

    /// Whether an ICMP message of this type is an echo request.
    fn is_echo(icmp_type: u8) -> bool;

    /// Whether an ICMP message of this type answers an echo request.
    fn is_echo_reply(icmp_type: u8) -> bool;

    /// Writes an IP header without options at `at`, before `length` bytes of `protocol`; `ends` are its source and
    /// its destination.
    fn store_header<E: Packet>(env: &mut E, at: u32, ends: (Self, Self), length: u32, protocol: u8) -> bool;

    /// Adds what [`Wire::behind_sum`] leaves out of a quoted packet at `at` to a sum.
    fn sum_header<E: Packet>(env: &mut E, at: u32, sum: &mut u32) -> bool;

    /// Offset of what has to be summed byte by byte.
    fn behind_sum(headers: &Headers<Self>) -> u32;
}

impl Wire for Ipv4Be {
    const FAMILY: u32 = 4;
    const SOURCE_AT: u32 = 12;
    const DESTINATION_AT: u32 = 16;
    const ICMP: u8 = 1;
    const HEADER: u32 = 20;
    /// RFC 1812, 4.3.2.3: 576 with the new headers.
    const LONGEST_QUOTE: u32 = 576 - 28;

    #[inline(always)]
    fn load<E: Packet>(env: &mut E, at: u32, to: &mut Self) -> bool {
        let mut bytes = [0; 4];
        let whole = env.load(at, &mut bytes);
        *to = Self::from_network_bits(u32::from_ne_bytes(bytes));
        whole
    }

    #[inline(always)]
    fn store<E: Packet>(self, env: &mut E, at: u32) -> bool {
        env.store(at, &self.network_bits().to_ne_bytes())
    }

    #[inline(always)]
    fn difference(self, new: Self) -> u32 {
        checksum::difference(&[self.network_bits()], &[new.network_bits()])
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        [self.network_bits(), 0, 0, 0]
    }

    #[inline(always)]
    fn of_device(device: &proxy_common::DeviceValue) -> Self {
        device.source4
    }

    #[inline(always)]
    fn parse_header<E: Packet>(env: &mut E, quoted: bool, to: &mut Headers<Self>) -> Parsed {
        ipv4::header(env, quoted, to)
    }

    #[inline(always)]
    fn quotes(icmp_type: u8) -> bool {
        // Unreachable, source quench, time exceeded, parameter problem.
        icmp_type == 3 || icmp_type == 4 || icmp_type == 11 || icmp_type == 12
    }

    #[inline(always)]
    fn never_answered(icmp_type: u8) -> bool {
        Self::quotes(icmp_type) || icmp_type == 5
    }

    #[inline(always)]
    fn is_one_host(self) -> bool {
        // Neither 0/8 ("this network") nor multicast, reserved or broadcast.
        let [first, _, _, _] = self.network_bits().to_ne_bytes();
        first != 0 && first < 224
    }

    #[inline(always)]
    fn is_link_local(self) -> bool {
        // RFC 3927, 1.3.
        let [first, second, _, _] = self.network_bits().to_ne_bytes();
        first == 169 && second == 254
    }

    #[inline(always)]
    fn is_echo(icmp_type: u8) -> bool {
        icmp_type == 8
    }

    #[inline(always)]
    fn is_echo_reply(icmp_type: u8) -> bool {
        icmp_type == 0
    }

    #[inline(always)]
    fn store_header<E: Packet>(env: &mut E, at: u32, ends: (Self, Self), length: u32, protocol: u8) -> bool {
        ipv4::store(env, at, ends, length, protocol)
    }

    #[inline(always)]
    fn sum_header<E: Packet>(_env: &mut E, _at: u32, _sum: &mut u32) -> bool {
        true
    }

    #[inline(always)]
    fn behind_sum(headers: &Headers<Self>) -> u32 {
        // Its own checksum makes the header's sum nothing.
        headers.l4
    }
}

impl Wire for Ipv6Be {
    const FAMILY: u32 = 6;
    const SOURCE_AT: u32 = 8;
    const DESTINATION_AT: u32 = 24;
    const ICMP: u8 = 58;
    const HEADER: u32 = 40;
    /// RFC 4443, 2.4 c: the smallest MTU with the new headers.
    const LONGEST_QUOTE: u32 = 1280 - 48;

    #[inline(always)]
    fn load<E: Packet>(env: &mut E, at: u32, to: &mut Self) -> bool {
        let mut bytes = Bytes([0; 16]);
        let whole = env.load(at, &mut bytes.0);
        *to = bytes.address6(0);
        whole
    }

    #[inline(always)]
    fn store<E: Packet>(self, env: &mut E, at: u32) -> bool {
        let [a, b, c, d] = self.network_words().map(u32::to_ne_bytes);
        env.store(
            at,
            &[a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]],
        )
    }

    #[inline(always)]
    fn difference(self, new: Self) -> u32 {
        checksum::difference(&self.network_words(), &new.network_words())
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        self.network_words()
    }

    #[inline(always)]
    fn of_device(device: &proxy_common::DeviceValue) -> Self {
        device.source6
    }

    #[inline(always)]
    fn parse_header<E: Packet>(env: &mut E, quoted: bool, to: &mut Headers<Self>) -> Parsed {
        ipv6::header(env, quoted, to)
    }

    #[inline(always)]
    fn quotes(icmp_type: u8) -> bool {
        // Unreachable, packet too big, time exceeded, parameter problem.
        (1..=4).contains(&icmp_type)
    }

    #[inline(always)]
    fn never_answered(icmp_type: u8) -> bool {
        // RFC 4443, 2.1: errors have the highest bit clear.
        icmp_type < 128 || icmp_type == 137
    }

    #[inline(always)]
    fn is_one_host(self) -> bool {
        let [a, b, c, d] = self.network_words();
        let [first, _, _, _] = a.to_ne_bytes();
        first != 0xff && (a | b | c | d) != 0
    }

    #[inline(always)]
    fn is_link_local(self) -> bool {
        // RFC 4291, 2.5.6.
        let [a, _, _, _] = self.network_words();
        let [first, second, _, _] = a.to_ne_bytes();
        first == 0xfe && second & 0xc0 == 0x80
    }

    #[inline(always)]
    fn is_echo(icmp_type: u8) -> bool {
        icmp_type == 128
    }

    #[inline(always)]
    fn is_echo_reply(icmp_type: u8) -> bool {
        icmp_type == 129
    }

    #[inline(always)]
    fn store_header<E: Packet>(env: &mut E, at: u32, ends: (Self, Self), length: u32, protocol: u8) -> bool {
        ipv6::store(env, at, ends, length, protocol)
    }

    #[inline(always)]
    fn sum_header<E: Packet>(env: &mut E, at: u32, sum: &mut u32) -> bool {
        let mut header = Bytes([0; 40]);
        let whole = env.load(at, &mut header.0);
        *sum = checksum::add(*sum, checksum::sum(&header.0));
        whole
    }

    #[inline(always)]
    fn behind_sum(headers: &Headers<Self>) -> u32 {
        headers.l3 + Self::HEADER
    }
}
