//! Servers that say who they are and whom they see, and then send back whatever they get.
//!
//! The first line of an answer is `OWN PEER`: the address and port that the server was reached at, and those that it
//! takes for the client's. Must not know: Services.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{Shutdown as How, shutdown};

use crate::topology::Place;

/// A connection on which nothing happens for so long is given up.
const IDLE: Duration = Duration::from_mins(2);
/// How long a UDP server waits before it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// TCP and UDP servers on both addresses of a place. Dropping it stops them.
#[derive(Debug)]
pub struct EchoServer {
    stop: Arc<AtomicBool>,
    listeners: Vec<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

impl EchoServer {
    /// Starts all four at `place`.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(place: &Place, port: u16) -> Result<Self> {
        let mut server = Self { stop: Arc::default(), listeners: Vec::new(), threads: Vec::new() };
        for address in place.addresses.both() {
            server
                .listen(place, address, port)
                .with_context(|| format!("{} cannot listen on {address} port {port}", place.name))?;
        }
        Ok(server)
    }

    fn listen(&mut self, place: &Place, address: IpAddr, port: u16) -> Result<()> {
        let (tcp, udp) = place.run(|| -> io::Result<_> {
            Ok((TcpListener::bind((address, port))?, UdpSocket::bind((address, port))?))
        })?;
        udp.set_read_timeout(Some(LOOK))?;
        self.listeners.push(tcp.try_clone()?);
        let stop = Arc::clone(&self.stop);
        self.threads.push(place.spawn(move || serve_tcp(&tcp, &stop))?);
        let stop = Arc::clone(&self.stop);
        self.threads.push(place.spawn(move || serve_udp(&udp, &stop))?);
        Ok(())
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            // Wakes `accept`.
            let _ = shutdown(listener.as_raw_fd(), How::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, stop: &AtomicBool) {
    for stream in listener.incoming() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(stream) = stream {
            // Inherits namespace and group.
            std::thread::spawn(move || echo(stream));
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    stream.write_all(introduction(stream.local_addr()?, stream.peer_addr()?).as_bytes())?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Both),
            length => stream.write_all(buffer.get(..length).unwrap_or_default())?,
        }
    }
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool) {
    let Ok(own) = socket.local_addr() else { return };
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        // Errors are those of earlier answers to clients that have gone.
        if let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let mut answer = introduction(own, client).into_bytes();
            answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
            let _ = socket.send_to(&answer, client);
        }
    }
}

fn introduction(own: SocketAddr, peer: SocketAddr) -> String {
    format!("{own} {peer}\n")
}

/// What a server says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    /// Who it is.
    pub server: SocketAddr,
    /// Whom it takes for the client.
    pub seen: SocketAddr,
}

impl FromStr for Introduction {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Self> {
        let parse = || {
            let (server, seen) = line.trim_end().split_once(' ')?;
            Some(Self { server: server.parse().ok()?, seen: seen.parse().ok()? })
        };
        parse()
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("not an introduction: {line:?}")))
    }
}
