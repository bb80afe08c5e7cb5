//! Servers that answer with their own name: whoever reads the answer knows which backend was reached.
//!
//! Must not know: Services.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// A TCP and a UDP server on one address and port. Dropping it stops both.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts both servers inside `netns`.
    ///
    /// A TCP client gets the name at once and then an echo of what it sends; each datagram is answered with the name.
    ///
    /// # Errors
    /// The address is not there or the port is taken.
    pub fn start(netns: &Netns, name: &str, address: IpAddr, port: u16) -> Result<Self> {
        let address = SocketAddr::new(address, port);
        let (tcp, udp) = netns
            .run(|| -> Result<_> { Ok((TcpListener::bind(address)?, UdpSocket::bind(address)?)) })
            .with_context(|| format!("server {name} cannot listen on {address}"))?;
        udp.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let threads = vec![
            netns.spawn(tcp_loop(tcp, name.to_owned(), Arc::clone(&stop)))?,
            netns.spawn(udp_loop(udp, name.to_owned(), Arc::clone(&stop)))?,
            netns.spawn(wake_on_stop(address, Arc::clone(&stop)))?,
        ];
        Ok(Self { address, stop, threads })
    }

    /// Starts only the UDP server inside `netns`.
    ///
    /// # Errors
    /// The address is not there or the port is taken.
    pub fn start_udp(netns: &Netns, name: &str, address: IpAddr, port: u16) -> Result<Self> {
        let address = SocketAddr::new(address, port);
        let udp = netns.run(|| UdpSocket::bind(address))?;
        udp.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let threads = vec![netns.spawn(udp_loop(udp, name.to_owned(), Arc::clone(&stop)))?];
        Ok(Self { address, stop, threads })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn tcp_loop(listener: TcpListener, name: String, stop: Arc<AtomicBool>) -> impl FnOnce() {
    move || {
        for stream in listener.incoming() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if let Ok(stream) = stream {
                answer(stream, &name);
            }
        }
    }
}

/// Sends the name; a client that keeps the connection open gets a thread that echoes.
fn answer(mut stream: TcpStream, name: &str) {
    if stream.write_all(name.as_bytes()).is_err()
        || stream.set_read_timeout(Some(Duration::from_secs(20))).is_err()
    {
        return;
    }
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
                return;
            }
        }
    });
}

fn udp_loop(socket: UdpSocket, name: String, stop: Arc<AtomicBool>) -> impl FnOnce() {
    move || {
        let mut buffer = [0; 1024];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), client);
            }
        }
    }
}

/// `accept` waits for ever: one connection more wakes it.
fn wake_on_stop(address: SocketAddr, stop: Arc<AtomicBool>) -> impl FnOnce() {
    move || {
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
    }
}
