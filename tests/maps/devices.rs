//! Programs on network devices: put there, exchanged in place, beside those of others, and gone without a trace.

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;

use aya::maps::{HashMap, Map, MapData};
use nix::net::if_::if_nametoindex;
use proxy_common::device::NODE_DEFAULT;
use proxy_common::{DeviceValue, Ipv4Be};
use proxy_userspace::dataplane::{
    Capacities, DataPlane, DataPlaneConfig, DeviceHook, DeviceRole, LinkAction, cleanup,
    enable_run_statistics, inspect,
};
use proxy_userspace::sockets;
use sheave_tests::bpffs::BpfFs;
use sheave_tests::netns::{Netns, veth};

use crate::setup::Site;

const NODE: DeviceRole = DeviceRole::Node;
const POD: DeviceRole = DeviceRole::Pod;

/// A node with a device `eth0` that leads to `outside`, and what it attaches with.
struct Wire {
    site: Site,
    outside: Netns,
    config: DataPlaneConfig,
}

impl Wire {
    fn new() -> Self {
        let site = Site::new();
        let config = site.host.config(Capacities::default());
        let wire = Self { site, outside: Netns::new().unwrap(), config };
        wire.add("eth0");
        wire
    }

    fn with(hook: DeviceHook) -> Self {
        let wire = Self::new();
        Self { config: DataPlaneConfig { device_hook: Some(hook), ..wire.config }, ..wire }
    }

    fn add(&self, device: &str) {
        veth(&self.site.lab.node, device, &self.outside, device).unwrap();
        self.site.lab.node.ip(&format!("addr add 198.51.100.1/24 dev {device}")).unwrap();
        self.outside.ip(&format!("addr add 198.51.100.2/24 dev {device}")).unwrap();
    }

    fn open(&self) -> DataPlane {
        self.inside(|| DataPlane::open(&self.config).unwrap())
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.site.lab.node.run(work)
    }

    fn index(&self, device: &str) -> u32 {
        self.inside(|| if_nametoindex(device).unwrap())
    }

    fn attach(&self, plane: &mut DataPlane, role: DeviceRole) -> LinkAction {
        let index = self.index("eth0");
        self.inside(|| plane.attach_device(index, role).unwrap())
    }

    fn keep(&self, plane: &mut DataPlane, wanted: &[u32]) -> Vec<u32> {
        let wanted = wanted.iter().copied().collect();
        let all = (0..100).collect();
        self.inside(|| plane.keep_devices(&wanted, &all).unwrap()).into_iter().collect()
    }

    /// The pinned links of devices, sorted.
    fn pins(&self) -> Vec<String> {
        let names = fs::read_dir(self.site.host.bpffs.pins().join("links")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("tcx-")).collect();
        names.sort();
        names
    }

    /// The programs on devices, by side.
    fn programs(&self) -> BTreeMap<&'static str, Option<String>> {
        let pins = self.site.host.bpffs.pins();
        let sides = self.inside(|| inspect(&pins).unwrap().devices().to_vec());
        sides.into_iter().map(|side| (side.side, side.program)).collect()
    }

    /// One datagram each way, which nobody translates.
    fn exchange(&self) {
        let here = self.inside(|| UdpSocket::bind("198.51.100.1:7000").unwrap());
        let there = self.outside.run(|| UdpSocket::bind("198.51.100.2:7000").unwrap());
        let mut buffer = [0; 8];
        for socket in [&here, &there] {
            socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        }
        there.send_to(b"in", "198.51.100.1:7000").unwrap();
        assert_eq!(here.recv(&mut buffer).unwrap(), 2);
        here.send_to(b"out", "198.51.100.2:7000").unwrap();
        assert_eq!(there.recv(&mut buffer).unwrap(), 3);
    }
}

fn both(role: &str) -> BTreeMap<&'static str, Option<String>> {
    ["egress", "ingress"].into_iter().map(|side| (side, Some(format!("{role}_{side}")))).collect()
}

/// How often each device program of a data plane ran.
fn runs(plane: &DataPlane) -> BTreeMap<String, u64> {
    plane.programs().unwrap().into_iter().map(|program| (program.name, program.run_count)).collect()
}

#[test]
fn a_restart_exchanges_the_programs_in_place_and_a_role_may_change() {
    for hook in [DeviceHook::Tcx, DeviceHook::Clsact] {
        let wire = Wire::with(hook);
        let mut plane = wire.open();
        assert_eq!(plane.device_hook(DeviceRole::Node), hook);
        assert_eq!(wire.attach(&mut plane, NODE), LinkAction::Created);
        assert_eq!(wire.programs(), both("node"));
        assert_eq!(wire.attach(&mut plane, NODE), LinkAction::Updated);
        drop(plane);
        assert_eq!(wire.programs(), both("node"), "nothing is detached with the agent");
        let mut next = wire.open();
        assert_eq!(wire.attach(&mut next, POD), LinkAction::Updated);
        assert_eq!(wire.programs(), both("pod"));
        assert_eq!(wire.programs().len(), 2);
        wire.exchange();
        assert_eq!(wire.keep(&mut next, &[]), [wire.index("eth0")]);
        assert!(wire.programs().is_empty() && next.devices().is_empty());
        wire.exchange();
    }
}

#[test]
fn without_a_wish_programs_are_attached_by_tcx_where_the_kernel_has_it() {
    assert_eq!(Wire::new().open().device_hook(DeviceRole::Node), DeviceHook::Tcx);
}

#[test]
fn programs_of_others_before_and_after_ours_go_on_running() {
    let _statistics = enable_run_statistics().unwrap();
    let wire = Wire::new();
    let elsewhere = BpfFs::new().unwrap();
    let run = tempfile::tempdir().unwrap();
    let other = |name: &str| {
        let config = DataPlaneConfig {
            pin_dir: elsewhere.path().join(name),
            lock_file: run.path().join(name),
            ..wire.config.clone()
        };
        wire.inside(|| DataPlane::open(&config).unwrap())
    };
    let (mut before, mut after) = (other("before"), other("after"));
    wire.attach(&mut before, NODE);
    let mut plane = wire.open();
    wire.attach(&mut plane, NODE);
    wire.attach(&mut after, NODE);
    let all_ran = |planes: &[&DataPlane]| {
        let earlier: Vec<_> = planes.iter().map(|plane| runs(plane)).collect();
        wire.exchange();
        for (plane, earlier) in planes.iter().zip(earlier) {
            let now = runs(plane);
            for program in ["node_ingress", "node_egress"] {
                assert!(now[program] > earlier[program], "{program}: {now:?}");
            }
        }
    };
    all_ran(&[&before, &plane, &after]);
    // A restart of ours changes nothing about theirs, nor about the order.
    drop(plane);
    let mut plane = wire.open();
    assert_eq!(wire.attach(&mut plane, NODE), LinkAction::Updated);
    all_ran(&[&before, &plane, &after]);
    wire.keep(&mut plane, &[]);
    all_ran(&[&before, &after]);
}

#[test]
fn what_is_left_of_devices_that_are_gone_is_removed_and_a_new_one_gets_programs_of_its_own() {
    let wire = Wire::new();
    let mut plane = wire.open();
    wire.attach(&mut plane, NODE);
    let index = wire.index("eth0");
    assert_eq!(wire.pins(), [format!("tcx-{index}-egress"), format!("tcx-{index}-ingress")]);
    wire.site.lab.node.ip("link del eth0").unwrap();
    assert!(wire.programs().values().all(Option::is_none));

    // A device that gets the index of the old one: what is pinned under its name is not on it.
    wire.site.lab.node.ip(&format!("link add eth0 index {index} type veth peer name peer0")).unwrap();
    assert_eq!(wire.attach(&mut plane, NODE), LinkAction::Replaced);
    assert_eq!(wire.programs(), both("node"));

    wire.site.lab.node.ip("link del eth0").unwrap();
    let error = wire.inside(|| plane.attach_device(index, NODE).unwrap_err());
    assert!(error.is_device_gone() && error.to_string().contains(&index.to_string()), "{error}");
    drop(plane);
    let mut next = wire.open();
    assert_eq!(wire.keep(&mut next, &[]), [index]);
    assert!(wire.pins().is_empty());
}

#[test]
fn a_device_that_moved_to_another_namespace_loses_its_programs_and_a_namesake_gets_its_own() {
    let wire = Wire::new();
    let mut plane = wire.open();
    wire.attach(&mut plane, NODE);
    let index = wire.index("eth0");
    wire.site.lab.node.ip(&format!("link set eth0 netns {}", wire.outside.path())).unwrap_err();
    let away = Netns::new().unwrap();
    wire.site.lab.node.ip(&format!("link set eth0 netns {}", away.path())).unwrap();
    let left = || {
        let found = away.run(|| inspect(&wire.site.host.bpffs.pins()).unwrap().devices().to_vec());
        found.iter().filter(|side| side.program.is_some()).count()
    };
    assert_eq!(left(), 2, "the kernel leaves links on a device that moves");
    wire.site.lab.node.ip(&format!("link add eth0 index {index} type veth peer name peer0")).unwrap();
    assert_eq!(wire.attach(&mut plane, NODE), LinkAction::Replaced);
    let on_the_old_one = away.run(|| plane.attach_device(index, NODE).unwrap());
    assert_eq!(on_the_old_one, LinkAction::Replaced, "there was none any more");
}

#[test]
fn a_link_that_a_killed_run_was_about_to_replace_goes_with_its_device() {
    let wire = Wire::new();
    let mut plane = wire.open();
    wire.attach(&mut plane, NODE);
    let links = wire.site.host.bpffs.pins().join("links");
    let index = wire.index("eth0");
    fs::rename(links.join(format!("tcx-{index}-egress")), links.join(format!("tcx-{index}-egress-new")))
        .unwrap();
    assert_eq!(wire.keep(&mut plane, &[]), [index]);
    assert!(wire.pins().is_empty());
}

#[test]
fn only_the_devices_that_are_wanted_keep_their_programs() {
    let wire = Wire::new();
    wire.site.lab.node.ip("link add eth1 type veth peer name peer1").unwrap();
    let indexes = ["eth0", "eth1"].map(|device| wire.index(device));
    let mut plane = wire.open();
    wire.inside(|| indexes.map(|index| plane.attach_device(index, NODE).unwrap()));
    assert!(wire.keep(&mut plane, &indexes).is_empty());
    assert_eq!(wire.keep(&mut plane, &indexes[..1]), indexes[1..]);
    assert_eq!(plane.devices().keys().copied().collect::<Vec<_>>(), indexes[..1]);
    wire.inside(|| plane.detach_device(indexes[0]).unwrap());
    assert!(wire.pins().is_empty());
}

#[test]
fn watching_exchanges_the_programs_on_devices_and_exchanges_them_back() {
    for hook in [DeviceHook::Tcx, DeviceHook::Clsact] {
        let wire = Wire::with(hook);
        let mut plane = wire.open();
        plane.attach().unwrap();
        wire.attach(&mut plane, NODE);
        let _statistics = enable_run_statistics().unwrap();
        // The counts of the programs of the variant that is not attached stand still.
        let ran = |plane: &DataPlane| {
            let before = runs(plane);
            wire.exchange();
            runs(plane)["node_ingress"] > before["node_ingress"]
        };
        assert!(ran(&plane));
        wire.inside(|| plane.set_monitor(true).unwrap());
        assert!(ran(&plane), "{hook:?}");
        // A device that comes while somebody watches.
        wire.site.lab.node.ip("link add eth1 type veth peer name peer1").unwrap();
        let index = wire.index("eth1");
        wire.inside(|| plane.attach_device(index, POD).unwrap());
        wire.site.lab.node.ip("link del eth0").unwrap();
        wire.inside(|| plane.set_monitor(false).unwrap());
    }
}

#[test]
fn cleanup_removes_links_and_filters_but_not_the_filters_of_others() {
    let wire = Wire::with(DeviceHook::Clsact);
    for number in [1, 2] {
        wire.site.lab.node.ip(&format!("link add eth{number} type veth peer name peer{number}")).unwrap();
    }
    let tc = |words: &str| {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let output = wire.inside(move || std::process::Command::new("tc").args(words).output().unwrap());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    tc("qdisc add dev eth1 clsact");
    tc("filter add dev eth1 ingress prio 7 protocol all u32 match u32 0 0 classid 1:1");
    let mut plane = wire.open();
    let indexes = ["eth0", "eth1"].map(|device| wire.index(device));
    wire.inside(|| indexes.map(|index| plane.attach_device(index, NODE).unwrap()));
    assert!(tc("filter show dev eth1 ingress").contains("sheave:node_ingress"));
    drop(plane);
    let mut tcx = wire
        .inside(|| DataPlane::open(&DataPlaneConfig { device_hook: None, ..wire.config.clone() }).unwrap());
    wire.inside(|| tcx.attach_device(wire.index("eth2"), NODE).unwrap());
    drop(tcx);

    let pins = wire.site.host.bpffs.pins();
    let report = wire.inside(|| cleanup(&pins).unwrap());
    assert_eq!(report.errors, Vec::<String>::new());
    assert_eq!(report.filters.len(), 4, "{:?}", report.filters);
    assert!(!pins.exists());
    assert!(!tc("qdisc show dev eth0").contains("clsact"), "the qdisc was for us alone");
    let left = tc("filter show dev eth1 ingress");
    assert!(left.contains("u32") && !left.contains("sheave"), "{left}");
    let report = wire.inside(|| cleanup(&pins).unwrap());
    assert_eq!((report.removed.len(), report.filters.len(), report.errors.len()), (0, 0, 0));
}

fn pinned_devices(wire: &Wire) -> BTreeMap<u32, DeviceValue> {
    let is = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("devices-");
    let mut pins = fs::read_dir(wire.site.host.bpffs.pins().join("maps")).unwrap();
    let pin = pins.find_map(|entry| Some(entry.unwrap().path()).filter(is)).unwrap();
    let map: HashMap<MapData, u32, DeviceValue> =
        HashMap::try_from(Map::HashMap(MapData::from_pin(pin).unwrap())).unwrap();
    map.iter().map(Result::unwrap).collect()
}

#[test]
fn the_map_of_devices_holds_what_is_told_and_nothing_else() {
    let wire = Wire::new();
    let mut plane = wire.open();
    let value = |last| DeviceValue {
        source4: Ipv4Be::from(std::net::Ipv4Addr::new(192, 0, 2, last)),
        ..DeviceValue::NONE
    };
    let first = BTreeMap::from([(NODE_DEFAULT, value(1)), (2, value(1)), (3, value(3))]);
    plane.set_devices(&first).unwrap();
    assert_eq!(pinned_devices(&wire), first);
    let second = BTreeMap::from([(NODE_DEFAULT, value(9)), (3, value(3)), (7, value(7))]);
    plane.set_devices(&second).unwrap();
    assert_eq!(pinned_devices(&wire), second);
    plane.set_device(7, value(8)).unwrap();
    assert_eq!(pinned_devices(&wire)[&7], value(8));
}

#[test]
fn namespaces_are_switched_by_path_and_found_again() {
    let wire = Wire::new();
    drop(wire.open());
    let pins = wire.site.host.bpffs.pins();
    let path = PathBuf::from(wire.outside.path());
    let cookie = sockets::netns_cookie_of(&path).unwrap();
    let open = || proxy_userspace::dataplane::PacketOnly::open(&pins).unwrap();
    open().translate_sockets(cookie, false).unwrap();
    open().translate_sockets(cookie, false).unwrap();
    assert_eq!(open().list().unwrap(), [cookie]);
    assert_ne!(cookie, sockets::netns_cookie_of("/proc/self/ns/net".as_ref()).unwrap());
    // The maps outlive an agent.
    drop(wire.open());
    assert_eq!(open().list().unwrap(), [cookie]);
    open().translate_sockets(cookie, true).unwrap();
    open().translate_sockets(cookie, true).unwrap();
    assert!(open().list().unwrap().is_empty());
}

#[test]
fn another_capacity_of_flows_keeps_the_service_maps_and_the_other_way_round() {
    let wire = Wire::new();
    let mut plane = wire.open();
    plane.attach().unwrap();
    drop(plane);
    let names = |prefix: &str| -> Vec<String> {
        let entries = fs::read_dir(wire.site.host.bpffs.pins().join("maps")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
        names.sort();
        names
    };
    let with = |capacities: Capacities| {
        let config = DataPlaneConfig { capacities, ..wire.config.clone() };
        let mut plane = wire.inside(|| DataPlane::open(&config).unwrap());
        plane.attach().unwrap();
        plane.inherited()
    };
    let before = (names("services4"), names("flows4"), names("flow_keys6"));
    assert!(with(Capacities { flows: 4_096, ..Capacities::default() }));
    let changed = (names("services4"), names("flows4"), names("flow_keys6"));
    assert_eq!(changed.0, before.0);
    assert!(changed.1 != before.1 && changed.2 != before.2 && changed.1.len() == 1);
    assert!(!with(Capacities { flows: 4_096, services: 64, ..Capacities::default() }));
    assert_eq!((names("flows4"), names("flow_keys6")), (changed.1, changed.2));
    assert_ne!(names("services4"), before.0);
}
