//! The same Services over pods that `sheave-cni` has wired and agents have connected, directly and through a tunnel:
//! every scenario of `scenarios/`, and those of `own-pods/` about what only such pods have.
//!
//! Must not know what a scenario says.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use cni::facts::NodeFacts;
use serde_json::{Value, json};
use sheave_tests::cni::{Call, Subject};
use sheave_tests::echo::EchoServer;
use sheave_tests::netns::Netns;
use sheave_tests::probe::{Connection, pattern, tcp, udp};
use sheave_tests::scenario::Translation;
use sheave_tests::topology::addresses::{NODES, node};
use sheave_tests::topology::{Links, PORT, Place, Wiring};
use sheave_tests::wait::wait_for;

use crate::manifests::{FAMILIES, NODE_PORT, cluster_ip, web};
use crate::scenarios::{read, run};
use crate::site::{LIMIT, Site, translating};

/// Whose pods have ports of their nodes: name and host port.
const HOST_PORTS: [(&str, u16); 2] = [("1a", 8_088), ("2b", 8_089)];

/// Half of the sites go the short way into pods.
fn settings(wiring: Wiring, path: Translation) -> [&'static str; 4] {
    let shortcut = match (wiring, path) {
        (Wiring::Tunnel, Translation::Sockets) | (Wiring::Direct, Translation::Packets) => {
            "--pod-shortcut=true"
        }
        _ => "--pod-shortcut=false",
    };
    ["--pod-network", "--routing", if wiring == Wiring::Tunnel { "vxlan" } else { "direct" }, shortcut]
}

/// How much fits the way between nodes.
fn mtu(wiring: Wiring) -> u32 {
    if wiring == Wiring::Tunnel { 1_450 } else { 1_500 }
}

/// Agents that connect pods, and every pod attached by the plugin.
fn site(wiring: Wiring, path: Translation) -> Site {
    let mut site = Site::with_wiring(Links::ETHERNET, wiring);
    site.start_agents(&[translating(path), &settings(wiring, path)].concat());
    for number in 1..=NODES {
        wait_for(format!("node{number} is ready for pods"), LIMIT, || {
            let facts = NodeFacts::read(&site.run_dir(number)).ok();
            Ok(facts.filter(|facts| facts.obstacle.is_none() && facts.mtu == mtu(wiring)))
        })
        .unwrap();
    }
    for pod in site.topology.places().filter(|place| place.is_inside() && !place.is_node()) {
        attach(&site, pod);
    }
    site.topology.serve().unwrap();
    site
}

/// The address that the topology gives the pod.
fn attach(site: &Site, pod: &Place) {
    let runtime = json!({
        "ips": [format!("{}/24", pod.addresses.v4), format!("{}/64", pod.addresses.v6)],
        "portMappings": port_mappings(pod),
    });
    add(site, pod.node, &pod.name, &pod.netns, runtime);
}

/// ADD as a runtime calls it: its result.
fn add(site: &Site, node: u8, name: &str, pod: &Netns, runtime: Value) -> Value {
    let subject = Subject::sheave().unwrap();
    let mut config = subject.config(&site.run_dir(node), &[], "1.1.0");
    config["runtimeConfig"] = runtime;
    let call = Call::new("ADD", &config)
        .set("CNI_CONTAINERID", format!("sandbox-{name}"))
        .set("CNI_NETNS", pod.path())
        .set("CNI_IFNAME", "eth0")
        .set("CNI_PATH", subject.folder.display().to_string());
    let node = &site.place(&format!("node{node}")).netns;
    subject.plugin.call(node, &call).unwrap().result().unwrap()
}

fn port_mappings(pod: &Place) -> Vec<Value> {
    let own = HOST_PORTS.iter().filter(|(name, _)| *name == pod.name);
    let both = own.flat_map(|(_, port)| ["tcp", "udp"].map(|protocol| (*port, protocol)));
    both.map(|(port, protocol)| json!({ "hostPort": port, "containerPort": PORT, "protocol": protocol }))
        .collect()
}

/// How many packets the host has sent to the pod `1a` through its device.
fn sent_through_device(site: &Site) -> u64 {
    let read = |words: &[&str]| -> Value {
        let output = site.at("node1", || Command::new("ip").args(words).output().unwrap());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let route = read(&["-j", "route", "get", &site.place("1a").addresses.v4.to_string()]);
    let link = read(&["-j", "-s", "link", "show", "dev", route[0]["dev"].as_str().unwrap()]);
    link[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

/// What a pod of another node sends comes to a pod through its device, or past it the short way.
fn questions_take_the_way_they_are_told(site: &Site, is_short: bool) {
    const QUESTIONS: u64 = 20;
    let before = sent_through_device(site);
    for target in site.place("1a").addresses.both().map(|address| SocketAddr::new(address, PORT)) {
        for _ in 0..QUESTIONS {
            site.at("2a", || udp(target)).unwrap();
        }
    }
    let sent = sent_through_device(site) - before;
    // Neighbours are still asked for there.
    assert_eq!(sent < QUESTIONS, is_short, "{sent} of {} packets", 2 * QUESTIONS);
}

fn every_scenario_holds(wiring: Wiring, path: Translation) {
    let mut site = site(wiring, path);
    let is_short = settings(wiring, path).contains(&"--pod-shortcut=true");
    questions_take_the_way_they_are_told(&site, is_short);
    let mut scenarios = ["own-pods", "scenarios"].map(read).concat();
    // Patterns of devices are those of pods that are wired by hand.
    scenarios.retain(|scenario| !scenario.settings.iter().any(|setting| setting == "--devices"));
    run(&mut site, &settings(wiring, path), scenarios, path);
}

#[test]
fn every_scenario_holds_directly_where_sockets_are_translated() {
    every_scenario_holds(Wiring::Direct, Translation::Sockets);
}

#[test]
fn every_scenario_holds_directly_where_packets_are_translated() {
    every_scenario_holds(Wiring::Direct, Translation::Packets);
}

#[test]
fn every_scenario_holds_through_the_tunnel_where_sockets_are_translated() {
    every_scenario_holds(Wiring::Tunnel, Translation::Sockets);
}

#[test]
fn every_scenario_holds_through_the_tunnel_where_packets_are_translated() {
    every_scenario_holds(Wiring::Tunnel, Translation::Packets);
}

/// The names of the programs on both sides of a device of node 1: what comes from it first.
fn programs(site: &Site, device: &str) -> Vec<String> {
    let shown = ["ingress", "egress"].map(|side| {
        let words = ["filter", "show", "dev", device, side];
        let output = site.at("node1", || Command::new("tc").args(words).output().unwrap());
        String::from_utf8(output.stdout).unwrap()
    });
    let text = shown.concat();
    let names = text.lines().filter_map(|line| line.split_once("sheave:"));
    names.map(|(_, rest)| rest.split_whitespace().next().unwrap().to_owned()).collect()
}

/// The devices of pods as the agent of node 1 knows them, with how it attached to them.
fn followed(site: &Site) -> Vec<(String, String)> {
    let status: Value = serde_json::from_str(&site.sheave(1, &["status", "-o", "json"])).unwrap();
    let devices = status["devices"].as_array().unwrap().iter().filter(|it| it["error"].is_null());
    devices
        .map(|it| (it["name"].as_str().unwrap().to_owned(), it["hook"].as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn the_first_datagram_of_a_new_pod_to_a_service_is_answered() {
    let site = site(Wiring::Direct, Translation::Packets);
    site.publish(&web(&["1a", "2a"]));
    let mut pods = Vec::new();
    for number in 0..10 {
        let pod = Netns::untouched().unwrap();
        let result = add(&site, 1, &format!("new{number}"), &pod, json!({}));
        let to = cluster_ip(number % 2 == 1);
        pod.run(|| udp(to)).unwrap_or_else(|error| panic!("pod {number} at {to}: {error}"));
        pods.push((result["interfaces"][0]["name"].as_str().unwrap().to_owned(), pod));
    }
    for (device, pod) in &pods {
        let known = (device.clone(), "clsact".to_owned());
        wait_for(format!("the agent knows {device}"), LIMIT, || {
            Ok(followed(&site).contains(&known).then_some(()))
        })
        .unwrap();
        assert_eq!(programs(&site, device), ["guard_ingress", "pod_ingress", "pod_egress"]);
        for to in FAMILIES.map(cluster_ip) {
            pod.run(|| udp(to)).unwrap();
        }
    }
}

#[test]
fn pods_ask_the_outside_with_the_nodes_address() {
    for wiring in [Wiring::Direct, Wiring::Tunnel] {
        let site = site(wiring, Translation::Sockets);
        let client = site.place("client");
        let _server = EchoServer::start(client, PORT).unwrap();
        for target in client.addresses.both().map(|address| SocketAddr::new(address, PORT)) {
            for (pod, number) in [("1a", 1), ("2c", 2)] {
                for ask in [tcp, udp] {
                    let answer = site.at(pod, || ask(target)).unwrap();
                    assert_eq!(
                        answer.seen.ip(),
                        node(number).like(target.ip()),
                        "{wiring:?}, {pod} at {target}"
                    );
                }
            }
        }
    }
}

/// As after an ICMP error about something else that the node once sent there. No tunnel leads to the node's own address,
/// so to say at it how little fits makes none narrower. Linux tells an IPv4 connection to an own address nothing
/// (`ip_rt_update_pmtu` ends only routes that are cached, and local ones are not), but the next one knows.
#[test]
fn a_process_learns_at_its_nodes_own_address_how_little_fits_the_way_to_a_backend() {
    let site = site(Wiring::Tunnel, Translation::Packets);
    let scenario = read("scenarios").into_iter().find(|it| it.name == "host-network").unwrap();
    site.publish(&scenario.manifests);
    for (far, own) in node(2).both().into_iter().zip(node(1).both()) {
        let words = ["route", "replace", &far.to_string(), "dev", "eth0", "mtu", "lock", "1400"];
        let changed = site.at("node1", || Command::new("ip").args(words).status().unwrap());
        assert!(changed.success(), "{words:?}");
        let to = SocketAddr::new(own, NODE_PORT);
        let transferred = transfer(&site, to, far);
        let transferred = if far.is_ipv4() { transfer(&site, to, far) } else { transferred };
        transferred.unwrap_or_else(|error| panic!("{to}: {error}"));
    }
}

/// Many bytes from node 1 to `to`, where the backend at the address `far` answers.
fn transfer(site: &Site, to: SocketAddr, far: IpAddr) -> io::Result<()> {
    let open = || {
        let connection = site.at("node1", || Connection::open(to))?;
        Ok((connection.answer.server.ip() == far).then_some(connection))
    };
    wait_for(format!("{far} answers at {to}"), LIMIT, open).unwrap().transfer(&pattern(1 << 20))
}
