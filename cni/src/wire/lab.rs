//! A host and a pod for tests on a real kernel: namespaces, maps, a guard that admits everything or nothing.
//!
//! All of it is gone with the values, also when a test fails. Must not know what is tested.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use proxy_common::EndpointValue;
use proxy_kernel::bpf;

use super::{identify, kernel::is_local, message, netlink::Rtnetlink, netns::inside, sample};
use crate::{facts::Pins, record::Attachment};

/// The addresses of the host in a lab.
pub(super) const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Much longer than anything takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a test with a new namespace as the host's: that of the test's thread. The host has addresses of both families.
pub(crate) fn on_a_host(test: impl FnOnce(&Lab) + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut host = Rtnetlink::open().unwrap();
            host.change(message::link_state(1, true), 0).unwrap();
            for address in HOST {
                host.change(message::address(1, address.parse().unwrap()), 0x600).unwrap();
            }
            for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                fs::write(format!("/proc/sys/net/{key}"), "1").unwrap();
            }
            let addresses = HOST.map(|address| address.parse().unwrap());
            let start = Instant::now();
            while !addresses.iter().all(|address| is_local(&mut host, *address)) {
                assert!(start.elapsed() < PATIENCE, "the kernel does not take the host's addresses");
                thread::sleep(Duration::from_millis(1));
            }
            test(&Lab::new());
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// What the agent of a host made for the plugin.
#[derive(Debug)]
pub(crate) struct Lab {
    folder: tempfile::TempDir,
    pub(crate) pins: Pins,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("sheave-wire-").tempdir().unwrap();
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let pins = sample::pins(folder.path());
        bpf::pin(hash(4, size_of::<EndpointValue>()).as_fd(), &pins.endpoints).unwrap();
        bpf::pin(hash(8, 1).as_fd(), &pins.packet_only).unwrap();
        let program = guard(true);
        bpf::pin(program.as_fd(), &pins.guard_ingress).unwrap();
        bpf::pin(program.as_fd(), &pins.guard_egress).unwrap();
        Self { folder, pins }
    }

    /// Pins another guard for what comes out of pods.
    pub(super) fn replace_guard(&self, admits: bool) {
        fs::remove_file(&self.pins.guard_ingress).unwrap();
        bpf::pin(guard(admits).as_fd(), &self.pins.guard_ingress).unwrap();
    }

    /// Pins programs of the packet path, others each time.
    pub(super) fn pin_path(&self) {
        let path = self.pins.path.as_ref().unwrap();
        for pin in [&path.ingress, &path.egress] {
            let _ = fs::remove_file(pin);
            bpf::pin(guard(true).as_fd(), pin).unwrap();
        }
    }

    /// Everything that wiring could leave behind on the host.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut traces = of_namespace();
        for map in [(&self.pins.endpoints, 4), (&self.pins.packet_only, 8)] {
            traces.extend(keys(map.0, map.1).iter().map(|key| format!("{}: {key:?}", map.0.display())));
        }
        traces
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

/// Devices, addresses, routes and neighbours of this thread's namespace, and settings that wiring changes.
pub(super) fn of_namespace() -> Vec<String> {
    use netlink_packet_route::{
        RouteNetlinkMessage as Message, link::LinkMessage, neighbour::NeighbourMessage, route::RouteMessage,
        rule::RuleMessage,
    };
    let mut socket = Rtnetlink::open().unwrap();
    let mut traces = Vec::new();
    for request in [
        Message::GetLink(LinkMessage::default()),
        message::addresses(),
        Message::GetRoute(RouteMessage::default()),
        Message::GetNeighbour(NeighbourMessage::default()),
        Message::GetRule(RuleMessage::default()),
    ] {
        traces.extend(socket.dump(&request).unwrap().iter().map(essence));
    }
    // Link-local addresses and what belongs to them come when the kernel likes.
    traces.retain(|trace| !trace.is_empty() && !trace.contains("fe80:") && !trace.contains("(ff00::)"));
    traces.sort();
    for key in ["all/disable_ipv6", "default/disable_ipv6", "lo/disable_ipv6"] {
        traces.push(fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{key}")).unwrap());
    }
    traces
}

/// Fails with what is in one list only.
pub(crate) fn assert_same(now: &[String], before: &[String], what: &str) {
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|trace| !those.contains(trace)).cloned().collect()
    };
    assert_eq!((only(now, before), only(before, now)), (Vec::new(), Vec::new()), "{what}");
}

/// What does not change by itself.
fn essence(message: &netlink_packet_route::RouteNetlinkMessage) -> String {
    use netlink_packet_route::{
        RouteNetlinkMessage as Message, link::LinkAttribute, neighbour::NeighbourState, route::RouteAttribute,
    };
    match message {
        Message::NewLink(link) => {
            let name = link.attributes.iter().find(|it| matches!(it, LinkAttribute::IfName(_)));
            let up = link.header.flags.contains(netlink_packet_route::link::LinkFlags::Up);
            format!("{name:?} up: {up}")
        }
        Message::NewRoute(route) => {
            let wanted = |it: &&RouteAttribute| !matches!(it, RouteAttribute::CacheInfo(_));
            format!("{:?} {:?}", route.header, route.attributes.iter().filter(wanted).collect::<Vec<_>>())
        }
        Message::NewAddress(address) => {
            format!("address {:?} of {}", address.attributes.first(), address.header.index)
        }
        // Those that the kernel adds by itself come when it likes.
        Message::NewNeighbour(neighbour) if neighbour.header.state != NeighbourState::Permanent => {
            String::new()
        }
        Message::NewNeighbour(neighbour) => format!("{:?}", neighbour.header),
        other => format!("{other:?}"),
    }
}

/// A pod's namespace.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(super) file: File,
}

impl Pod {
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            // Up once: from then on it has its addresses, also when it is down.
            let mut socket = Rtnetlink::open().unwrap();
            for up in [true, false] {
                socket.change(message::link_state(1, up), 0).unwrap();
            }
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        Self { file: thread::spawn(make).join().unwrap() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// An attachment for this pod; the name makes it another container's.
    pub(crate) fn attachment(&self, name: &str) -> Attachment {
        let mut attachment = sample::dual_stack();
        attachment.id.container_id = name.to_owned();
        attachment.netns_path = self.path();
        attachment.netns = identify(&self.path()).unwrap().unwrap();
        attachment.host_device = attachment.id.host_device();
        attachment.host_mac = attachment.id.host_mac();
        attachment.pod_mac = attachment.id.pod_mac();
        attachment
    }

    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.file, work).unwrap()
    }
}

/// The attributes of `BPF_MAP_CREATE`.
#[repr(C)]
struct MapAttr {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

/// The attributes of `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgramAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
}

/// The attributes of `BPF_MAP_GET_NEXT_KEY`.
#[repr(C)]
struct NextAttr {
    map: u32,
    padding: u32,
    key: u64,
    next: u64,
}

fn bpf_call<T>(command: i32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: each caller passes the beginning of the command's attributes, with addresses that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap()) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel just made it for this call alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A hash map.
fn hash(key: usize, value: usize) -> OwnedFd {
    let size = |bytes| u32::try_from(bytes).unwrap();
    let mut attr = MapAttr { kind: 1, key: size(key), value: size(value), entries: 512, flags: 0 };
    owned(bpf_call(0, &mut attr).unwrap())
}

/// A program for a device: `r0 = TCX_NEXT; exit`, or `TCX_DROP`.
fn guard(admits: bool) -> OwnedFd {
    let verdict = if admits { 0xffff_ffff } else { 2 };
    let instructions: [u64; 2] = [verdict << 32 | 0xb7, 0x95];
    let mut attr = ProgramAttr {
        kind: 3,
        count: 2,
        instructions: instructions.as_ptr() as u64,
        licence: c"GPL".as_ptr() as u64,
    };
    owned(bpf_call(5, &mut attr).unwrap())
}

/// The keys of a pinned map.
fn keys(path: &Path, size: usize) -> Vec<Vec<u8>> {
    let map = bpf::open_pin(path, bpf::Access::Full).unwrap();
    let mut keys: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut next = vec![0; size];
        let mut attr = NextAttr {
            map: map.as_raw_fd().unsigned_abs(),
            padding: 0,
            key: keys.last().map_or(0, |key| key.as_ptr() as u64),
            next: next.as_mut_ptr() as u64,
        };
        if bpf_call(4, &mut attr).is_err() {
            return keys;
        }
        keys.push(next);
    }
}
