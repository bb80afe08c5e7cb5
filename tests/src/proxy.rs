//! A TCP proxy that stands between the agent and the API server and misbehaves on command, as load
//! balancers and firewalls do.
//!
//! Must not know: what is said on the connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::netns::Netns;

const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// What the proxy does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Forward,
    /// Connections opened before this mode's number was given go silent and stay open.
    Silent(u64),
    /// Every connection is closed, new ones at once.
    Refuse,
}

/// Listens on 127.0.0.1 until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    opened: Arc<AtomicU64>,
    // Last: its end closes every connection.
    _runtime: Runtime,
}

impl Proxy {
    /// Starts to forward to `port` on 127.0.0.1.
    ///
    /// # Errors
    /// No thread or no socket can be had.
    pub fn start(port: u16) -> Result<Self> {
        Self::forward_from(std::net::TcpListener::bind(ANY_PORT)?, port)
    }

    /// Listens on the loopback device of `netns` and forwards to `port` on 127.0.0.1 of the test's own namespace: so a
    /// program inside reaches a server outside although no device connects them.
    ///
    /// # Errors
    /// As [`Proxy::start`].
    pub fn start_inside(netns: &Netns, port: u16) -> Result<Self> {
        Self::forward_from(netns.run(|| std::net::TcpListener::bind(ANY_PORT))?, port)
    }

    fn forward_from(listener: std::net::TcpListener, port: u16) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        listener.set_nonblocking(true)?;
        let listener = runtime.block_on(async { TcpListener::from_std(listener) })?;
        let (mode, receiver) = watch::channel(Mode::Forward);
        let opened = Arc::new(AtomicU64::new(0));
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let own_port = listener.local_addr()?.port();
        runtime.spawn(accept(listener, target, receiver, Arc::clone(&opened)));
        Ok(Self { port: own_port, mode, opened, _runtime: runtime })
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections it has taken so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// From now on nothing passes on the connections that are open, and neither side is told. The
    /// kernel still acknowledges what is sent, as the near side of a load balancer does. New
    /// connections work.
    pub fn silence_open_connections(&self) {
        self.mode.send_replace(Mode::Silent(self.connections()));
    }

    /// Closes every connection and lets none through.
    pub fn refuse(&self) {
        self.mode.send_replace(Mode::Refuse);
    }

    /// Lets new connections through again.
    pub fn forward(&self) {
        self.mode.send_replace(Mode::Forward);
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    mode: watch::Receiver<Mode>,
    opened: Arc<AtomicU64>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let number = opened.fetch_add(1, Ordering::SeqCst);
        if *mode.borrow() != Mode::Refuse {
            tokio::spawn(serve(client, target, number, mode.clone()));
        }
    }
}

/// Both directions of one connection, until it ends or the mode stops it.
async fn serve(mut client: TcpStream, target: SocketAddr, number: u64, mut mode: watch::Receiver<Mode>) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let stopped = mode.wait_for(|mode| match mode {
        Mode::Forward => false,
        Mode::Silent(opened) => number < *opened,
        Mode::Refuse => true,
    });
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        stopped = stopped => if stopped.is_ok_and(|mode| *mode == Mode::Refuse) { return },
    }
    // Silent for good: both sockets stay open and unread.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::Proxy;

    fn echo_server() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(4) {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        port
    }

    fn open(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        stream
    }

    fn echoes(stream: &mut TcpStream) -> std::io::Result<usize> {
        stream.write_all(b"x")?;
        stream.read(&mut [0; 1])
    }

    #[test]
    fn an_open_connection_goes_silent_without_being_closed_and_a_new_one_works() {
        let proxy = Proxy::start(echo_server()).unwrap();
        let mut old = open(&proxy);
        assert_eq!(echoes(&mut old).unwrap(), 1);
        proxy.silence_open_connections();
        assert_eq!(echoes(&mut old).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(echoes(&mut open(&proxy)).unwrap(), 1);
    }

    #[test]
    fn refusing_closes_what_is_open_and_whatever_comes_until_it_forwards_again() {
        let proxy = Proxy::start(echo_server()).unwrap();
        let mut old = open(&proxy);
        assert_eq!(echoes(&mut old).unwrap(), 1);
        proxy.refuse();
        assert!(echoes(&mut old).is_err() || echoes(&mut old).unwrap_or_default() == 0);
        assert!(!matches!(echoes(&mut open(&proxy)), Ok(1)));
        proxy.forward();
        assert_eq!(echoes(&mut open(&proxy)).unwrap(), 1);
    }
}
