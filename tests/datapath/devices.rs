//! The agent and the node's devices: which get programs as they come, go and change, and what the commands say of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::PathBuf;

use aya::maps::{HashMap, Map, MapData};
use proxy_common::DeviceValue;
use proxy_common::device::NODE_DEFAULT;
use serde_json::Value;
use sheave_tests::client::ask_tcp;
use sheave_tests::netns::Netns;

use crate::node::{LIMIT, Node, complaint, service};

/// Devices of the pods, in the order of their making.
const PODS: [&str; 4] = ["pod1", "pod2", "pod3", "pod4"];

/// A node with its pods, and a namespace for what is outside.
struct Site {
    node: Node,
    outside: Netns,
}

impl Site {
    fn new() -> Self {
        Self { node: Node::new(), outside: Netns::new().unwrap() }
    }

    fn ip(&self, words: &str) {
        self.node.world.lab.node.ip(words).unwrap();
    }

    /// A device that leads out, with an address.
    fn uplink(&self, device: &str, address: &str) {
        let path = self.outside.path();
        self.ip(&format!("link add {device} type veth peer name {device} netns {path}"));
        self.ip(&format!("addr add {address}/24 dev {device}"));
        self.ip(&format!("link set {device} up"));
        self.outside.ip(&format!("link set {device} up")).unwrap();
    }

    fn index(&self, device: &str) -> u32 {
        self.node.world.on_node(|| nix::net::if_::if_nametoindex(device).unwrap())
    }

    fn status(&self) -> Vec<Value> {
        self.node.json(&["status"])["devices"].as_array().unwrap().clone()
    }

    /// Name and role of the devices that have their programs.
    fn attached(&self) -> BTreeSet<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let devices = self.status();
        let attached = devices.iter().filter(|device| device["error"].is_null());
        attached.map(|device| (text(&device["name"]), text(&device["role"]))).collect()
    }

    /// Waits until the pods' devices have programs, and these besides.
    fn until_attached(&self, others: &[(&str, &str)]) {
        let pods = PODS.map(|pod| (pod, "pod"));
        let expected = pods.iter().chain(others).map(|(name, role)| ((*name).to_owned(), (*role).to_owned()));
        let expected: BTreeSet<_> = expected.collect();
        Node::until(&format!("{others:?} have programs"), || self.attached() == expected);
    }

    /// The indexes of devices for which links are pinned.
    fn pinned(&self) -> BTreeSet<u32> {
        let links = fs::read_dir(self.node.world.host.bpffs.pins().join("links")).unwrap();
        let names = links.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| name.strip_prefix("tcx-")?.split('-').next()?.parse().ok()).collect()
    }

    /// The addresses in the map `devices`.
    fn sources(&self) -> BTreeMap<u32, (String, String)> {
        let is = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("devices-");
        let mut pins = fs::read_dir(self.node.world.host.bpffs.pins().join("maps")).unwrap();
        let pin = pins.find_map(|entry| Some(entry.unwrap().path()).filter(is)).unwrap();
        let map = Map::HashMap(MapData::from_pin(pin).unwrap());
        let map: HashMap<MapData, u32, DeviceValue> = HashMap::try_from(map).unwrap();
        let shown = |value: DeviceValue| {
            (Ipv4Addr::from(value.source4).to_string(), Ipv6Addr::from(value.source6).to_string())
        };
        map.iter().map(Result::unwrap).map(|(index, value)| (index, shown(value))).collect()
    }

    fn until_sources(&self, expected: &[(u32, &str, &str)]) {
        let pair = |(index, v4, v6): &(u32, &str, &str)| (*index, ((*v4).to_owned(), (*v6).to_owned()));
        let expected: BTreeMap<_, _> = expected.iter().map(pair).collect();
        Node::until(&format!("the map has {expected:?}"), || self.sources() == expected);
    }
}

#[test]
fn devices_are_followed_as_they_come_are_renamed_go_and_come_again() {
    let site = Site::new();
    let agent = site.node.ready();
    site.until_attached(&[]);
    site.uplink("eth0", "198.51.100.1");
    site.until_attached(&[("eth0", "node")]);
    let first = site.index("eth0");
    assert!(site.pinned().contains(&first));

    site.ip("link set eth0 down");
    site.ip("link set eth0 name uplink");
    site.ip("link set uplink up");
    site.until_attached(&[("uplink", "node")]);
    assert_eq!(site.index("uplink"), first);

    site.ip("link del uplink");
    site.until_attached(&[]);
    Node::until("its pins are gone", || !site.pinned().contains(&first));
    site.uplink("eth0", "198.51.100.1");
    site.until_attached(&[("eth0", "node")]);
    assert_ne!(site.index("eth0"), first);

    // Without its address it leads to a pod, for all one knows.
    site.ip("addr del 198.51.100.1/24 dev eth0");
    site.until_attached(&[("eth0", "pod")]);
    site.ip("route add default dev eth0");
    site.until_attached(&[("eth0", "node")]);
    assert!(!agent.log().contains("had lost its programs"));
}

#[test]
fn many_devices_that_come_and_go_at_once_are_all_followed() {
    let site = Site::new();
    let _agent = site.node.ready();
    let devices: Vec<String> = (0..60).map(|number| format!("eth{number}")).collect();
    let lines = |line: fn(&str) -> String| devices.iter().map(|device| line(device)).collect::<Vec<_>>();
    let add = |device: &str| format!("link add {device} type veth peer name p{device}");
    let address = |device: &str| format!("addr add 198.51.100.1/32 dev {device}");
    site.node.world.lab.node.ip_lines(&[lines(add), lines(address)].concat()).unwrap();
    let roles: Vec<_> = devices.iter().map(|device| (device.as_str(), "node")).collect();
    site.until_attached(&roles);
    // Half of them go while the other half loses what makes it a node's.
    let (gone, left) = devices.split_at(30);
    let delete = gone.iter().map(|device| format!("link del {device}"));
    let strip = left.iter().map(|device| format!("addr del 198.51.100.1/32 dev {device}"));
    let both: Vec<String> = delete.zip(strip).flat_map(|(a, b)| [a, b]).collect();
    site.node.world.lab.node.ip_lines(&both).unwrap();
    site.until_attached(&[]);
    Node::until("only the pods' pins are left", || site.pinned().len() == PODS.len());
}

#[test]
fn a_restart_exchanges_programs_in_place_and_removes_what_devices_left_that_went_meanwhile() {
    let site = Site::new();
    site.uplink("eth0", "198.51.100.1");
    site.uplink("eth1", "203.0.113.1");
    let agent = site.node.ready();
    site.until_attached(&[("eth0", "node"), ("eth1", "node")]);
    let gone = site.index("eth1");
    let created = agent.log().matches("link=Created").count();
    assert_eq!(created, 6);
    agent.kill();
    site.ip("link del eth1");
    let dead = site.node.json(&["status"]);
    assert_eq!(dead["agentRunning"], false);
    assert_eq!(dead["devices"].as_array().unwrap().len(), 5, "{dead}");
    assert!(site.pinned().contains(&gone));

    let agent = site.node.ready();
    site.until_attached(&[("eth0", "node")]);
    assert!(!site.pinned().contains(&gone));
    assert_eq!(agent.log().matches("link=Updated").count(), 5);
    assert_eq!(agent.log().matches("link=Created").count(), created, "none anew");
    // Somebody takes a link away: the audit is too far off, the next change is not.
    let index = site.index("eth0");
    let pins = site.node.world.host.bpffs.pins().join("links");
    fs::remove_file(pins.join(format!("tcx-{index}-egress"))).unwrap();
    site.ip("addr add 198.51.100.9/24 dev eth0");
    Node::until("it is attached again", || agent.log().contains("had lost its programs"));
    assert!(site.pinned().contains(&index));
}

#[test]
fn the_addresses_of_devices_are_followed_by_the_map_and_by_node_ports() {
    let site = Site::new();
    let web = service("web", "10.96.0.10", "TCP").replace("spec:\n", "spec:\n  type: NodePort\n");
    site.node.write("web.yaml", &web.replace("    protocol:", "    nodePort: 30080\n    protocol:"));
    let _agent = site.node.ready_with(&["--node-port-addresses", "primary"]);
    let node_ports = || {
        let services = site.node.json(&["service", "list"]);
        let services = services.as_array().unwrap().clone();
        let of = |service: &Value| service["kind"] == "NodePort" && service["scope"] == "external";
        let frontends =
            services.iter().filter(|it| of(it)).map(|it| it["frontend"].as_str().unwrap().to_owned());
        frontends.collect::<Vec<_>>()
    };
    let until_node_ports =
        |expected: &str| Node::until(&format!("NodePorts on {expected}"), || node_ports() == [expected]);
    // The laboratory's node has its address on `lo`.
    site.until_sources(&[(NODE_DEFAULT, "192.0.2.1", "2001:db8::1")]);
    until_node_ports("192.0.2.1:30080");

    site.uplink("eth0", "198.51.100.1");
    let index = site.index("eth0");
    site.until_sources(&[
        (NODE_DEFAULT, "198.51.100.1", "2001:db8::1"),
        (index, "198.51.100.1", "2001:db8::1"),
    ]);
    until_node_ports("198.51.100.1:30080");
    site.ip("addr add 198.51.100.2/24 dev eth0");
    site.ip("-6 addr add 2001:db8:1::1/64 dev eth0 nodad");
    site.until_sources(&[
        (NODE_DEFAULT, "198.51.100.1", "2001:db8:1::1"),
        (index, "198.51.100.1", "2001:db8:1::1"),
    ]);
    site.ip("addr del 198.51.100.1/24 dev eth0");
    site.ip("addr add 198.51.100.7/24 dev eth0");
    site.until_sources(&[
        (NODE_DEFAULT, "198.51.100.7", "2001:db8:1::1"),
        (index, "198.51.100.7", "2001:db8:1::1"),
    ]);
    until_node_ports("198.51.100.7:30080");
}

/// One command of bpf(2) that returns a descriptor; `words` is the beginning of its attribute.
fn bpf(command: i32, words: &mut [u64]) -> OwnedFd {
    // SAFETY: the caller's words are what linux/bpf.h says of the command; their size is passed along.
    let fd =
        unsafe { nix::libc::syscall(nix::libc::SYS_bpf, command, words.as_mut_ptr(), size_of_val(words)) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}

/// Programs of somebody else on the way in, as many as there is room for. The kernel admits each only once.
fn crowd(device: &str) -> Vec<OwnedFd> {
    const PROG_LOAD: i32 = 5;
    const LINK_CREATE: i32 = 28;
    const SCHED_CLS: u64 = 3;
    const TCX_INGRESS: u64 = 46;
    // r0 = TCX_NEXT; exit
    let instructions: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];
    let index = u64::from(nix::net::if_::if_nametoindex(device).unwrap());
    let attach = |_| {
        let (code, license) = (instructions.as_ptr() as u64, c"GPL".as_ptr() as u64);
        let program = bpf(PROG_LOAD, &mut [SCHED_CLS | 2 << 32, code, license]);
        let number = u64::try_from(program.as_raw_fd()).unwrap();
        bpf(LINK_CREATE, &mut [number | index << 32, TCX_INGRESS])
    };
    (0..63).map(attach).collect()
}

#[test]
fn a_device_without_room_is_reported_with_the_remedy_and_tried_again_while_the_others_work() {
    let site = Site::new();
    let agent = site.node.ready_with(&["--devices", "eth*"]);
    site.until_attached(&[]);
    site.ip("link add peer0 type veth peer name crowded");
    let crowded = site.node.world.on_node(|| crowd("crowded"));
    site.ip("link set crowded name eth7");
    site.uplink("eth8", "198.51.100.1");
    let refused = || {
        let devices = site.status();
        let eth7 = devices.iter().find(|device| device["name"] == "eth7")?;
        eth7["error"].as_str().map(str::to_owned)
    };
    Node::until("the device is refused", || refused().is_some());
    let error = refused().unwrap();
    assert!(error.contains("63 programs") && error.contains("bpftool"), "{error}");
    site.until_attached(&[("eth8", "node")]);
    assert_eq!(site.node.json(&["status"])["ready"], true);
    site.node.until_only(&["a", "b", "c"]);
    drop(crowded);
    site.until_attached(&[("eth7", "node"), ("eth8", "node")]);
    assert_eq!(agent.log().matches("63 programs").count(), 1, "{}", agent.log());
}

#[test]
fn without_translation_at_sockets_the_loopback_device_gets_programs_until_the_cleanup() {
    let site = Site::new();
    let accept_local = || {
        let read = || fs::read_to_string("/proc/sys/net/ipv4/conf/lo/accept_local");
        site.node.world.on_node(read).unwrap().trim().to_owned()
    };
    assert_eq!(accept_local(), "0");
    let agent = site.node.ready_with(&["--socket-lb", "off"]);
    site.until_attached(&[("lo", "node")]);
    assert_eq!(accept_local(), "1");
    assert!(agent.log().contains("net.ipv4.conf.lo.accept_local"));
    let status = site.node.json(&["status"]).to_string();
    assert!(status.contains("--socket-lb=off"), "{status}");
    agent.kill();

    let agent = site.node.ready();
    site.until_attached(&[]);
    Node::until("the setting is restored", || accept_local() == "0");
    agent.terminate(LIMIT).unwrap();

    let agent = site.node.ready_with(&["--socket-lb", "off"]);
    site.until_attached(&[("lo", "node")]);
    agent.terminate(LIMIT).unwrap();
    let cleanup = site.node.sheave(&["cleanup"]);
    assert!(cleanup.status.success(), "{}", complaint(&cleanup));
    assert_eq!(accept_local(), "0");
}

#[test]
fn ports_that_the_kernel_gives_to_the_hosts_connections_are_refused_at_the_start() {
    let site = Site::new();
    site.node.world.lab.node.sysctl("ipv4/ip_local_port_range", "1024 60999").unwrap();
    let refused = site.node.sheave(&["agent", "--node-name", "n", "--manifests", "/"]);
    assert!(!refused.status.success());
    for part in ["`snat-ports`, 12000-29999", "ip_local_port_range, 1024-60999", "ip_local_reserved_ports"] {
        assert!(complaint(&refused).contains(part), "{}", complaint(&refused));
    }
    site.node.world.lab.node.sysctl("ipv4/ip_local_reserved_ports", "12000-29999").unwrap();
    site.node.ready();
}

#[test]
fn a_connection_from_outside_is_served_and_shown_as_a_flow() {
    let site = Site::new();
    let web = service("web", "10.96.0.10", "TCP").replace("spec:\n", "spec:\n  type: NodePort\n");
    site.node.write("web.yaml", &web.replace("    protocol:", "    nodePort: 30080\n    protocol:"));
    site.node.write_slices("web", "TCP", &["b"]);
    site.uplink("eth0", "198.51.100.1");
    site.outside.ip("addr add 198.51.100.2/24 dev eth0").unwrap();
    // The client is a process of this test, which is in the served cgroup: without the host's alone its socket would
    // be translated.
    let agent = site.node.ready_with(&["--socket-lb", "host"]);
    let node_port = "198.51.100.1:30080".parse().unwrap();
    let answered = || site.outside.run(|| ask_tcp(node_port)).is_ok_and(|(name, _)| name == "b");
    Node::until("the pod answers", answered);

    let flows = site.node.json(&["flow", "list"]);
    let flow = flows.as_array().unwrap().iter().find(|flow| flow["state"] != "new").unwrap();
    let text = |key: &str| flow[key].as_str().unwrap().to_owned();
    assert_eq!((text("protocol"), text("frontend")), ("TCP".to_owned(), "198.51.100.1:30080".to_owned()));
    assert!(text("client").starts_with("198.51.100.2:"), "{flow}");
    assert_eq!(text("backend"), format!("{}:8080", site.node.world.pods["b"].v4));
    assert_eq!((text("source"), &flow["sourceIsNode"]), (text("client"), &false.into()));
    assert!(flow["idleSeconds"].as_u64().unwrap() < 60, "{flow}");
    let metrics = agent.metrics().unwrap();
    let counted = metrics.lines().filter(|line| line.starts_with("sheave_flows{family=\"ipv4\""));
    assert!(counted.map(|line| line.rsplit(' ').next().unwrap()).any(|count| count != "0.0"), "{metrics}");
    agent.kill();
    assert_eq!(site.node.json(&["flow", "list"]).as_array().unwrap().len(), flows.as_array().unwrap().len());
    assert!(answered(), "without an agent, too");
}

#[test]
fn flows_and_switched_namespaces_are_shown_with_and_without_an_agent() {
    let site = Site::new();
    let missing = site.node.sheave(&["flow", "list"]);
    assert!(complaint(&missing).contains("no agent has run here"), "{}", complaint(&missing));
    let agent = site.node.ready();
    let pod = site.node.world.client.netns.path();
    let switch = |mode: &str| {
        let output = site.node.sheave(&["socket-lb", "set", &pod, mode]);
        assert!(output.status.success(), "{}", complaint(&output));
    };
    switch("off");
    let listed = site.node.json(&["socket-lb", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    agent.kill();
    assert_eq!(site.node.json(&["socket-lb", "list"]), listed);
    assert!(site.node.json(&["flow", "list"]).is_array());
    switch("on");
    assert_eq!(site.node.json(&["socket-lb", "list"]), serde_json::json!([]));
    let maps = site.node.json(&["map", "list"]);
    let of = |name: &str| maps.as_array().unwrap().iter().find(|map| map["name"] == name).unwrap().clone();
    assert_eq!(
        (&of("flows4")["capacity"], &of("flow_keys6")["capacity"]),
        (&131_072.into(), &263_168.into())
    );
    assert_eq!(of("packet_only")["used"], 0);
}
