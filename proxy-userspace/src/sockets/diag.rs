//! sock_diag messages (linux/sock_diag.h, linux/inet_diag.h): list connected UDP sockets, destroy one.
//!
//! netlink-packet-sock-diag 0.5 has neither SOCK_DESTROY nor a way to send back a socket's identity unchanged, so the
//! two requests are written here. Must not know which sockets are to be destroyed.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use proxy_common::PortBe;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// `nlmsghdr`: length, type, flags, sequence number, port; each in host byte order.
const HEADER: usize = 16;
/// `inet_diag_sockid`.
const IDENTITY: usize = 48;
/// Header and `inet_diag_req_v2`, whose last 48 bytes are the identity.
const REQUEST_LENGTH: u16 = 72;
/// `TCP_ESTABLISHED`, which a connected UDP socket has, too, as a bit.
const ESTABLISHED: u32 = 1 << 1;
const UDP: u8 = 17;
/// Receive buffer: a dump comes in pieces of up to 32 KiB.
const BUFFER: usize = 64 * 1024;

/// A family of sockets. IPv6 sockets include those that talk IPv4 through IPv4-mapped addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// A connected socket as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connected {
    family: Family,
    /// `inet_diag_sockid` as it came: the kernel wants it back the same.
    identity: [u8; IDENTITY],
}

/// Sends requests in the network namespace in which it was opened.
pub(super) struct Diag {
    socket: Socket,
    sequence: u32,
}

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Calls `visit` for every connected UDP socket of the family; `port` restricts to peers with that port.
    pub(super) fn connected_udp(
        &mut self,
        family: Family,
        port: Option<u16>,
        mut visit: impl FnMut(Connected),
    ) -> io::Result<()> {
        self.sequence += 1;
        let request = list_request(family, port, self.sequence);
        self.socket.send(&request, 0)?;
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            for message in Messages(&buffer).filter(|message| message.sequence == self.sequence) {
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return error_of(message.payload),
                    SOCK_DIAG_BY_FAMILY => Connected::parse(message.payload).into_iter().for_each(&mut visit),
                    _ => {}
                }
            }
        }
    }

    /// Ends one socket: a waiting receive says ECONNABORTED, and it has no peer any more. `NotFound` if it is gone or became another one.
    pub(super) fn destroy(&mut self, socket: &Connected) -> io::Result<()> {
        self.sequence += 1;
        self.socket.send(&destroy_request(socket, self.sequence), 0)?;
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            let mut answers = Messages(&buffer).filter(|message| message.sequence == self.sequence);
            if let Some(answer) = answers.find(|message| message.kind == NLMSG_ERROR) {
                return error_of(answer.payload);
            }
        }
    }
}

fn list_request(family: Family, port: Option<u16>, sequence: u32) -> Vec<u8> {
    let mut identity = [0; IDENTITY];
    if let (Some(port), Some(place)) = (port, identity.get_mut(2..4)) {
        place.copy_from_slice(&PortBe::from_host(port).network_bits().to_ne_bytes());
    }
    request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, sequence, &Connected { family, identity })
}

fn destroy_request(socket: &Connected, sequence: u32) -> Vec<u8> {
    request(SOCK_DESTROY, NLM_F_ACK, sequence, socket)
}

/// `nlmsghdr`, then `inet_diag_req_v2`: family, protocol, extensions, padding, states, identity.
fn request(kind: u16, flags: u16, sequence: u32, socket: &Connected) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::from(REQUEST_LENGTH));
    bytes.extend(u32::from(REQUEST_LENGTH).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([socket.family.number(), UDP, 0, 0]);
    bytes.extend(ESTABLISHED.to_ne_bytes());
    bytes.extend(socket.identity);
    bytes
}

/// The error in an `nlmsgerr`; number 0 acknowledges.
fn error_of(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk().map(|number| i32::from_ne_bytes(*number)) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.saturating_neg())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// One netlink message.
struct Message<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// The messages of one datagram; ends at the first that is cut off.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let bytes = self.0;
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
        let payload = bytes.get(HEADER..length)?;
        // Messages begin at multiples of 4.
        self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, sequence, payload })
    }
}

impl Connected {
    /// From an `inet_diag_msg`: family, state, timer, retransmits, identity, ...
    fn parse(payload: &[u8]) -> Option<Self> {
        let family =
            [Family::V4, Family::V6].into_iter().find(|family| Some(&family.number()) == payload.first())?;
        let identity = payload.get(4..4 + IDENTITY)?.try_into().ok()?;
        Some(Self { family, identity })
    }

    /// Where the socket really sends to; an IPv4-mapped address as IPv4.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        let port = PortBe::from_network_bits(u16::from_ne_bytes(self.bytes(2)?)).to_host();
        let address: IpAddr = match self.family {
            Family::V4 => Ipv4Addr::from(self.bytes::<4>(20)?).into(),
            Family::V6 => Ipv6Addr::from(self.bytes::<16>(20)?).to_canonical(),
        };
        Some(SocketAddr::new(address, port))
    }

    /// The socket's cookie: never given to another socket.
    pub(super) fn cookie(&self) -> Option<u64> {
        let low = u32::from_ne_bytes(self.bytes(40)?);
        let high = u32::from_ne_bytes(self.bytes(44)?);
        Some(u64::from(high) << 32 | u64::from(low))
    }

    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.identity.get(at..)?.first_chunk().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// An answer of the kernel: one IPv4 socket 127.0.0.1:45532 -> 127.0.0.1:51388 with cookie 0x2_0000_0001.
    fn answer() -> Vec<u8> {
        let mut payload = vec![2, 1, 0, 0];
        payload.extend(45532_u16.to_be_bytes());
        payload.extend(51388_u16.to_be_bytes());
        payload.extend([127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        payload.extend([127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        payload.extend(0_u32.to_ne_bytes());
        payload.extend(1_u32.to_ne_bytes());
        payload.extend(2_u32.to_ne_bytes());
        payload.extend([0; 20]);
        payload
    }

    fn framed(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0, 0]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_socket_is_read_from_the_kernels_answer() {
        let socket = Connected::parse(&answer()).unwrap();
        assert_eq!(socket.peer(), Some("127.0.0.1:51388".parse().unwrap()));
        assert_eq!(socket.cookie(), Some(0x2_0000_0001));
    }

    #[test]
    fn a_mapped_peer_is_an_ipv4_address() {
        let mut payload = answer();
        payload[0] = 10;
        payload[24..40].copy_from_slice(&Ipv4Addr::new(10, 0, 0, 9).to_ipv6_mapped().octets());
        let socket = Connected::parse(&payload).unwrap();
        assert_eq!(socket.peer(), Some("10.0.0.9:51388".parse().unwrap()));
    }

    #[test]
    fn cut_off_and_foreign_answers_are_left_out() {
        let whole = answer();
        assert!((0..52).all(|length| Connected::parse(&whole[..length]).is_none()));
        assert!(Connected::parse(&[1; 72]).is_none());
        let bytes = [framed(SOCK_DIAG_BY_FAMILY, 1, &whole), framed(NLMSG_DONE, 1, &[0; 3])].concat();
        let kinds = |bytes: &[u8]| Messages(bytes).map(|message| message.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&bytes), [SOCK_DIAG_BY_FAMILY, NLMSG_DONE]);
        assert_eq!(kinds(&bytes[..bytes.len() - 4]), [SOCK_DIAG_BY_FAMILY]);
        assert!(kinds(&[0; 40]).is_empty(), "a length below the header's ends the datagram");
    }

    #[test]
    fn the_destroy_request_carries_the_identity_unchanged() {
        let socket = Connected::parse(&answer()).unwrap();
        let bytes = destroy_request(&socket, 7);
        assert_eq!(bytes.len(), 72);
        assert_eq!(bytes[4..8], [21, 0, 5, 0]);
        assert_eq!(bytes[16..18], [2, UDP]);
        assert_eq!(bytes[24..], answer()[4..52]);
        let list = list_request(Family::V6, Some(53), 8);
        assert_eq!(list[24..28], [0, 0, 0, 53]);
    }

    #[test]
    fn errors_of_the_kernel_are_errors() {
        error_of(&0_i32.to_ne_bytes()).unwrap();
        assert_eq!(error_of(&(-2_i32).to_ne_bytes()).unwrap_err().kind(), io::ErrorKind::NotFound);
        error_of(&[1]).unwrap_err();
    }

    #[test]
    fn a_connected_socket_of_this_process_is_listed() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        client.connect(target).unwrap();
        let mut peers = Vec::new();
        let mut diag = Diag::open().unwrap();
        diag.connected_udp(Family::V4, Some(target.port()), |socket| peers.extend(socket.peer())).unwrap();
        assert_eq!(peers, [target]);
    }
}
