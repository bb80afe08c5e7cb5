//! Host ports of pods: served as soon as the plugin was told so, through sockets and through packets, and gone with the
//! attachment. The attachments are written as the plugin writes them; the pods are the lab's.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use cni::record::{Attachment, AttachmentId, Ipam, NetnsId, PodRef, PortMapping, Protocol};
use cni::store::{Store, Wish};
use cni::{facts::NodeFacts, wire};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use proxy_common::EndpointValue;
use proxy_userspace::sockets::netns_cookie_of;
use sheave_tests::agent::Agent;
use sheave_tests::client::{ask_tcp, read_name};
use sheave_tests::lab::{NODE_V4, NODE_V6, Pod};
use sheave_tests::netns::Netns;
use sheave_tests::server::Server;

use crate::node::{Node, service};
use crate::world::{REFUSED, TARGET, errno};

const HOST_PORT: u16 = 8088;

fn at(address: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(address.into(), HOST_PORT)
}

fn ready(node: &Node, socket_lb: &str) -> Agent {
    node.ready_with(&["--pod-network", "true", "--socket-lb", socket_lb])
}

/// What the plugin remembers of `pod` before it wires it.
fn attachment(pod: &Pod, host_ip: Option<IpAddr>) -> Attachment {
    let id = AttachmentId { container_id: format!("sandbox-{}", pod.name), ifname: "eth0".to_owned() };
    let cookie = netns_cookie_of(Path::new(&pod.netns.path())).unwrap();
    Attachment {
        network: "sheave".to_owned(),
        since: 1,
        netns: NetnsId { device: 0, inode: 0, cookie },
        netns_path: pod.netns.path().into(),
        addresses: vec![pod.v4.into(), pod.v6.into()],
        // The lab gave the addresses.
        ipam: Ipam::Delegated("lab".to_owned()),
        mtu: 1500,
        ports: vec![PortMapping {
            host_port: HOST_PORT,
            container_port: TARGET,
            protocol: Protocol::Tcp,
            host_ip,
        }],
        pod: PodRef { namespace: "demo".to_owned(), name: pod.name.clone(), uid: String::new() },
        ..Attachment::of(id)
    }
}

/// Remembers the attachment of the pod called `name` as the plugin does, and asks for its ports. Returns the agent's
/// answer.
fn attach(node: &Node, name: &str, host_ip: Option<IpAddr>) -> String {
    let attachment = attachment(&node.world.pods[name], host_ip);
    let reserved = store(node).reserve(attachment, &Wish::default()).unwrap();
    ask(node, &reserved.id)
}

fn ask(node: &Node, id: &AttachmentId) -> String {
    let mut socket = UnixStream::connect(node.run_dir().join("control.sock")).unwrap();
    let AttachmentId { container_id, ifname } = id;
    writeln!(socket, r#"{{"ask":"pod-ports","containerId":"{container_id}","ifname":"{ifname}"}}"#).unwrap();
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).unwrap();
    answer.trim().to_owned()
}

fn detach(node: &Node, name: &str) {
    let id = AttachmentId { container_id: format!("sandbox-{name}"), ifname: "eth0".to_owned() };
    assert!(store(node).release(&id).unwrap().is_some());
}

fn store(node: &Node) -> Store {
    Store::open(&node.run_dir()).unwrap()
}

#[test]
fn a_host_port_answers_at_once_everywhere_on_the_node_and_from_the_pod_itself() {
    for socket_lb in ["all", "off"] {
        let node = Node::new();
        let _agent = ready(&node, socket_lb);
        assert_eq!(attach(&node, "a", None), r#""done""#, "--socket-lb={socket_lb}");
        let world = &node.world;
        for address in [at(NODE_V4), at(NODE_V6)] {
            assert_eq!(
                world.in_pod(|| ask_tcp(address)).unwrap().0,
                "a",
                "{address} --socket-lb={socket_lb}"
            );
            let itself = world.pods["a"].netns.run(|| ask_tcp(address));
            assert_eq!(itself.unwrap().0, "a", "hairpin {address} --socket-lb={socket_lb}");
            assert_eq!(
                world.on_node(|| ask_tcp(address)).unwrap().0,
                "a",
                "{address} --socket-lb={socket_lb}"
            );
        }
        detach(&node, "a");
        Node::until("nobody answers", || world.in_pod(|| ask_tcp(at(NODE_V4))).is_err());
    }
}

#[test]
fn two_pods_share_a_port_by_the_hosts_address() {
    let node = Node::new();
    let _agent = ready(&node, "all");
    assert_eq!(attach(&node, "a", Some(Ipv4Addr::LOCALHOST.into())), r#""done""#);
    assert_eq!(attach(&node, "b", Some(NODE_V4.into())), r#""done""#);
    assert_eq!(attach(&node, "c", Some(Ipv6Addr::LOCALHOST.into())), r#""done""#);
    let world = &node.world;
    for (address, pod) in [(at(Ipv4Addr::LOCALHOST), "a"), (at(NODE_V4), "b"), (at(Ipv6Addr::LOCALHOST), "c")]
    {
        assert_eq!(world.on_node(|| ask_tcp(address)).unwrap().0, pod, "{address}");
    }
    let elsewhere = world.on_node(|| ask_tcp(at(NODE_V6)));
    assert_eq!(errno(elsewhere), REFUSED, "an address that nobody asked for");
    assert_eq!(
        errno(world.in_pod(|| ask_tcp(at(Ipv4Addr::LOCALHOST)))),
        REFUSED,
        "a pod's loopback is its own"
    );
}

/// What the conformance test does: `curl --interface NODE http://127.0.0.1:PORT`.
#[test]
fn loopback_answers_a_socket_that_is_bound_to_the_nodes_address() {
    let node = Node::new();
    let _agent = ready(&node, "all");
    assert_eq!(attach(&node, "a", Some(Ipv4Addr::LOCALHOST.into())), r#""done""#);
    let answer = node.world.on_node(|| {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(NODE_V4, 0))).unwrap();
        let to = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, HOST_PORT));
        connect(socket.as_raw_fd(), &to).unwrap();
        read_name(&mut TcpStream::from(socket)).unwrap()
    });
    assert_eq!(answer, "a");
}

#[test]
fn a_port_that_a_service_has_is_refused_with_its_name() {
    let node = Node::new();
    let manifest = service("shop", "10.96.0.50", "TCP").replace(
        "  ports:\n  - port: 80\n",
        &format!("  type: NodePort\n  ports:\n  - port: 80\n    nodePort: {HOST_PORT}\n"),
    );
    node.write("shop.yaml", &manifest);
    let _agent = ready(&node, "all");
    let answer = attach(&node, "a", Some(NODE_V4.into()));
    assert!(answer.contains("refused") && answer.contains("owned by Service demo/shop"), "{answer}");
    node.remove("shop.yaml");
    Node::until("the pod has it", || node.world.on_node(|| ask_tcp(at(NODE_V4))).is_ok_and(|it| it.0 == "a"));
}

#[test]
fn host_ports_go_on_without_an_agent_and_a_new_one_takes_away_what_was_deleted_meanwhile() {
    let node = Node::new();
    let agent = ready(&node, "all");
    assert_eq!(attach(&node, "a", Some(NODE_V4.into())), r#""done""#);
    assert_eq!(attach(&node, "b", Some(NODE_V6.into())), r#""done""#);
    agent.kill();
    detach(&node, "b");
    assert_eq!(node.world.on_node(|| ask_tcp(at(NODE_V4))).unwrap().0, "a");
    let _agent = ready(&node, "all");
    assert_eq!(node.world.on_node(|| ask_tcp(at(NODE_V4))).unwrap().0, "a");
    assert_eq!(errno(node.world.on_node(|| ask_tcp(at(NODE_V6)))), REFUSED);
    let status = node.json(&["status"]);
    let parts = status["subsystems"].as_array().unwrap();
    let pods = parts.iter().find(|part| part["name"] == "pods").unwrap();
    assert_eq!(pods["state"], "0 attached, 1 being attached, 1 host ports");
}

/// Wires a pod of the test's own as the plugin does, for an agent that runs. Returns its namespace and the host's end.
fn wire_pod(node: &Node, address: Ipv4Addr) -> (Netns, u32, NodeFacts) {
    let facts = NodeFacts::read(&node.run_dir()).unwrap();
    let netns = Netns::new().unwrap();
    let of_lab = attachment(&node.world.pods["a"], None);
    let id = AttachmentId { container_id: "wired".to_owned(), ..of_lab.id.clone() };
    let attachment = Attachment {
        host_device: id.host_device(),
        host_mac: id.host_mac(),
        pod_mac: id.pod_mac(),
        netns: wire::identify(Path::new(&netns.path())).unwrap().unwrap(),
        netns_path: netns.path().into(),
        addresses: vec![address.into()],
        ports: Vec::new(),
        id,
        ..of_lab
    };
    let attachment = store(node).reserve(attachment, &Wish::default()).unwrap();
    let wired = node.world.on_node(|| wire::connect(&attachment, &facts.pins)).unwrap();
    store(node).commit(&attachment.id).unwrap();
    (netns, wired.host_index, facts)
}

#[test]
fn a_pod_whose_record_is_gone_gets_it_again_from_the_next_agent() {
    let node = Node::new();
    let agent = ready(&node, "all");
    let address = Ipv4Addr::new(10, 244, 0, 77);
    let (netns, index, facts) = wire_pod(&node, address);
    let server = Server::start(&netns, "wired", address.into(), TARGET).unwrap();
    let answers = || node.world.on_node(|| ask_tcp(server.address())).is_ok_and(|it| it.0 == "wired");
    assert!(answers());
    agent.kill();
    let map = Map::from_map_data(MapData::from_pin(&facts.pins.endpoints).unwrap()).unwrap();
    let mut records: HashMap<MapData, u32, EndpointValue> = map.try_into().unwrap();
    let before = records.get(&index, 0).unwrap();
    records.remove(&index).unwrap();
    assert!(!answers(), "nothing leaves a pod of which nothing is known");
    let agent = ready(&node, "all");
    Node::until("the pod answers", answers);
    let after = records.get(&index, 0).unwrap();
    assert_eq!((after.address4, after.mac), (before.address4, before.mac));
    assert!(agent.log().contains("its record was missing"));
}

#[test]
fn an_agent_that_wires_no_pods_says_so() {
    let node = Node::new();
    let _agent = node.ready();
    let id = AttachmentId { container_id: "c1".to_owned(), ifname: "eth0".to_owned() };
    assert!(ask(&node, &id).contains("--pod-network"));
}
