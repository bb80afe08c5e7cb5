//! Builds packets: both families, options and extension headers, fragments, VLAN tags, every checksum right.
//!
//! Must not know what a packet is for.

use std::{
    net::{IpAddr, SocketAddr},
    vec,
    vec::Vec,
};

use super::bytes::total;
use crate::{checksum, crc32c, parse};

/// An extension header of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options: so many bytes of padding beyond the first 8, in units of 8.
    HopByHop(u8),
    /// Destination options, likewise.
    DestinationOptions(u8),
    /// A routing header with so many segments left.
    Routing(u8),
    /// An authentication header.
    Authentication,
}

/// A packet to be built. Everything has a default but the two ends and what is sent.
#[derive(Clone, Debug)]
pub struct Frame {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// What follows the IP header, its checksum not yet in it.
    upper: Vec<u8>,
    options: Vec<u8>,
    extensions: Vec<Extension>,
    fragment: Option<(u32, u16, bool)>,
    tags: Vec<u16>,
    link: bool,
    padding: usize,
    dont_fragment: bool,
    hop_limit: u8,
    udp_sum: bool,
}

impl Frame {
    /// Any protocol.
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, upper: Vec<u8>) -> Self {
        Self {
            source,
            destination,
            protocol,
            upper,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            tags: Vec::new(),
            link: true,
            padding: 0,
            dont_fragment: false,
            hop_limit: 60,
            udp_sum: true,
        }
    }

    /// TCP with these flags (the byte at offset 13), sequence and acknowledgement numbers.
    pub fn tcp(
        source: SocketAddr,
        destination: SocketAddr,
        flags: u8,
        numbers: (u32, u32),
        payload: &[u8],
    ) -> Self {
        let mut upper = ports(source, destination);
        upper.extend_from_slice(&numbers.0.to_be_bytes());
        upper.extend_from_slice(&numbers.1.to_be_bytes());
        upper.extend_from_slice(&[5 << 4, flags, 0x20, 0, 0, 0, 0, 0]);
        upper.extend_from_slice(payload);
        Self::new(source.ip(), destination.ip(), parse::TCP, upper)
    }

    /// UDP.
    pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Self {
        let mut upper = ports(source, destination);
        upper.extend_from_slice(&half(8 + payload.len()));
        upper.extend_from_slice(&[0, 0]);
        upper.extend_from_slice(payload);
        Self::new(source.ip(), destination.ip(), parse::UDP, upper)
    }

    /// SCTP; `chunks` follow the common header.
    pub fn sctp(source: SocketAddr, destination: SocketAddr, chunks: &[u8]) -> Self {
        let mut upper = ports(source, destination);
        upper.extend_from_slice(&[0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 0]);
        upper.extend_from_slice(chunks);
        Self::new(source.ip(), destination.ip(), parse::SCTP, upper)
    }

    /// ICMP or ICMPv6, by the family of the addresses; `rest` is the header's second word.
    pub fn icmp(source: IpAddr, destination: IpAddr, kind: (u8, u8), rest: u32, body: &[u8]) -> Self {
        let mut upper = vec![kind.0, kind.1, 0, 0];
        upper.extend_from_slice(&rest.to_be_bytes());
        upper.extend_from_slice(body);
        Self::new(source, destination, if source.is_ipv4() { 1 } else { 58 }, upper)
    }

    /// With TCP options (a multiple of 4 bytes, at most 40).
    #[must_use]
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        let header = 20 + options.len();
        self.upper.splice(20..20, options.iter().copied());
        if let Some(byte) = self.upper.get_mut(12) {
            *byte = u8::try_from(header / 4).unwrap_or(15) << 4;
        }
        self
    }

    /// With IPv4 options (a multiple of 4 bytes, at most 40).
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// With one more IPv6 extension header.
    #[must_use]
    pub fn extension(mut self, extension: Extension) -> Self {
        self.extensions.push(extension);
        self
    }

    /// With one more VLAN tag of this type in the packet.
    #[must_use]
    pub fn tag(mut self, ethertype: u16) -> Self {
        self.tags.push(ethertype);
        self
    }

    /// Without link layer.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.link = false;
        self
    }

    /// With bytes behind the IP packet.
    #[must_use]
    pub fn padding(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    /// Not to be fragmented (IPv4).
    #[must_use]
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// With another time to live or hop limit.
    #[must_use]
    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    /// UDP without a checksum.
    #[must_use]
    pub fn without_udp_sum(mut self) -> Self {
        self.udp_sum = false;
        self
    }

    /// The packet's bytes.
    pub fn build(&self) -> Vec<u8> {
        self.wrap(&self.summed())
    }

    /// The packet in two fragments, the first with `first` bytes (a multiple of 8) of what follows the IP header.
    pub fn fragments(&self, identification: u32, first: u16) -> (Vec<u8>, Vec<u8>) {
        let upper = self.summed();
        let (head, tail) = upper.split_at(usize::from(first).min(upper.len()));
        let part = |offset, more, bytes: &[u8]| {
            Self { fragment: Some((identification, offset, more)), ..self.clone() }.wrap(bytes)
        };
        (part(0, true, head), part(first, false, tail))
    }

    /// IPv6: with a fragment header that says "first and last" (RFC 6946).
    #[must_use]
    pub fn atomic(mut self, identification: u32) -> Self {
        self.fragment = Some((identification, 0, false));
        self
    }

    /// What follows the IP header, with its checksum.
    fn summed(&self) -> Vec<u8> {
        let mut upper = self.upper.clone();
        let pseudo = pseudo_sum(self.source, self.destination, upper.len(), self.protocol);
        match (self.protocol, self.source.is_ipv4()) {
            (parse::TCP, _) => put_sum(&mut upper, 16, pseudo),
            (parse::UDP, _) if self.udp_sum => {
                put_sum(&mut upper, 6, pseudo);
                if upper.get(6..8) == Some(&[0, 0]) {
                    put(&mut upper, 6, &[0xff, 0xff]);
                }
            }
            (parse::SCTP, _) => {
                let crc = crc32c::crc32c(&upper);
                put(&mut upper, 8, &crc.to_le_bytes());
            }
            (1, true) => put_sum(&mut upper, 2, 0),
            (58, false) => put_sum(&mut upper, 2, pseudo),
            _ => {}
        }
        upper
    }

    fn wrap(&self, upper: &[u8]) -> Vec<u8> {
        let mut bytes = self.link_header();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend(self.header4(&source.octets(), &destination.octets(), upper.len()));
            }
            _ => bytes.extend(self.header6(upper.len())),
        }
        bytes.extend_from_slice(upper);
        bytes.resize(bytes.len() + self.padding, 0xaa);
        bytes
    }

    fn link_header(&self) -> Vec<u8> {
        if !self.link {
            return Vec::new();
        }
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            bytes.extend_from_slice(&tag.to_be_bytes());
            bytes.extend_from_slice(&[0, 7]);
        }
        bytes.extend_from_slice(if self.source.is_ipv4() { &[8, 0] } else { &[0x86, 0xdd] });
        bytes
    }

    fn header4(&self, source: &[u8], destination: &[u8], upper: usize) -> Vec<u8> {
        let header = 20 + self.options.len();
        let (identification, offset, more) = self.fragment.unwrap_or_default();
        let flags = (u16::from(more) << 13) | (u16::from(self.dont_fragment) << 14) | (offset / 8);
        let mut bytes = vec![0x40 | u8::try_from(header / 4).unwrap_or(15), 0];
        bytes.extend_from_slice(&half(header + upper));
        bytes.extend_from_slice(&half(identification as usize));
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&[self.hop_limit, self.protocol, 0, 0]);
        bytes.extend_from_slice(source);
        bytes.extend_from_slice(destination);
        bytes.extend_from_slice(&self.options);
        put_sum(&mut bytes, 10, 0);
        bytes
    }

    fn header6(&self, upper: usize) -> Vec<u8> {
        let (first, extensions) = self.extension_headers();
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend_from_slice(&half(extensions.len() + upper));
        bytes.extend_from_slice(&[first, self.hop_limit]);
        bytes.extend_from_slice(&octets(self.source));
        bytes.extend_from_slice(&octets(self.destination));
        bytes.extend(extensions);
        bytes
    }

    /// The number of the first header behind the fixed one, and all extension headers. A fragment header comes last.
    fn extension_headers(&self) -> (u8, Vec<u8>) {
        let mut next = self.protocol;
        let mut bytes = Vec::new();
        if let Some((identification, offset, more)) = self.fragment {
            let mut header = vec![next, 0];
            header.extend_from_slice(&(offset | u16::from(more)).to_be_bytes());
            header.extend_from_slice(&identification.to_be_bytes());
            (next, bytes) = (44, header);
        }
        for extension in self.extensions.iter().rev() {
            let (number, mut header) = extension_header(*extension, next);
            header.extend(bytes);
            (next, bytes) = (number, header);
        }
        (next, bytes)
    }
}

fn extension_header(extension: Extension, next: u8) -> (u8, Vec<u8>) {
    let options = |units: u8| {
        let body = 6 + usize::from(units) * 8;
        let mut header = vec![next, units, 1, u8::try_from(body - 2).unwrap_or(u8::MAX)];
        header.resize(body + 2, 0);
        header
    };
    match extension {
        Extension::HopByHop(units) => (0, options(units)),
        Extension::DestinationOptions(units) => (60, options(units)),
        Extension::Routing(left) => (43, vec![next, 0, 4, left, 0, 0, 0, 0]),
        Extension::Authentication => {
            let mut header = vec![next, 4, 0, 0];
            header.resize(24, 0x5a);
            (51, header)
        }
    }
}

fn ports(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat()
}

fn half(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(0).to_be_bytes()
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1).
pub(super) fn pseudo_sum(source: IpAddr, destination: IpAddr, length: usize, protocol: u8) -> u32 {
    let length = u32::try_from(length).unwrap_or(0).to_be_bytes();
    total(&[octets(source), octets(destination), length.to_vec(), vec![0, 0, 0, protocol]].concat())
}

fn put_sum(bytes: &mut [u8], at: usize, pseudo: u32) {
    put(bytes, at, &[0, 0]);
    let sum = checksum::finish(checksum::add(total(bytes), pseudo));
    put(bytes, at, &sum.to_ne_bytes());
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + new.len()) {
        place.copy_from_slice(new);
    }
}
