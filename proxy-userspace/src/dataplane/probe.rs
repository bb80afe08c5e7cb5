//! Proof that the hooks take effect: a frontend that only this module knows, and a connection to it.
//!
//! Attaching succeeds on the wrong cgroup too, and then nothing is translated (cilium issue 27900). So a process in the
//! attached cgroup sends a datagram to an address that no network routes, and it must arrive at a socket of ours.
//! Must not know any Service.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use proxy_common::{
    Address, BackendValue, Ipv4Be, Ipv6Be, PortBe, Protocol, Scope, ServiceKey, ServiceValue,
    names::PROBE_SLOT,
};
use proxy_core::diff::{BackendOp, MapOp, ServiceOp};
use thiserror::Error;

use super::{ApplyError, LbMaps, cgroup::Cgroup};

/// The IPv4 dummy address (RFC 7600, 4.8): no host has it and no router forwards to it.
const FRONTEND4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// An address of the discard-only prefix 100::/64 (RFC 6666).
const FRONTEND6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0x5ea7);
/// The discard service's port.
const PORT: u16 = 9;
/// Never allocated to a ServicePort: ids count up from 1.
const SERVICE_ID: u32 = u32::MAX;
/// A datagram on the loopback device takes microseconds; the rest is for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// Which ways were proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// IPv4 connections are translated.
    pub ipv4: bool,
    /// IPv6 connections are translated; `false` if this machine has no ::1 to probe with.
    pub ipv6: bool,
    /// The agent itself is in the attached cgroup; otherwise a child went there.
    pub in_process: bool,
}

/// Why the hooks are not believed to work.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The connection was not translated.
    #[error(
        "a socket in cgroup {cgroup} that connects to the probe address {target} is not translated ({detail}): the \
         programs are attached to a cgroup that this node's processes are not in. Name the node's cgroup2 root with \
         --cgroup; an agent in a container must see the host's"
    )]
    NoEffect {
        /// The attached cgroup.
        cgroup: PathBuf,
        /// The probe's address.
        target: SocketAddr,
        /// What was seen instead.
        detail: String,
    },
    /// What the child that went into the cgroup saw; the agent says the rest.
    #[error("{0}")]
    Client(String),
    /// The probe's records could not be written or removed.
    #[error("cannot write the probe's records")]
    Maps(#[from] ApplyError),
    /// The probe itself failed.
    #[error("cannot {action} for the probe")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn system(action: &'static str) -> impl Fn(io::Error) -> ProbeError {
    move |source| ProbeError::System { action, source }
}

/// Probes both families and leaves the maps as they were.
pub(super) fn run(maps: &mut dyn LbMaps, cgroup: &Cgroup, program: &Path) -> Result<ProbeReport, ProbeError> {
    let inside =
        cgroup.contains_self().map_err(|error| system("find the own cgroup")(io::Error::other(error)))?;
    let result = both_families(maps, cgroup, (!inside).then_some(program));
    // Also after a failure: nothing of the probe may stay.
    let removed = remove_records(maps);
    let (ipv4, ipv6) = result?;
    removed?;
    Ok(ProbeReport { ipv4, ipv6, in_process: inside })
}

fn both_families(
    maps: &mut dyn LbMaps,
    cgroup: &Cgroup,
    program: Option<&Path>,
) -> Result<(bool, bool), ProbeError> {
    let listener4 = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(system("open an IPv4 socket"))?;
    one_family(maps, cgroup, program, &listener4)?;
    let Ok(listener6) = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) else {
        return Ok((true, false));
    };
    one_family(maps, cgroup, program, &listener6)?;
    Ok((true, true))
}

fn one_family(
    maps: &mut dyn LbMaps,
    cgroup: &Cgroup,
    program: Option<&Path>,
    listener: &UdpSocket,
) -> Result<(), ProbeError> {
    let backend = listener.local_addr().map_err(system("examine a socket"))?;
    let target = write_records(maps, backend)?;
    let nonce = format!("{:032x}", fastrand::u128(..));
    let client = ProbeClient { cgroup: cgroup.path().to_owned(), target, nonce };
    match program {
        None => client.exchange().map_err(|detail| client.no_effect(detail))?,
        Some(program) => client.in_child(program)?,
    }
    receive(listener, &client)
}

/// Waits for the nonce; other datagrams are somebody else's.
fn receive(listener: &UdpSocket, client: &ProbeClient) -> Result<(), ProbeError> {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 64];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(client.no_effect(format!("nothing arrived within {} s", PATIENCE.as_secs())));
        }
        listener.set_read_timeout(Some(left)).map_err(system("set a time limit"))?;
        match listener.recv(&mut buffer) {
            Ok(length) if buffer.get(..length) == Some(client.nonce.as_bytes()) => return Ok(()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(system("receive")(error)),
        }
    }
}

/// One connection to the probe's frontend from inside a cgroup: the hidden subcommand `probe-client`.
#[derive(Clone, Debug)]
pub struct ProbeClient {
    /// The attached cgroup.
    pub cgroup: PathBuf,
    /// The probe's frontend.
    pub target: SocketAddr,
    /// What to send.
    pub nonce: String,
}

impl ProbeClient {
    /// Joins the cgroup, then connects and sends. For a process of its own: the cgroup is not left again.
    ///
    /// # Errors
    /// The cgroup cannot be joined, or the connection is not translated.
    pub fn run(&self) -> Result<(), ProbeError> {
        // "0" is the writer itself (cgroup-v2, "Processes").
        fs::write(self.cgroup.join("cgroup.procs"), "0").map_err(system("join the cgroup"))?;
        self.exchange().map_err(ProbeError::Client)
    }

    /// Connects and sends, or says what was seen instead. A translated socket has a loopback address of its own: only
    /// then is anything sent, so that nothing ever leaves the machine.
    fn exchange(&self) -> Result<(), String> {
        let any: IpAddr =
            if self.target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let failed = |action: &'static str| move |error: io::Error| format!("{action}: {error}");
        let socket = UdpSocket::bind((any, 0)).map_err(failed("bind"))?;
        socket.connect(self.target).map_err(failed("connect"))?;
        let own = socket.local_addr().map_err(failed("getsockname"))?;
        if !own.ip().is_loopback() {
            return Err(format!("the socket's own address became {}", own.ip()));
        }
        let peer = socket.peer_addr().map_err(failed("getpeername"))?;
        if peer != self.target {
            return Err(format!("getpeername says {peer}"));
        }
        socket.send(self.nonce.as_bytes()).map(drop).map_err(failed("send"))
    }

    fn no_effect(&self, detail: String) -> ProbeError {
        ProbeError::NoEffect { cgroup: self.cgroup.clone(), target: self.target, detail }
    }

    /// Runs `program probe-client` in a cgroup below the attached one, made for it.
    fn in_child(&self, program: &Path) -> Result<(), ProbeError> {
        let place = SubGroup::create(&self.cgroup)?;
        let mut child = Command::new(program)
            .arg("probe-client")
            .arg("--cgroup")
            .arg(&place.path)
            .arg("--target")
            .arg(self.target.to_string())
            .arg("--nonce")
            .arg(&self.nonce)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(system("start a process"))?;
        if !ends_in_time(&mut child)? {
            return Err(self.no_effect("the client did not end".to_owned()));
        }
        let output = child.wait_with_output().map_err(system("wait for a process"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(self.no_effect(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// Waits for the child, and kills it when it takes too long.
fn ends_in_time(child: &mut Child) -> Result<bool, ProbeError> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if child.try_wait().map_err(system("wait for a process"))?.is_some() {
            return Ok(true);
        }
        thread::sleep(PAUSE);
    }
    child.kill().and_then(|()| child.wait()).map_err(system("end a process"))?;
    Ok(false)
}

/// A cgroup for the client, removed when dropped.
struct SubGroup {
    path: PathBuf,
}

impl SubGroup {
    fn create(parent: &Path) -> Result<Self, ProbeError> {
        let path = parent.join(format!("sheave-probe-{}", std::process::id()));
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(system("make a cgroup")(error)),
            _ => Ok(Self { path }),
        }
    }
}

impl Drop for SubGroup {
    fn drop(&mut self) {
        // A process that just ended may keep its cgroup busy for a moment. What stays is an empty directory that the
        // next probe of this process uses.
        for _ in 0..20 {
            if fs::remove_dir(&self.path).is_ok() {
                break;
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Makes the probe's frontend of the backend's family lead to the backend; returns the frontend.
fn write_records(maps: &mut dyn LbMaps, backend: SocketAddr) -> Result<SocketAddr, ApplyError> {
    let (target, ops) = match backend.ip() {
        IpAddr::V4(address) => {
            let value = sealed_backend(Ipv4Be::from(address), backend.port());
            (FRONTEND4.into(), records(FRONTEND4.into(), value, BackendOp::V4, ServiceOp::V4))
        }
        IpAddr::V6(address) => {
            let value = sealed_backend(Ipv6Be::from(address), backend.port());
            (FRONTEND6.into(), records(FRONTEND6.into(), value, BackendOp::V6, ServiceOp::V6))
        }
    };
    ops.iter().try_for_each(|op| maps.apply(op))?;
    Ok(SocketAddr::new(target, PORT))
}

fn sealed_backend<A: Address>(address: A, port: u16) -> BackendValue<A> {
    BackendValue::sealed(PROBE_SLOT, address, PortBe::from_host(port), Protocol::Udp as u8)
}

/// The backend, its ring position, the frontend, and last the address record that makes it visible.
fn records<A: Address>(
    frontend: A,
    backend: BackendValue<A>,
    backend_op: impl Fn(u32, BackendValue<A>) -> BackendOp,
    service_op: impl Fn(ServiceKey<A>, Option<ServiceValue>) -> ServiceOp,
) -> [MapOp; 4] {
    let [frontend_key, address_key] = keys(frontend);
    let empty = ServiceValue::EMPTY;
    let service = ServiceValue { service_id: SERVICE_ID, ring_base: PROBE_SLOT, ring_len: 1, ..empty };
    [
        MapOp::Backend(backend_op(PROBE_SLOT, backend)),
        MapOp::WriteRing { base: PROBE_SLOT, ids: vec![PROBE_SLOT] },
        MapOp::Service(service_op(frontend_key, Some(service.sealed(&frontend_key)))),
        MapOp::Service(service_op(address_key, Some(empty.sealed(&address_key)))),
    ]
}

/// Keys of the frontend and of its address record.
fn keys<A: Address>(address: A) -> [ServiceKey<A>; 2] {
    let frontend = ServiceKey {
        address,
        port: PortBe::from_host(PORT),
        protocol: Protocol::Udp as u8,
        scope: Scope::Internal as u8,
    };
    [frontend, ServiceKey::address_record(address, Scope::Internal)]
}

/// Removes what a probe leaves, this one or one of a run that was killed. All of it is tried.
pub(super) fn remove_records(maps: &mut dyn LbMaps) -> Result<(), ApplyError> {
    let [frontend4, address4] = keys(Ipv4Be::from(FRONTEND4));
    let [frontend6, address6] = keys(Ipv6Be::from(FRONTEND6));
    let ops = [
        MapOp::Service(ServiceOp::V4(address4, None)),
        MapOp::Service(ServiceOp::V4(frontend4, None)),
        MapOp::Service(ServiceOp::V6(address6, None)),
        MapOp::Service(ServiceOp::V6(frontend6, None)),
        MapOp::Backend(BackendOp::V4(PROBE_SLOT, BackendValue::FREE)),
        MapOp::Backend(BackendOp::V6(PROBE_SLOT, BackendValue::FREE)),
    ];
    ops.iter().map(|op| maps.apply(op)).fold(Ok(()), Result::and)
}

#[cfg(test)]
mod tests {
    use super::{super::MemoryMaps, *};

    #[test]
    fn the_records_lead_to_the_backend_and_vanish_again() {
        let mut maps = MemoryMaps::default();
        let target = write_records(&mut maps, "127.0.0.1:4000".parse().unwrap()).unwrap();
        assert_eq!(target, "192.0.0.8:9".parse().unwrap());
        let target = write_records(&mut maps, "[::1]:4000".parse().unwrap()).unwrap();
        assert_eq!(target, "[100::5ea7]:9".parse().unwrap());
        let dump = maps.dump().unwrap();
        assert_eq!((dump.services4.len(), dump.services6.len()), (2, 2));
        assert!(dump.services4.iter().all(|(key, value)| value.check == value.check_word(key)));
        assert!(dump.backends6.iter().all(|(id, value)| *id == PROBE_SLOT && value.is_whole(*id)));
        remove_records(&mut maps).unwrap();
        assert_eq!(maps, MemoryMaps::default());
    }

    #[test]
    fn without_a_hook_nothing_is_sent_and_the_remedy_is_named() {
        let client = ProbeClient {
            cgroup: "/sys/fs/cgroup/unified".into(),
            target: SocketAddr::new(FRONTEND4.into(), PORT),
            nonce: "n".into(),
        };
        let detail = client.exchange().unwrap_err();
        let error = client.no_effect(detail).to_string();
        assert!(error.contains("/sys/fs/cgroup/unified") && error.contains("--cgroup"), "{error}");
    }

    #[test]
    fn datagrams_of_others_are_not_taken_for_the_probes() {
        let listener = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let target = listener.local_addr().unwrap();
        let client = ProbeClient { cgroup: "/".into(), target, nonce: "abc".into() };
        sender.send_to(b"abd", target).unwrap();
        sender.send_to(b"abc", target).unwrap();
        receive(&listener, &client).unwrap();
    }
}
