//! The guard on devices: pinned for the plugin, exchanged and repaired by the agent, and gone with the device.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use cni::facts::{PathPins, Pins};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_ROUTE};
use nix::net::if_::if_nametoindex;
use proxy_common::{Counter, EndpointValue};
use proxy_kernel::bpf::{self, Access};
use proxy_kernel::clsact::{self, FIRST_PRIORITY, PATH_PRIORITY, Side};
use proxy_userspace::dataplane::{
    Capacities, DataPlane, DataPlaneConfig, DeviceHook, DeviceRole, GuardRepair, LinkAction, cleanup,
    enable_run_statistics,
};
use sheave_tests::lab::{NODE_V4, NODE_V6, Pod};
use sheave_tests::raw::ping;
use sheave_tests::wait::wait_for;

use crate::guard_rules;
use crate::setup::Site;

type Endpoints = HashMap<MapData, u32, EndpointValue>;

/// The device of the first pod of a lab.
const DEVICE: &str = "pod1";
const PATIENCE: Duration = Duration::from_secs(10);
/// More packets than a pod's kernel sends by itself in a second.
const FORGED: u64 = 20;

/// A node with a pod and what its data planes are opened with.
struct Ward {
    site: Site,
    pod: Pod,
    config: DataPlaneConfig,
}

impl Ward {
    fn new() -> Self {
        let mut site = Site::new();
        let pod = site.lab.pod("pod").unwrap();
        pod.netns.sysctl("ipv4/ping_group_range", "0 0").unwrap();
        let config = DataPlaneConfig { own_pods: true, ..site.host.config(Capacities::default()) };
        Self { site, pod, config }
    }

    fn open(&self) -> DataPlane {
        self.inside(|| {
            let mut plane = DataPlane::open(&self.config).unwrap();
            plane.attach().unwrap();
            plane
        })
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.site.lab.node.run(work)
    }

    fn repair(&self, plane: &mut DataPlane) -> GuardRepair {
        self.inside(|| plane.repair_guards().unwrap())
    }

    fn index(&self) -> u32 {
        self.inside(|| if_nametoindex(DEVICE).unwrap())
    }

    /// As the plugin writes it.
    fn record(&self) -> EndpointValue {
        EndpointValue {
            address4: self.pod.v4.into(),
            address6: self.pod.v6.into(),
            mac: self.mac(),
            ..guard_rules::pod()
        }
    }

    fn mac(&self) -> [u8; 6] {
        let text = self.pod.netns.run(|| {
            let shown =
                std::process::Command::new("ip").args(["-o", "link", "show", "eth0"]).output().unwrap();
            String::from_utf8(shown.stdout).unwrap()
        });
        let mac = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
        let bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
        bytes.collect::<Vec<_>>().try_into().unwrap()
    }

    /// What the plugin does with an agent or without.
    fn wire(&self, pins: &Pins, record: &EndpointValue) {
        endpoints(pins).insert(self.index(), record, 0).unwrap();
        let index = self.index();
        let program = bpf::open_pin(&pins.guard_ingress, Access::Full).unwrap();
        let filter =
            clsact::filter_with(index, Side::Ingress, FIRST_PRIORITY, program.as_fd(), "guard_ingress");
        self.inside(|| {
            request(RouteNetlinkMessage::NewQueueDiscipline(clsact::qdisc(index)));
            request(RouteNetlinkMessage::NewTrafficFilter(filter));
        });
    }

    /// What the plugin does besides where the packet path is pinned.
    fn wire_path(&self, pins: &PathPins) {
        let index = self.index();
        let sides =
            [(Side::Ingress, &pins.ingress, "pod_ingress"), (Side::Egress, &pins.egress, "pod_egress")];
        for (side, pin, name) in sides {
            let program = bpf::open_pin(pin, Access::Full).unwrap();
            let filter = clsact::filter_with(index, side, PATH_PRIORITY, program.as_fd(), name);
            self.inside(|| request(RouteNetlinkMessage::NewTrafficFilter(filter)));
        }
    }

    /// Whether the pod reaches the node, with both families.
    fn speaks(&self) -> bool {
        [IpAddr::V4(NODE_V4), IpAddr::V6(NODE_V6)]
            .iter()
            .all(|to| self.pod.netns.run(|| ping(*to, 32, Duration::from_secs(5)).unwrap()))
    }

    /// A datagram from an address that is not the pod's.
    fn forges(&self) {
        self.pod.netns.ip("addr replace 10.244.0.99/32 dev eth0").unwrap();
        self.pod.netns.run(|| {
            let socket = UdpSocket::bind("10.244.0.99:0").unwrap();
            socket.send_to(b"forged", SocketAddr::from((NODE_V4, 9))).unwrap();
        });
    }

    fn tc(&self, words: &[&str]) -> String {
        let done = self.inside(|| std::process::Command::new("tc").args(words).output().unwrap());
        assert!(done.status.success(), "tc {}: {done:?}", words.join(" "));
        String::from_utf8(done.stdout).unwrap()
    }

    /// The filters on a side of the pod's device as the kernel shows them, with the ids of their programs.
    fn filters(&self, side: &str) -> String {
        self.tc(&["filter", "show", "dev", DEVICE, side])
    }

    /// The kernel's id of the guard's program on a side of the pod's device.
    fn program(&self, side: &str) -> Option<u32> {
        self.program_at(FIRST_PRIORITY, side)
    }

    /// The pinned links of the packet path's programs.
    fn links(&self) -> Vec<String> {
        let entries = fs::read_dir(self.site.host.bpffs.pins().join("links")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("tcx-")).collect()
    }

    /// The kernel's ids of the packet path's programs on the pod's device, as they are pinned: coming out of it first.
    fn path(&self) -> [Option<u32>; 2] {
        ["ingress", "egress"].map(|side| self.program_at(PATH_PRIORITY, side))
    }

    fn program_at(&self, priority: u32, side: &str) -> Option<u32> {
        let shown = self.filters(side);
        let ours =
            shown.lines().find(|line| line.contains(&format!("pref {priority} bpf chain 0 handle")))?;
        ours.split_whitespace().skip_while(|word| *word != "id").nth(1)?.parse().ok()
    }
}

/// Makes something in this thread's network namespace.
fn request(message: RouteNetlinkMessage) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_ROUTE).unwrap();
    socket.send_to(&bytes, &NetlinkAddr::new(0, 0), 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).unwrap().payload {
        NetlinkPayload::Error(error) if error.code.is_none() => {}
        other => panic!("{other:?}"),
    }
}

fn endpoints(pins: &Pins) -> Endpoints {
    HashMap::try_from(Map::HashMap(MapData::from_pin(&pins.endpoints).unwrap())).unwrap()
}

fn records(pins: &Pins) -> BTreeMap<u32, EndpointValue> {
    endpoints(pins).iter().map(Result::unwrap).collect()
}

fn pinned_program(pin: &Path) -> u32 {
    bpf::program_info(bpf::open_pin(pin, Access::Full).unwrap().as_fd()).unwrap().id
}

fn counted(plane: &DataPlane, counter: Counter) -> u64 {
    plane.counters().unwrap().into_iter().find(|(it, _)| *it == counter).unwrap().1
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    wait_for(what, PATIENCE, || Ok(condition().then_some(()))).unwrap();
}

#[test]
fn the_agent_guards_a_pod_with_a_record() {
    let ward = Ward::new();
    let mut plane = ward.open();
    let pins = plane.guard_pins().unwrap();
    endpoints(&pins).insert(ward.index(), ward.record(), 0).unwrap();
    let repair = ward.repair(&mut plane);
    let index = BTreeSet::from([ward.index()]);
    assert_eq!((&repair.guarded, &repair.attached), (&index, &index), "{repair:?}");
    assert!(repair.failed.is_empty() && repair.gone.is_empty() && repair.without_record.is_empty());
    assert!(ward.speaks());
    ward.forges();
    wait_until("a drop", || counted(&plane, Counter::DroppedPodAddress) == 1);
    let repair = ward.repair(&mut plane);
    assert_eq!((repair.guarded, repair.attached), (index, BTreeSet::new()));
    assert!(ward.speaks());
}

#[test]
fn the_plugin_guards_a_pod_while_no_agent_runs_and_the_next_agent_exchanges_the_program() {
    let ward = Ward::new();
    let mut plane = ward.open();
    ward.repair(&mut plane);
    let pins = plane.guard_pins().unwrap();
    drop(plane);
    ward.wire(&pins, &ward.record());
    let old = ward.program("ingress").unwrap();
    assert_eq!(old, pinned_program(&pins.guard_ingress));
    assert!(ward.speaks());

    let mut next = ward.open();
    assert_eq!(next.guard_pins().unwrap(), pins);
    let repair = ward.repair(&mut next);
    let index = BTreeSet::from([ward.index()]);
    assert_eq!((repair.guarded, repair.attached), (index, BTreeSet::new()));
    let new = ward.program("ingress");
    assert_ne!(new, Some(old));
    assert_eq!(new, Some(pinned_program(&pins.guard_ingress)));
    assert!(ward.speaks());
    ward.forges();
    wait_until("a drop", || counted(&next, Counter::DroppedPodAddress) == 1);
}

#[test]
fn a_repair_that_has_nothing_to_do_changes_nothing() {
    let ward = Ward::new();
    let mut plane = ward.open();
    let pins = plane.guard_pins().unwrap();
    endpoints(&pins).insert(ward.index(), ward.record(), 0).unwrap();
    ward.repair(&mut plane);
    let programs = || [&pins.guard_ingress, &pins.guard_egress].map(|pin| pinned_program(pin));
    let seen = || (programs(), ward.filters("ingress"), ward.filters("egress"));
    let (before, record) = (seen(), records(&pins));
    ward.repair(&mut plane);
    assert_eq!((seen(), records(&pins)), (before, record));
}

#[test]
fn only_a_pod_with_a_limit_is_guarded_on_the_way_in() {
    let ward = Ward::new();
    let mut plane = ward.open();
    let pins = plane.guard_pins().unwrap();
    let index = ward.index();
    endpoints(&pins).insert(index, ward.record(), 0).unwrap();
    ward.repair(&mut plane);
    assert!(ward.program("ingress").is_some() && ward.program("egress").is_none());
    let limited = EndpointValue { to_rate: 1, to_burst: 0, ..ward.record() };
    endpoints(&pins).insert(index, limited, 0).unwrap();
    let repair = ward.repair(&mut plane);
    assert_eq!(repair.attached, BTreeSet::from([index]));
    assert_eq!(ward.program("egress"), Some(pinned_program(&pins.guard_egress)));
    // The first answer uses up what may come in an hour.
    ward.speaks();
    assert!(!ward.speaks());
    assert_ne!(counted(&plane, Counter::DroppedPodReceiveLimit), 0);
}

#[test]
fn what_is_left_of_a_pod_that_is_gone_is_removed() {
    let ward = Ward::new();
    let mut plane = ward.open();
    let pins = plane.guard_pins().unwrap();
    let index = ward.index();
    endpoints(&pins).insert(index, ward.record(), 0).unwrap();
    ward.repair(&mut plane);
    ward.site.lab.node.ip(&format!("link del {DEVICE}")).unwrap();
    let repair = ward.repair(&mut plane);
    assert_eq!(repair.gone, BTreeSet::from([index]), "{repair:?}");
    assert!(repair.guarded.is_empty() && repair.failed.is_empty(), "{repair:?}");
    assert!(records(&pins).is_empty());
    assert!(ward.repair(&mut plane).gone.is_empty());
}

/// The guard of a version whose records this one cannot read goes on by those, until it gets one of this version.
#[test]
fn a_pod_whose_record_is_lost_goes_on_until_it_is_restored() {
    let ward = Ward::new();
    let mut plane = ward.open();
    ward.repair(&mut plane);
    let pins = plane.guard_pins().unwrap();
    ward.wire(&pins, &ward.record());
    drop(plane);
    fs::remove_file(&pins.endpoints).unwrap();

    let mut next = ward.open();
    let index = BTreeSet::from([ward.index()]);
    let repair = ward.repair(&mut next);
    assert_eq!((repair.without_record, repair.guarded), (index.clone(), BTreeSet::new()));
    assert!(ward.speaks(), "it is guarded by the old program and the old record");

    next.restore_endpoint(ward.index(), &ward.record()).unwrap();
    let repair = ward.repair(&mut next);
    assert_eq!((repair.without_record, repair.guarded), (BTreeSet::new(), index));
    assert!(ward.speaks());
    assert_eq!(ward.program("ingress"), Some(pinned_program(&pins.guard_ingress)));
    // What is there is not overwritten: it has the account of the limits.
    next.restore_endpoint(ward.index(), &guard_rules::pod()).unwrap();
    assert_eq!(records(&pins)[&ward.index()], ward.record());
}

#[test]
fn a_guard_that_was_lost_comes_back_before_the_packet_path() {
    let _statistics = enable_run_statistics().unwrap();
    let ward = Ward::new();
    let mut plane = ward.open();
    let pins = plane.guard_pins().unwrap();
    let index = ward.index();
    endpoints(&pins).insert(index, ward.record(), 0).unwrap();
    ward.inside(|| plane.attach_device(index, DeviceRole::Pod).unwrap());
    assert_eq!(ward.repair(&mut plane).attached, BTreeSet::from([index]));
    let runs = |plane: &DataPlane| -> u64 {
        let programs = plane.programs().unwrap();
        programs.iter().find(|program| program.name == "pod_ingress").unwrap().run_count
    };
    assert!(ward.speaks());
    let before = runs(&plane);
    assert_ne!(before, 0);
    (0..FORGED).for_each(|_| ward.forges());
    wait_until("the drops", || counted(&plane, Counter::DroppedPodAddress) == FORGED);
    // The pod's kernel may send one of its own meanwhile.
    assert!(runs(&plane) - before < FORGED, "the packet path saw forged packets");
    // Devices of the packet path come and go without the guard.
    ward.inside(|| plane.detach_device(index).unwrap());
    assert!(ward.repair(&mut plane).attached.is_empty());
}

#[test]
fn cleanup_removes_the_guard_too() {
    let ward = Ward::new();
    let mut plane = ward.open();
    let pins = plane.guard_pins().unwrap();
    endpoints(&pins).insert(ward.index(), ward.record(), 0).unwrap();
    ward.repair(&mut plane);
    drop(plane);
    let report = ward.inside(|| cleanup(&ward.config.pin_dir).unwrap());
    assert_eq!(report.errors, Vec::<String>::new());
    assert_eq!(report.filters.len(), 1);
    assert!(!ward.config.pin_dir.exists());
    ward.forges();
    assert!(ward.speaks());
}

/// A byte costs a second at a byte a second: the account says exactly what passed. Others' packets are few.
#[test]
fn what_passes_the_device_is_accounted_in_each_direction() {
    const SECOND_NS: u64 = 1_000_000_000;
    const DATAGRAMS: u64 = 20;
    /// With headers of UDP, IPv4 and Ethernet.
    const LENGTH: u64 = 1_000 + 8 + 20 + 14;
    let ward = Ward::new();
    let mut plane = ward.open();
    let pins = plane.guard_pins().unwrap();
    let index = ward.index();
    let limits =
        EndpointValue { from_rate: 1, from_burst: 1 << 32, to_rate: 1, to_burst: 1 << 32, ..ward.record() };
    endpoints(&pins).insert(index, limits, 0).unwrap();
    ward.repair(&mut plane);
    let here = ward.inside(|| UdpSocket::bind((NODE_V4, 7_000)).unwrap());
    let there = ward.pod.netns.run(|| UdpSocket::bind((ward.pod.v4, 7_000)).unwrap());
    let both = [(&there, &here), (&here, &there)];
    let exchange = || {
        for (from, to) in both {
            to.set_read_timeout(Some(PATIENCE)).unwrap();
            from.send_to(&[0; 1_000], to.local_addr().unwrap()).unwrap();
            assert_eq!(to.recv(&mut [0; 2_000]).unwrap(), 1_000);
        }
    };
    // Opens both accounts, and the neighbours are known.
    exchange();
    let due = || {
        let record = records(&pins)[&index];
        [record.from_due, record.to_due]
    };
    let before = due();
    (0..DATAGRAMS).for_each(|_| exchange());
    for (after, before) in due().into_iter().zip(before) {
        let bytes = (after - before) / SECOND_NS;
        assert!((DATAGRAMS * LENGTH..DATAGRAMS * LENGTH + LENGTH).contains(&bytes), "{bytes}");
    }
    assert_eq!(counted(&plane, Counter::DroppedPodSendLimit), 0);
}

#[test]
fn pinning_the_guard_for_the_plugin_touches_no_pod() {
    let ward = Ward::new();
    let mut plane = ward.open();
    plane.pin_guards().unwrap();
    let pins = plane.guard_pins().unwrap();
    endpoints(&pins).insert(ward.index(), ward.record(), 0).unwrap();
    plane.pin_guards().unwrap();
    assert!(pins.guard_ingress.exists() && pins.guard_egress.exists());
    assert!(ward.program("ingress").is_none(), "{}", ward.filters("ingress"));
    assert_eq!(ward.repair(&mut plane).attached, BTreeSet::from([ward.index()]));
    assert!(ward.program("ingress").is_some(), "{}", ward.filters("ingress"));
}

/// What is pinned for new pods, as [`Ward::path`] has it.
fn pinned_path(pins: &PathPins) -> [Option<u32>; 2] {
    [&pins.ingress, &pins.egress].map(|pin| Some(pinned_program(pin)))
}

#[test]
fn the_packet_path_that_the_plugin_attached_is_taken_over_in_place() {
    let ward = Ward::new();
    let mut plane = ward.open();
    plane.pin_guards().unwrap();
    let (pins, index) = (plane.path_pins(), ward.index());
    ward.wire(&plane.guard_pins().unwrap(), &ward.record());
    ward.wire_path(&pins);
    let first = ward.path();
    assert_eq!(first, pinned_path(&pins));
    // Nothing was decided of the device yet.
    let none = BTreeSet::new();
    assert_eq!(ward.inside(|| plane.keep_devices(&none, &none).unwrap()), none);
    assert_eq!(ward.path(), first, "the device is newer than what is known of devices");

    let attach = |plane: &mut DataPlane| ward.inside(|| plane.attach_device(index, DeviceRole::Pod).unwrap());
    assert_eq!(attach(&mut plane), LinkAction::Updated);
    assert_eq!(ward.path(), first);
    ward.inside(|| plane.set_monitor(true).unwrap());
    let telling = ward.path();
    assert_ne!(telling, first);
    assert_eq!(telling, pinned_path(&pins), "new pods get what the others have");
    ward.inside(|| plane.set_monitor(false).unwrap());
    assert_eq!((ward.path(), pinned_path(&pins)), (first, first));

    drop(plane);
    let mut next = ward.open();
    assert_ne!(pinned_path(&pins), first, "another agent's programs");
    assert_eq!((attach(&mut next), ward.path()), (LinkAction::Updated, pinned_path(&pins)));
    assert_eq!(["ingress", "egress"].map(|side| ward.filters(side).matches("sheave:").count()), [2, 1]);
    assert!(ward.speaks());
    let gone = BTreeSet::from([index]);
    assert_eq!(ward.inside(|| next.keep_devices(&none, &gone).unwrap()), gone);
    assert_eq!(ward.path(), [None, None], "it is known not to be wanted");
}

#[test]
fn without_pods_of_its_own_an_agent_leaves_the_plugin_no_packet_path() {
    let ward = Ward::new();
    let mut plane = ward.open();
    let pins = plane.path_pins();
    assert!(pins.ingress.exists() && pins.egress.exists());
    fs::remove_file(&pins.egress).unwrap();
    ward.inside(|| plane.attach().unwrap());
    assert!(pins.egress.exists(), "the next audit pins it again");
    plane.pin_guards().unwrap();
    ward.wire(&plane.guard_pins().unwrap(), &ward.record());
    ward.wire_path(&pins);
    drop(plane);
    let ward = Ward { config: DataPlaneConfig { own_pods: false, ..ward.config.clone() }, ..ward };
    let mut next = ward.open();
    assert!(!pins.ingress.exists() && !pins.egress.exists());
    // What is wired already is not translated twice.
    let attached = ward.inside(|| next.attach_device(ward.index(), DeviceRole::Pod).unwrap());
    assert_eq!((attached, next.device_hook(DeviceRole::Pod)), (LinkAction::Created, DeviceHook::Tcx));
    assert_eq!((ward.path(), ward.links().len()), ([None, None], 2));
    drop(next);
    let ward = Ward { config: DataPlaneConfig { own_pods: true, ..ward.config.clone() }, ..ward };
    let mut last = ward.open();
    ward.inside(|| last.attach_device(ward.index(), DeviceRole::Pod).unwrap());
    assert_eq!(ward.path(), pinned_path(&pins));
    assert_eq!(ward.links(), Vec::<String>::new());
    // Also where the device is gone for the agent, and was an earlier one's.
    drop(last);
    let ward = Ward { config: DataPlaneConfig { own_pods: false, ..ward.config.clone() }, ..ward };
    let mut without = ward.open();
    let gone = BTreeSet::from([ward.index()]);
    assert_eq!(ward.inside(|| without.keep_devices(&BTreeSet::new(), &gone).unwrap()), gone);
    assert_eq!(ward.path(), [None, None]);
}
