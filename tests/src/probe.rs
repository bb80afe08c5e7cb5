//! Clients of the echo servers: who answered, whom that saw, and whether everything came back unchanged.
//!
//! Must not know: who should answer.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::echo::Introduction;

/// How long a client waits for an answer; longer than a lost first packet of a TCP connection costs.
pub const PATIENCE: Duration = Duration::from_millis(2_500);

/// What a client got to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The client's own address and port, as its socket says.
    pub client: SocketAddr,
    /// Who answered.
    pub server: SocketAddr,
    /// Whom the server saw.
    pub seen: SocketAddr,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A server answered.
    Answered(Answer),
    /// Refused at once: a reset or a port unreachable, or the errno that stands for it.
    Refused,
    /// No answer, or the errno that stands for it at a socket.
    Silent,
    /// Something that no rule leads to.
    Other(String),
}

impl From<io::Result<Answer>> for Outcome {
    fn from(result: io::Result<Answer>) -> Self {
        match result {
            Ok(answer) => Self::Answered(answer),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Self::Refused,
            // Sheave's answer at a socket for what it drops as a packet.
            Err(error) if error.raw_os_error() == Some(Errno::EHOSTUNREACH as i32) => Self::Silent,
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => Self::Silent,
            Err(error) => Self::Other(error.to_string()),
        }
    }
}

/// A TCP connection to a server that has introduced itself.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// What was said at its start.
    pub answer: Answer,
}

impl Connection {
    /// Connects and reads the introduction.
    ///
    /// # Errors
    /// What a program would get.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        Self::introduced(TcpStream::connect_timeout(&to, PATIENCE)?, to)
    }

    /// The same from a port of the client's choice, which others of its sockets may have too, or from any (0).
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_from(to: SocketAddr, port: u16) -> io::Result<Self> {
        Self::open_within(to, port, PATIENCE)
    }

    /// The same by a client that waits as long as it says for the connection.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_within(to: SocketAddr, port: u16, patience: Duration) -> io::Result<Self> {
        let socket = bound(to, SockType::Stream, port)?;
        setsockopt(&socket, sockopt::SendTimeout, &time_limit(patience))?;
        Self::connected(socket, to)
    }

    /// The same as [`Self::open`] from an address of the client's choice.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_at(to: SocketAddr, from: IpAddr) -> io::Result<Self> {
        let socket = bound_to(SocketAddr::new(from, 0), SockType::Stream)?;
        setsockopt(&socket, sockopt::SendTimeout, &time_limit(PATIENCE))?;
        Self::connected(socket, to)
    }

    fn connected(socket: OwnedFd, to: SocketAddr) -> io::Result<Self> {
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
            // So says a connect with a time limit (socket(7), SO_SNDTIMEO).
            Err(Errno::EINPROGRESS) => return Err(ErrorKind::TimedOut.into()),
            result => result?,
        }
        Self::introduced(socket.into(), to)
    }

    fn introduced(stream: TcpStream, to: SocketAddr) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let Introduction { server, seen } = introduction(&stream)?;
        if stream.peer_addr()? != to {
            return Err(io::Error::other(format!("the peer of {to} shows as {}", stream.peer_addr()?)));
        }
        Ok(Self { answer: Answer { client: stream.local_addr()?, server, seen }, stream })
    }

    /// Ends it with a reset, after which its port can be used again at once.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn reset(self) -> io::Result<()> {
        setsockopt(&self.stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
        Ok(())
    }

    /// Ends its own stream and waits for the end of the server's, which comes after that.
    ///
    /// # Errors
    /// What a program would get, or that the server sent something more.
    pub fn finish(mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        self.read_the_end()
    }

    /// Sends some bytes and expects them back.
    ///
    /// # Errors
    /// What a program would get, or that something else came back.
    pub fn exchange(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        expect(&mut self.stream, bytes)
    }

    /// Sends many bytes while they come back.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub fn transfer(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream_through(bytes, false)
    }

    /// The same as the last thing: its own stream ends after it, and what comes back comes over a half-closed connection.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub fn transfer_last(mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream_through(bytes, true)?;
        self.read_the_end()
    }

    fn read_the_end(&mut self) -> io::Result<()> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        same(&rest, b"")
    }

    fn stream_through(&mut self, bytes: &[u8], last: bool) -> io::Result<()> {
        let mut out = self.stream.try_clone()?;
        thread::scope(|scope| {
            let sender = scope.spawn(move || {
                out.write_all(bytes)?;
                if last { out.shutdown(Shutdown::Write) } else { Ok(()) }
            });
            let received = expect(&mut self.stream, bytes);
            if received.is_err() {
                // Ends the sender too.
                let _ = self.stream.shutdown(Shutdown::Both);
            }
            let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            received.and(sent)
        })
    }
}

/// As socket options want it.
pub(crate) fn time_limit(limit: Duration) -> TimeVal {
    TimeVal::new(limit.as_secs().try_into().unwrap_or(1), limit.subsec_micros().into())
}

fn introduction(stream: &TcpStream) -> io::Result<Introduction> {
    // Without a buffer of its own nothing that follows is lost.
    let mut line = String::new();
    BufReader::with_capacity(1, stream).read_line(&mut line)?;
    if line.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    line.parse()
}

fn expect(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut buffer = vec![0; bytes.len()];
    stream.read_exact(&mut buffer)?;
    same(&buffer, bytes)
}

fn same(got: &[u8], expected: &[u8]) -> io::Result<()> {
    if got == expected {
        return Ok(());
    }
    let place = got.iter().zip(expected).take_while(|(got, expected)| got == expected).count();
    let text = format!("{} bytes instead of {}, different from byte {place} on", got.len(), expected.len());
    Err(io::Error::new(ErrorKind::InvalidData, text))
}

/// Connects, reads the introduction and closes.
///
/// # Errors
/// What a program would get.
pub fn tcp(to: SocketAddr) -> io::Result<Answer> {
    Ok(Connection::open(to)?.answer)
}

/// A UDP socket of the family of `to`, not connected, at any port (0) or at one that others may have too.
///
/// # Errors
/// What a program would get.
pub fn udp_socket(to: SocketAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::from(bound(to, SockType::Datagram, port)?);
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// A UDP socket, not connected, that sends from this address.
///
/// # Errors
/// What a program would get.
pub fn udp_socket_at(from: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::from(bound_to(SocketAddr::new(from, 0), SockType::Datagram)?);
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn bound(to: SocketAddr, kind: SockType, port: u16) -> io::Result<OwnedFd> {
    let any = match to {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    bound_to(SocketAddr::new(any, port), kind)
}

fn bound_to(from: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if from.port() != 0 {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    Ok(socket)
}

/// Asks with a fresh connected socket.
///
/// # Errors
/// What a program would get.
pub fn udp(to: SocketAddr) -> io::Result<Answer> {
    let socket = udp_socket(to, 0)?;
    socket.connect(to)?;
    ask(&socket, b"who?")
}

/// Asks with a fresh connected socket whose packets live for so many hops only, and which hears of all ICMP errors.
///
/// # Errors
/// What a program would get: `EHOSTUNREACH` if a packet lived too short.
pub fn udp_within(to: SocketAddr, hops: u8) -> io::Result<Answer> {
    let socket = udp_socket(to, 0)?;
    match to {
        SocketAddr::V4(_) => {
            setsockopt(&socket, sockopt::Ipv4Ttl, &hops.into())?;
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        }
        SocketAddr::V6(_) => {
            setsockopt(&socket, sockopt::Ipv6Ttl, &hops.into())?;
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        }
    }
    socket.connect(to)?;
    ask(&socket, b"who?")
}

/// Sends `bytes` over a connected socket and expects them back.
///
/// # Errors
/// What a program would get.
pub fn ask(socket: &UdpSocket, bytes: &[u8]) -> io::Result<Answer> {
    socket.send(bytes)?;
    answer(socket, socket.peer_addr()?, bytes)
}

/// Sends `bytes` to `to` and expects them back.
///
/// # Errors
/// What a program would get.
pub fn ask_to(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) -> io::Result<Answer> {
    socket.send_to(bytes, to)?;
    answer(socket, to, bytes)
}

fn answer(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) -> io::Result<Answer> {
    let mut buffer = vec![0; 1 << 16];
    let (length, from) = socket.recv_from(&mut buffer)?;
    if from != to {
        return Err(io::Error::other(format!("an answer of {to} came from {from}")));
    }
    let datagram = buffer.get(..length).unwrap_or_default();
    let end = datagram.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (line, content) = datagram.split_at(end);
    same(content.get(1..).unwrap_or_default(), bytes)?;
    let Introduction { server, seen } = String::from_utf8_lossy(line).parse()?;
    Ok(Answer { client: socket.local_addr()?, server, seen })
}

/// Bytes of which no two neighbouring pieces are alike, so that what is lost, doubled or moved shows.
#[must_use]
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
