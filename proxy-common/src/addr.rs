//! Addresses and ports in network byte order, and the only byte-order conversions of the project.
//!
//! Must not know what an address is used for.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::check::Mix;

/// Numbers in packets: network byte order to and from host byte order, and the little-endian CRC of SCTP.
pub mod wire {
    /// A 16-bit number from its bytes in network byte order.
    #[inline(always)]
    pub const fn half(bytes: [u8; 2]) -> u16 {
        u16::from_be_bytes(bytes)
    }

    /// A 32-bit number from its bytes in network byte order.
    #[inline(always)]
    pub const fn word(bytes: [u8; 4]) -> u32 {
        u32::from_be_bytes(bytes)
    }

    /// A 16-bit number as bytes in network byte order.
    #[inline(always)]
    pub const fn half_bytes(number: u16) -> [u8; 2] {
        number.to_be_bytes()
    }

    /// A 32-bit number as bytes in network byte order.
    #[inline(always)]
    pub const fn word_bytes(number: u32) -> [u8; 4] {
        number.to_be_bytes()
    }

    /// A 32-bit number from its bytes in the order of SCTP's CRC32c (RFC 9260, appendix A): the lowest first.
    #[inline(always)]
    pub const fn crc(bytes: [u8; 4]) -> u32 {
        u32::from_le_bytes(bytes)
    }

    /// A CRC32c as SCTP has it.
    #[inline(always)]
    pub const fn crc_bytes(number: u32) -> [u8; 4] {
        number.to_le_bytes()
    }
}

/// A port in network byte order, as sockets and packets carry it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PortBe(u16);

impl PortBe {
    /// Port 0: "any port" in an address record.
    pub const ANY: Self = Self(0);

    /// From a port number in host byte order.
    #[inline(always)]
    pub const fn from_host(port: u16) -> Self {
        Self(port.to_be())
    }

    /// From the bits of a field that is already in network byte order.
    #[inline(always)]
    pub const fn from_network_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The bits in network byte order, for a kernel structure.
    #[inline(always)]
    pub const fn network_bits(self) -> u16 {
        self.0
    }

    /// The port number in host byte order.
    #[inline(always)]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// An IPv4 address in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ipv4Be(u32);

/// An IPv6 address in network byte order, as four 32-bit words so that a context's words can be copied one by one.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ipv6Be([u32; 4]);

/// The `ffff` word of an IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2), in network byte order.
const MAPPED_WORD: u32 = 0xffff_u32.to_be();

/// What the code that serves both families needs to know of an address.
pub trait Address: Copy + Eq {
    /// The unspecified address.
    const UNSPECIFIED: Self;

    /// Adds the address to a check word.
    fn mix(self, mix: Mix) -> Mix;

    /// Whether it is a loopback address (127.0.0.0/8, ::1).
    fn is_loopback(self) -> bool;

    /// The address as one word, to be spread over a filter: of IPv4 the address itself, so that the upper half is free.
    fn fold(self) -> u64;

    /// The address as IPv6: itself, or IPv4-mapped. Per-socket state is kept in this one form.
    fn to_mapped(self) -> Ipv6Be;
}

impl Address for Ipv4Be {
    const UNSPECIFIED: Self = Self(0);

    #[inline(always)]
    fn mix(self, mix: Mix) -> Mix {
        mix.word(self.0)
    }

    #[inline(always)]
    fn fold(self) -> u64 {
        u64::from(self.0)
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        u32::from_be(self.0) >> 24 == 127
    }

    #[inline(always)]
    fn to_mapped(self) -> Ipv6Be {
        Ipv6Be([0, 0, MAPPED_WORD, self.0])
    }
}

impl Address for Ipv6Be {
    const UNSPECIFIED: Self = Self([0; 4]);

    #[inline(always)]
    fn mix(self, mix: Mix) -> Mix {
        let [a, b, c, d] = self.0;
        mix.word(a).word(b).word(c).word(d)
    }

    #[inline(always)]
    fn fold(self) -> u64 {
        // The halves differently, or those of one prefix would be told by the sum alone. An odd number without a pattern.
        let [a, b, c, d] = self.0.map(u64::from);
        (a | b << 32).wrapping_mul(0xc2b2_ae3d_27d4_eb4f) ^ (c | d << 32)
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0 == [0, 0, 0, 1_u32.to_be()]
    }

    #[inline(always)]
    fn to_mapped(self) -> Ipv6Be {
        self
    }
}

impl Ipv4Be {
    /// From the bits of a field that is already in network byte order.
    #[inline(always)]
    pub const fn from_network_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits in network byte order, for a kernel structure.
    #[inline(always)]
    pub const fn network_bits(self) -> u32 {
        self.0
    }
}

impl Ipv6Be {
    /// From four words that are already in network byte order.
    #[inline(always)]
    pub const fn from_network_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The four words in network byte order, for a kernel structure.
    #[inline(always)]
    pub const fn network_words(self) -> [u32; 4] {
        self.0
    }

    /// The IPv4 address inside an IPv4-mapped address (`::ffff:a.b.c.d`), if it is one.
    #[inline(always)]
    pub fn mapped(self) -> Option<Ipv4Be> {
        let [a, b, c, d] = self.0;
        (a == 0 && b == 0 && c == MAPPED_WORD).then_some(Ipv4Be(d))
    }
}

impl From<Ipv4Addr> for Ipv4Be {
    fn from(address: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ipv4Be> for Ipv4Addr {
    fn from(address: Ipv4Be) -> Self {
        Self::from(address.0.to_ne_bytes())
    }
}

impl From<Ipv6Addr> for Ipv6Be {
    fn from(address: Ipv6Addr) -> Self {
        let [a, b, c, d, e, f, g, h] = address.segments();
        let word = |high: u16, low: u16| ((u32::from(high) << 16) | u32::from(low)).to_be();
        Self([word(a, b), word(c, d), word(e, f), word(g, h)])
    }
}

impl From<Ipv6Be> for Ipv6Addr {
    fn from(address: Ipv6Be) -> Self {
        let [a, b, c, d] = address.0.map(u32::from_be);
        let bits = (u128::from(a) << 96) | (u128::from(b) << 64) | (u128::from(c) << 32) | u128::from(d);
        Self::from_bits(bits)
    }
}

impl From<Ipv4Be> for IpAddr {
    fn from(address: Ipv4Be) -> Self {
        Self::V4(address.into())
    }
}

impl From<Ipv6Be> for IpAddr {
    /// An IPv4-mapped address becomes the IPv4 address that a person means.
    fn from(address: Ipv6Be) -> Self {
        match address.mapped() {
            Some(v4) => Self::V4(v4.into()),
            None => Self::V6(address.into()),
        }
    }
}

mod display {
    use core::fmt::{Display, Formatter, Result};

    use super::{Ipv4Addr, Ipv4Be, Ipv6Addr, Ipv6Be, PortBe};

    impl Display for Ipv4Be {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            Ipv4Addr::from(*self).fmt(f)
        }
    }

    impl Display for Ipv6Be {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            Ipv6Addr::from(*self).fmt(f)
        }
    }

    impl Display for PortBe {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            self.to_host().fmt(f)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_network_byte_order_in_memory() {
        let v4 = Ipv4Be::from(Ipv4Addr::new(10, 96, 0, 1));
        assert_eq!(v4.network_bits().to_ne_bytes(), [10, 96, 0, 1]);
        assert_eq!(Ipv4Addr::from(v4), Ipv4Addr::new(10, 96, 0, 1));
        let text: Ipv6Addr = "2001:db8::1:2:3".parse().unwrap();
        let v6 = Ipv6Be::from(text);
        let bytes: Vec<u8> = v6.network_words().iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes, text.octets());
        assert_eq!(Ipv6Addr::from(v6), text);
    }

    #[test]
    fn ports_convert_both_ways() {
        assert_eq!(PortBe::from_host(80).network_bits().to_ne_bytes(), [0, 80]);
        assert_eq!(PortBe::from_host(30_080).to_host(), 30_080);
    }

    #[test]
    fn only_mapped_addresses_hold_an_ipv4_address() {
        let v4 = Ipv4Be::from(Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(v4.to_mapped().mapped(), Some(v4));
        let plain: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_eq!(Ipv6Be::from(plain).mapped(), None);
        assert_eq!(IpAddr::from(v4.to_mapped()), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));
    }
}
