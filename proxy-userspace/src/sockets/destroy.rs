//! Ends connected UDP sockets whose backend left, in every network namespace.
//!
//! Three things must agree before a socket is touched: our programs recorded that they translated it (by cookie), the
//! caller says that the recorded backend left, and the kernel says that it is still connected to that. Unconnected sockets choose anew by
//! themselves, and TCP connections end as the network ends them: neither is ever looked at.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr},
    thread,
};

use nix::sched::{CloneFlags, setns};
use proxy_common::{Protocol, SocketPeer, TranslatedSocket};

use super::{
    diag::{Connected, Diag, Family},
    netns::Namespaces,
};

/// Bit of linux/capability.h: to look into, and enter, what belongs to processes of others.
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestroyReport {
    /// Network namespaces that were searched.
    pub namespaces: usize,
    /// Connected UDP sockets that were looked at.
    pub examined: usize,
    /// Sockets that were to be ended; some may have been closed or connected elsewhere meanwhile.
    pub expected: usize,
    /// Without `CAP_SYS_PTRACE` the network namespaces of other users' processes cannot be entered.
    pub is_blind: bool,
    /// Sockets that were ended.
    pub destroyed: usize,
    /// What failed; the rest was done.
    pub errors: Vec<String>,
}

/// Cookies of the sockets to end, with the backend each must still be connected to.
type Stale = BTreeMap<u64, SocketAddr>;

/// Ends these sockets, as far as they are UDP and still connected to the backend that was recorded. Blocks; uses a
/// thread of its own, which enters the namespaces and then ends.
pub fn destroy_udp(sockets: &[TranslatedSocket]) -> DestroyReport {
    let stale = stale(sockets);
    if stale.is_empty() {
        return DestroyReport::default();
    }
    let expected = stale.len();
    let run = thread::Builder::new().name("udp-destroy".to_owned()).spawn(move || in_every_namespace(&stale));
    let report = match run.map(thread::JoinHandle::join) {
        Ok(Ok(report)) => report,
        Ok(Err(_)) => failure("the thread that ends UDP sockets broke down".to_owned()),
        Err(error) => failure(format!("cannot start a thread: {error}")),
    };
    let is_blind =
        fs::read_to_string("/proc/self/status").is_ok_and(|status| !may_look_into_processes(&status));
    DestroyReport { expected, is_blind, ..report }
}

/// Whether `/proc/PID/status` (proc_pid_status(5)) says that the process has `CAP_SYS_PTRACE`.
fn may_look_into_processes(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    capabilities.is_some_and(|capabilities| capabilities & CAP_SYS_PTRACE != 0)
}

fn failure(reason: String) -> DestroyReport {
    DestroyReport { errors: vec![reason], ..DestroyReport::default() }
}

/// The UDP sockets among them.
fn stale(sockets: &[TranslatedSocket]) -> Stale {
    let udp = sockets.iter().filter(|socket| socket.peer.protocol == Protocol::Udp as u32);
    udp.map(|socket| (socket.cookie, backend(&socket.peer))).collect()
}

fn backend(peer: &SocketPeer) -> SocketAddr {
    SocketAddr::new(IpAddr::from(peer.backend), peer.backend_port.to_host())
}

/// Threads are looked at only if processes and names did not lead to all sockets: there are many more of them.
fn in_every_namespace(stale: &Stale) -> DestroyReport {
    let mut report = DestroyReport::default();
    let mut namespaces = Namespaces::default();
    in_each(&namespaces.of_processes(), stale, &mut report);
    if report.destroyed < stale.len() {
        in_each(&namespaces.of_threads(), stale, &mut report);
    }
    report
}

fn in_each(namespaces: &[File], stale: &Stale, report: &mut DestroyReport) {
    for namespace in namespaces {
        if report.destroyed == stale.len() {
            return;
        }
        report.namespaces += 1;
        if let Err(error) = in_namespace(namespace, stale, report) {
            report.errors.push(error.to_string());
        }
    }
}

/// Moves this thread into the namespace; it never goes back.
fn in_namespace(namespace: &File, stale: &Stale, report: &mut DestroyReport) -> io::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let mut diag = Diag::open()?;
    for family in [Family::V4, Family::V6] {
        let mut found = Vec::new();
        diag.connected_udp(family, common_port(stale), |socket| {
            report.examined += 1;
            found.extend(is_stale(&socket, stale).then_some(socket));
        })?;
        for socket in found {
            end(&mut diag, &socket, report);
        }
    }
    Ok(())
}

fn end(diag: &mut Diag, socket: &Connected, report: &mut DestroyReport) {
    match diag.destroy(socket) {
        Ok(()) => report.destroyed += 1,
        // Closed, or connected elsewhere, since it was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            report.errors.push("this kernel cannot end sockets (CONFIG_INET_DIAG_DESTROY is off)".to_owned());
        }
        Err(error) => report.errors.push(format!("cannot end a socket: {error}")),
    }
}

fn is_stale(socket: &Connected, stale: &Stale) -> bool {
    let expected = socket.cookie().and_then(|cookie| stale.get(&cookie));
    expected.is_some() && expected.copied() == socket.peer()
}

/// The one port of all stale backends, which lets the kernel leave out the other sockets.
fn common_port(stale: &Stale) -> Option<u16> {
    let mut ports = stale.values().map(SocketAddr::port);
    let first = ports.next()?;
    ports.all(|port| port == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use proxy_common::{Address, Ipv4Be, PortBe};

    use super::*;

    fn translated(cookie: u64, backend: SocketAddr, protocol: Protocol) -> TranslatedSocket {
        let IpAddr::V4(address) = backend.ip() else { panic!("IPv4 in this test") };
        let address = Ipv4Be::from(address).to_mapped();
        let port = PortBe::from_host(backend.port());
        let peer = SocketPeer {
            frontend: address,
            backend: address,
            frontend_port: PortBe::from_host(53),
            backend_port: port,
            service_id: 1,
            backend_id: 1,
            protocol: protocol as u32,
            since_ns: 0,
        };
        TranslatedSocket { cookie, peer }
    }

    /// `SO_COOKIE` by way of the listing.
    fn cookie_of(peer: SocketAddr) -> u64 {
        let mut cookies = Vec::new();
        let list = |socket: Connected| cookies.extend(socket.cookie());
        Diag::open().unwrap().connected_udp(Family::V4, Some(peer.port()), list).unwrap();
        assert_eq!(cookies.len(), 1);
        cookies[0]
    }

    #[test]
    fn only_udp_sockets_are_stale() {
        let gone: SocketAddr = "10.0.0.1:53".parse().unwrap();
        let other: SocketAddr = "10.0.0.1:54".parse().unwrap();
        let all = [
            translated(1, gone, Protocol::Udp),
            translated(2, other, Protocol::Udp),
            translated(3, gone, Protocol::Tcp),
            TranslatedSocket { cookie: 4, peer: SocketPeer::NONE },
        ];
        assert_eq!(stale(&all), Stale::from([(1, gone), (2, other)]));
        assert_eq!(common_port(&Stale::from([(1, gone), (2, gone)])), Some(53));
        assert_eq!(common_port(&Stale::from([(1, gone), (2, other)])), None);
    }

    #[test]
    fn the_capability_to_enter_namespaces_is_bit_19_of_the_effective_set() {
        for (effective, expected) in [("0000000000080000", true), ("000001fffff7ffff", false), ("x", false)] {
            let status = format!("CapPrm:\tffffffffffffffff\nCapEff:\t{effective}\n");
            assert_eq!(may_look_into_processes(&status), expected, "{effective}");
        }
        assert!(!may_look_into_processes(""));
    }

    #[test]
    fn a_socket_that_went_elsewhere_is_not_stale() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let backend = server.local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(backend).unwrap();
        let cookie = cookie_of(backend);
        let mut seen = Vec::new();
        let list = |socket: Connected| seen.push(socket);
        Diag::open().unwrap().connected_udp(Family::V4, Some(backend.port()), list).unwrap();
        assert!(is_stale(&seen[0], &Stale::from([(cookie, backend)])));
        let elsewhere = "127.0.0.1:1".parse().unwrap();
        assert!(!is_stale(&seen[0], &Stale::from([(cookie, elsewhere)])));
        assert!(!is_stale(&seen[0], &Stale::from([(cookie + 1, backend)])));
    }
}
