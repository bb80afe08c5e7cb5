//! What a packet says, read without the packet path's help.
//!
//! Must not know who sent it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most extension headers that the path steps over.
const EXTENSIONS: usize = 6;

/// The outside of a packet that is whole enough to have ports. Of an echo the identifier is the asking side's port, the
/// other one is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: u8,
    pub hops: u8,
    /// What follows the ports.
    pub rest: Vec<u8>,
}

/// Reads a frame; none if it is no packet with ports.
pub fn seen(frame: &[u8]) -> Option<Seen> {
    let mut at = 12;
    loop {
        match half(frame, at)? {
            0x8100 | 0x88a8 => at += 4,
            0x0800 => return four(frame.get(at + 2..)?),
            0x86dd => return six(frame.get(at + 2..)?),
            _ => return None,
        }
    }
}

/// The addresses of a frame, whatever is in it.
pub fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let mut at = 12;
    while let 0x8100 | 0x88a8 = half(frame, at)? {
        at += 4;
    }
    let packet = frame.get(at + 2..)?;
    if half(frame, at)? == 0x0800 {
        let address = |at: usize| packet.get(at..)?.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes));
        return Some((address(12)?, address(16)?));
    }
    let address = |at: usize| packet.get(at..)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes));
    Some((address(8)?, address(24)?))
}

fn four(packet: &[u8]) -> Option<Seen> {
    let header = usize::from(packet.first()? & 15) * 4;
    if half(packet, 6)? & 0x1fff != 0 {
        return None;
    }
    let address =
        |at: usize| packet.get(at..)?.first_chunk::<4>().map(|bytes| IpAddr::from(Ipv4Addr::from(*bytes)));
    ports(*packet.get(9)?, *packet.get(8)?, address(12)?, address(16)?, packet.get(header..)?)
}

fn six(packet: &[u8]) -> Option<Seen> {
    let address =
        |at: usize| packet.get(at..)?.first_chunk::<16>().map(|bytes| IpAddr::from(Ipv6Addr::from(*bytes)));
    let (source, destination) = (address(8)?, address(24)?);
    let mut protocol = *packet.get(6)?;
    let (mut at, mut headers) = (40, 0);
    while let 0 | 43 | 44 | 51 | 60 = protocol {
        let length = usize::from(*packet.get(at + 1)?);
        let later = protocol == 44 && half(packet, at + 2)? & 0xfff8 != 0;
        let elsewhere = protocol == 43 && *packet.get(at + 3)? != 0;
        headers += 1;
        if later || elsewhere || headers > EXTENSIONS {
            return None;
        }
        let header = match protocol {
            44 => 8,
            51 => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        protocol = *packet.get(at)?;
        at += header;
    }
    ports(protocol, *packet.get(7)?, source, destination, packet.get(at..)?)
}

fn ports(protocol: u8, hops: u8, source: IpAddr, destination: IpAddr, upper: &[u8]) -> Option<Seen> {
    if [1, 58].contains(&protocol) {
        return echo(protocol, hops, source, destination, upper);
    }
    if ![6, 17, 132].contains(&protocol) {
        return None;
    }
    Some(Seen {
        source: SocketAddr::new(source, half(upper, 0)?),
        destination: SocketAddr::new(destination, half(upper, 2)?),
        protocol,
        hops,
        rest: upper.get(4..)?.to_vec(),
    })
}

fn echo(protocol: u8, hops: u8, source: IpAddr, destination: IpAddr, upper: &[u8]) -> Option<Seen> {
    let identifier = half(upper, 4)?;
    let (from, to) = match (protocol, upper.first()?) {
        (1, 8) | (58, 128) => (identifier, 0),
        (1, 0) | (58, 129) => (0, identifier),
        _ => return None,
    };
    let (source, destination) = (SocketAddr::new(source, from), SocketAddr::new(destination, to));
    Some(Seen { source, destination, protocol, hops, rest: upper.get(6..)?.to_vec() })
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}
