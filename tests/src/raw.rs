//! Packets that no ordinary socket sends: TCP segments from any address, ICMP echo requests.
//!
//! Must not know: Services.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, recv, sendto,
    setsockopt, socket, sockopt,
};

use crate::probe::time_limit;

/// A TCP header without options.
const TCP_HEADER: usize = 20;

/// What a segment says besides its ends.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// The flags of the header (RFC 9293, 3.1), SYN being 2.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
}

/// The flag of the first segment of a connection.
pub const SYN: u8 = 2;
/// The flag of a reset.
pub const RST: u8 = 4;
/// The flag of a segment that acknowledges.
pub const ACK: u8 = 16;

/// Sends TCP segments from addresses of its own choice.
#[derive(Debug)]
pub struct RawSender {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl RawSender {
    /// One in the namespace of the calling thread.
    ///
    /// # Errors
    /// Not root.
    pub fn new() -> io::Result<Self> {
        // IPPROTO_RAW: the sender writes the IP header (raw(7)).
        let open = |family| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        Ok(Self { v4: open(AddressFamily::Inet)?, v6: open(AddressFamily::Inet6)? })
    }

    /// Sends one segment without content.
    ///
    /// # Errors
    /// There is no route, or the families differ.
    pub fn send(&self, from: SocketAddr, to: SocketAddr, segment: Segment) -> io::Result<()> {
        let (fd, flags) = (if to.is_ipv4() { &self.v4 } else { &self.v6 }, MsgFlags::empty());
        let packet = packet(from, to, segment)?;
        // The port must be 0: it would be taken for a protocol.
        match to {
            SocketAddr::V4(to) => {
                sendto(fd.as_raw_fd(), &packet, &SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0)), flags)
            }
            SocketAddr::V6(to) => sendto(
                fd.as_raw_fd(),
                &packet,
                &SockaddrIn6::from(SocketAddrV6::new(*to.ip(), 0, 0, 0)),
                flags,
            ),
        }?;
        Ok(())
    }
}

fn packet(from: SocketAddr, to: SocketAddr, segment: Segment) -> io::Result<Vec<u8>> {
    let mut packet = header(from.ip(), to.ip()).ok_or(io::ErrorKind::InvalidInput)?;
    let mut tcp = Vec::with_capacity(TCP_HEADER);
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(segment.sequence.to_be_bytes());
    tcp.extend(segment.acknowledgement.to_be_bytes());
    // Five words of header, the flags, a window, no checksum yet, no urgent data.
    tcp.extend([5 << 4, segment.flags, 0x40, 0, 0, 0, 0, 0]);
    let sum = checksum(&[&pseudo_header(from.ip(), to.ip()), &tcp]);
    if let Some(place) = tcp.get_mut(16..18) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    packet.extend(tcp);
    Ok(packet)
}

/// The IP header; of IPv4 the kernel fills in length, identification and checksum.
fn header(from: IpAddr, to: IpAddr) -> Option<Vec<u8>> {
    let mut header = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            header.extend([0x60, 0, 0, 0, 0, 20, 6, 64]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        _ => return None,
    }
    Some(header)
}

fn pseudo_header(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let octets = |address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    // Both families come to the same sum: addresses, protocol and length.
    [octets(from), octets(to), vec![0, 6, 0, 20]].concat()
}

/// RFC 1071.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 =
        words.filter_map(|word| word.try_into().ok()).map(|word| u32::from(u16::from_be_bytes(word))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// Sends an ICMP echo request of `length` bytes and says whether the answer came.
///
/// # Errors
/// There is no route, or ping sockets are not allowed in this namespace.
pub fn ping(to: IpAddr, length: usize, patience: Duration) -> io::Result<bool> {
    let (family, protocol, kind) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128),
    };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &time_limit(patience))?;
    // The kernel fills in identification and checksum.
    let mut request = vec![0x5a; length.max(8)];
    if let Some(place) = request.get_mut(..8) {
        place.copy_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 1]);
    }
    let flags = MsgFlags::empty();
    match to {
        IpAddr::V4(to) => {
            sendto(socket.as_raw_fd(), &request, &SockaddrIn::from(SocketAddrV4::new(to, 0)), flags)
        }
        IpAddr::V6(to) => sendto(socket.as_raw_fd(), &request, &SockaddrIn6::from(v6(to)), flags),
    }?;
    let mut answer = vec![0; request.len()];
    let received = recv(socket.as_raw_fd(), &mut answer, flags);
    Ok(received.is_ok_and(|length| length == request.len() && answer.get(8..) == request.get(8..)))
}

fn v6(address: Ipv6Addr) -> SocketAddrV6 {
    SocketAddrV6::new(address, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum over a packet with its checksum in place is that of nothing.
    #[test]
    fn a_segment_is_valid() {
        for (from, to) in [("198.18.0.7:1025", "192.0.2.1:80"), ("[2001:db8::7]:1025", "[2001:db8::1]:80")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let segment = Segment { flags: SYN, sequence: 7, acknowledgement: 0 };
            let packet = packet(from, to, segment).unwrap();
            let tcp = &packet[packet.len() - TCP_HEADER..];
            assert_eq!(checksum(&[&pseudo_header(from.ip(), to.ip()), tcp]), 0);
        }
    }
}
