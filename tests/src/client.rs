//! What a program does with a socket, from inside some namespace: connect, send, and say who answered.
//!
//! Must not know: which backends there should be.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Connects, reads the server's name and returns it with the peer that the socket shows.
///
/// # Errors
/// The errno that a program would see.
pub fn ask_tcp(to: SocketAddr) -> io::Result<(String, SocketAddr)> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    let peer = stream.peer_addr()?;
    Ok((read_name(&mut stream)?, peer))
}

/// Reads the name that a server sends first.
///
/// # Errors
/// The errno that a program would see.
pub fn read_name(stream: &mut TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 64];
    let length = stream.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
}

/// A UDP socket of the destination's family, not connected.
///
/// # Errors
/// The errno that a program would see.
pub fn udp_socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Connects a UDP socket.
///
/// # Errors
/// The errno that a program would see.
pub fn connected_udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = udp_socket(to)?;
    socket.connect(to)?;
    Ok(socket)
}

/// Sends to `to` without connecting; returns who answered and from where the answer seems to come.
///
/// # Errors
/// The errno that a program would see.
pub fn ask_udp(socket: &UdpSocket, to: SocketAddr) -> io::Result<(String, SocketAddr)> {
    socket.send_to(b"who?", to)?;
    answer(socket)
}

/// Asks over a connected UDP socket.
///
/// # Errors
/// The errno that a program would see.
pub fn ask_connected(socket: &UdpSocket) -> io::Result<(String, SocketAddr)> {
    socket.send(b"who?")?;
    answer(socket)
}

fn answer(socket: &UdpSocket) -> io::Result<(String, SocketAddr)> {
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned(), from))
}

/// The IPv4-mapped form of an IPv4 address, for an IPv6 socket.
#[must_use]
pub fn mapped(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_ipv6_mapped().into(), port)
}
