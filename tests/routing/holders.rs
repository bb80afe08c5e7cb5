//! What a pod left in the connection table does not reach the next one that has its address; a pod outside of the node's
//! prefixes is masqueraded as long as it lives. The attachments are written as the plugin writes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use cni::record::{Attachment, AttachmentId, Ipam, NetnsId};
use cni::store::{Store, Wish};
use proxy_userspace::sockets::netns_cookie_of;
use sheave_tests::wait::wait_for;

use crate::rig::{LIMIT, Rig, Underlay, node_v4, node_v6, pod};

/// How long an answer may take.
const SOON: Duration = Duration::from_secs(5);
/// For how long none must come.
const QUIET: Duration = Duration::from_millis(500);
const PORT: u16 = 1111;
/// The router's own addresses: outside of the cluster.
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0xfe)),
];

/// An attachment of the pod's namespace with these addresses.
fn attach(rig: &Rig, container: &str, addresses: &[IpAddr]) {
    let id = AttachmentId { container_id: container.to_owned(), ifname: "eth0".to_owned() };
    let path = rig.pod_netns(1).path();
    let cookie = netns_cookie_of(Path::new(&path)).unwrap();
    let attachment = Attachment {
        network: "sheave".to_owned(),
        since: std::time::UNIX_EPOCH.elapsed().unwrap().as_secs(),
        netns: NetnsId { device: 0, inode: 0, cookie },
        netns_path: path.into(),
        addresses: addresses.to_vec(),
        ipam: Ipam::Delegated("rig".to_owned()),
        mtu: 1500,
        ..Attachment::of(id)
    };
    store(rig).reserve(attachment, &Wish::default()).unwrap();
}

fn detach(rig: &Rig, container: &str) {
    let id = AttachmentId { container_id: container.to_owned(), ifname: "eth0".to_owned() };
    assert!(store(rig).release(&id).unwrap().is_some());
}

fn store(rig: &Rig) -> Store {
    Store::open(&rig.run_dir(1)).unwrap()
}

/// Of the pod's, or of the router's, on its fixed port.
fn socket(rig: &Rig, inside: bool, address: IpAddr) -> UdpSocket {
    socket_at(rig, inside, SocketAddr::new(address, PORT))
}

fn socket_at(rig: &Rig, inside: bool, address: SocketAddr) -> UdpSocket {
    let netns = if inside { rig.pod_netns(1) } else { &rig.router };
    let socket = netns.run(|| UdpSocket::bind(address)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Option<SocketAddr> {
    socket.recv_from(&mut [0; 16]).ok().map(|(_, from)| from)
}

/// Whom the outside sees when the pod sends from `address`; port 0: any. `None` also when it cannot answer that one, as
/// it cannot answer a pod's own address: the agent is ready a moment before it masquerades.
fn seen(rig: &Rig, address: SocketAddr, outside: &UdpSocket) -> Option<SocketAddr> {
    let pod = socket_at(rig, true, address);
    pod.send_to(b"question", outside.local_addr().unwrap()).unwrap();
    let from = receive(outside)?;
    outside.send_to(b"answer", from).ok()?;
    receive(&pod).map(|_| from)
}

fn flows(rig: &Rig, address: IpAddr) -> usize {
    let text = rig.sheave(1, &["flow", "list", "-o", "json"]);
    let flows: serde_json::Value = serde_json::from_str(&text).unwrap();
    let client = SocketAddr::new(address, PORT).to_string();
    flows.as_array().unwrap().iter().filter(|flow| flow["client"] == client.as_str()).count()
}

fn until_no_flows(rig: &Rig) {
    wait_for("the flows are gone", LIMIT, || {
        Ok(pod(1).iter().all(|address| flows(rig, *address) == 0).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", rig.log(1)));
}

fn start() -> Rig {
    let mut rig = Rig::new(Underlay::Both);
    rig.launch(1, &[]);
    rig.wait_until_told(1);
    rig
}

/// The pod asks both, by either family. Returns the outside's sockets and to whom they would answer.
fn asked(rig: &Rig) -> Vec<(UdpSocket, SocketAddr)> {
    let nodes: [IpAddr; 2] = [node_v4(1).into(), node_v6(1).into()];
    let ask = |(number, address): (usize, IpAddr)| {
        let outside = socket(rig, false, OUTSIDE[number]);
        let from = wait_for(format!("{address} is answered"), LIMIT, || {
            Ok(seen(rig, SocketAddr::new(address, PORT), &outside).filter(|from| from.ip() == nodes[number]))
        });
        (outside, from.unwrap_or_else(|error| panic!("{error}\n{}", rig.log(1))))
    };
    pod(1).into_iter().enumerate().map(ask).collect()
}

fn nobody_gets_what_was_anothers(rig: &Rig, asked: &[(UdpSocket, SocketAddr)]) {
    for ((outside, from), address) in asked.iter().zip(pod(1)) {
        let next = socket(rig, true, address);
        next.set_read_timeout(Some(QUIET)).unwrap();
        outside.send_to(b"late", from).unwrap();
        assert_eq!(receive(&next), None, "the next pod with {address}");
    }
}

#[test]
fn an_address_that_is_given_back_or_to_another_pod_takes_no_flow_along() {
    let rig = start();
    attach(&rig, "first", &pod(1));
    let before = asked(&rig);
    let other = socket(&rig, true, pod(1)[0]);
    before[0].0.send_to(b"again", before[0].1).unwrap();
    assert!(receive(&other).is_some(), "what the test is about");
    drop(other);
    detach(&rig, "first");
    until_no_flows(&rig);
    nobody_gets_what_was_anothers(&rig, &before);
    drop(before);

    attach(&rig, "second", &pod(1));
    let before = asked(&rig);
    detach(&rig, "second");
    attach(&rig, "third", &pod(1));
    until_no_flows(&rig);
    nobody_gets_what_was_anothers(&rig, &before);
    drop(before);
    assert_eq!(asked(&rig).len(), 2, "the third pod is served");
}

#[test]
fn an_address_that_changed_hands_while_no_agent_ran_takes_no_flow_along() {
    let mut rig = start();
    attach(&rig, "first", &pod(1));
    let before = asked(&rig);
    rig.kill(1);
    detach(&rig, "first");
    // Times of flows and of attachments are known to the second.
    sleep(Duration::from_secs(4));
    attach(&rig, "second", &pod(1)[..1]);
    rig.launch(1, &[]);
    rig.wait_until_told(1);
    let [v4, v6] = pod(1);
    wait_for("the flow is gone", LIMIT, || Ok((flows(&rig, v4) == 0).then_some(()))).unwrap();
    assert_eq!(flows(&rig, v6), 1, "nobody has the address");
    attach(&rig, "third", &[v6]);
    until_no_flows(&rig);
    nobody_gets_what_was_anothers(&rig, &before);
}

#[test]
fn flows_of_pods_that_stay_outlive_others_and_the_agent() {
    let mut rig = start();
    attach(&rig, "first", &pod(1));
    let before = asked(&rig);
    attach(&rig, "other", &["10.244.1.9".parse().unwrap()]);
    detach(&rig, "other");
    rig.kill(1);
    rig.launch(1, &[]);
    rig.wait_until_told(1);
    attach(&rig, "other", &["10.244.1.9".parse().unwrap()]);
    detach(&rig, "other");
    for ((outside, from), address) in before.iter().zip(pod(1)) {
        let same = socket(&rig, true, address);
        outside.send_to(b"later", from).unwrap();
        assert!(receive(&same).is_some(), "{address}");
    }
}

#[test]
fn a_pod_outside_of_the_nodes_prefixes_is_masqueraded_while_it_lives() {
    let rig = start();
    let address: IpAddr = "10.9.9.9".parse().unwrap();
    rig.pod_netns(1).ip("addr add 10.9.9.9/32 dev eth0").unwrap();
    rig.node(1).ip("route add 10.9.9.9/32 dev pod proto 158").unwrap();
    rig.router.ip(&format!("route add 10.9.9.9/32 via {}", node_v4(1))).unwrap();
    let outside = socket(&rig, false, OUTSIDE[0]);
    for round in ["first", "second"] {
        attach(&rig, round, &[address]);
        // A flow goes on as it began: each time another port.
        let is_seen = |as_whom: IpAddr| {
            Ok(seen(&rig, SocketAddr::new(address, 0), &outside).filter(|from| from.ip() == as_whom))
        };
        wait_for("it is masqueraded", LIMIT, || is_seen(node_v4(1).into())).unwrap();
        detach(&rig, round);
        wait_for("its address is nobody's", LIMIT, || is_seen(address)).unwrap();
    }
}
