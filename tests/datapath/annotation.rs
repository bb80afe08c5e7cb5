//! The annotation `sheave.io/socket-lb: "off"` of a pod that the real plugin wires for the real agent: its sockets are
//! left alone and its packets translated, until it is deleted.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use cni::facts::NodeFacts;
use cni::record::AttachmentId;
use proxy_userspace::sockets::netns_cookie_of;
use serde_json::{Value, json};
use sheave_tests::client::{ask_connected, connected_udp, read_name};
use sheave_tests::cni::{Call, IFNAME, Plugin, Subject};
use sheave_tests::netns::Netns;

use crate::node::{Node, service};
use crate::world::{TARGET, vip, vip6};

/// The node, with ranges for the plugin's pods apart from the lab's addresses.
const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nspec: {podCIDRs: [10.244.1.0/24, \
                    'fd00:10:244:1::/64']}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}, \
                    {type: InternalIP, address: '2001:db8::1'}]}\n";
/// Addresses of the Service over UDP, on port 80.
const NAMES: [&str; 2] = ["10.96.0.53", "fd00:10:96::53"];

/// Asks from a namespace: who answers, and whom the kernel takes for the peer.
type Question = fn(&Netns, SocketAddr) -> (String, SocketAddr);

/// A pod that the plugin has wired.
struct Wired<'a> {
    node: &'a Node,
    plugin: Plugin,
    container: &'a str,
    config: Value,
    netns: Netns,
}

impl<'a> Wired<'a> {
    /// ADD, as containerd calls it for a pod with these annotations.
    fn add(node: &'a Node, container: &'a str, annotations: &Value) -> Self {
        let config = json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "type": "sheave-cni",
            "runDir": node.run_dir(),
            "capabilities": { "io.kubernetes.cri.pod-annotations": true },
            "runtimeConfig": { "io.kubernetes.cri.pod-annotations": annotations },
        });
        let (plugin, netns) = (Subject::sheave().unwrap().plugin, Netns::new().unwrap());
        let pod = Self { node, plugin, container, config, netns };
        assert!(pod.call("ADD").is_some(), "{container}");
        pod
    }

    fn del(&self) {
        assert_eq!(self.call("DEL"), None);
    }

    fn call(&self, verb: &str) -> Option<Value> {
        let call = Call::new(verb, &self.config)
            .set("CNI_CONTAINERID", self.container)
            .set("CNI_NETNS", self.netns.path())
            .set("CNI_IFNAME", IFNAME)
            .set("CNI_PATH", "");
        self.plugin.call(&self.node.world.lab.node, &call).unwrap().success().unwrap()
    }

    fn cookie(&self) -> u64 {
        netns_cookie_of(Path::new(&self.netns.path())).unwrap()
    }

    /// Whether the packets of its device meet the agent's programs.
    fn meets_programs(&self) -> bool {
        let id = AttachmentId { container_id: self.container.to_owned(), ifname: IFNAME.to_owned() };
        let status = self.node.json(&["status"]);
        let is_it = |it: &Value| it["name"] == id.host_device() && it["error"].is_null();
        status["devices"].as_array().unwrap().iter().any(is_it)
    }
}

/// A [`Question`] over TCP.
fn tcp(netns: &Netns, to: SocketAddr) -> (String, SocketAddr) {
    netns.run(|| {
        let mut stream = TcpStream::connect(to).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), to, "what a program sees");
        (read_name(&mut stream).unwrap(), kernels_peer("tcp", stream.local_addr().unwrap()))
    })
}

/// A [`Question`] over UDP.
fn udp(netns: &Netns, to: SocketAddr) -> (String, SocketAddr) {
    netns.run(|| {
        let socket = connected_udp(to).unwrap();
        let (name, from) = ask_connected(&socket).unwrap();
        assert_eq!(from, to, "what a program sees");
        (name, kernels_peer("udp", socket.local_addr().unwrap()))
    })
}

/// The peer of the socket of this thread's namespace that is bound to `own`, as `/proc` shows it: no hook is asked.
fn kernels_peer(protocol: &str, own: SocketAddr) -> SocketAddr {
    let table = if own.is_ipv6() { format!("{protocol}6") } else { protocol.to_owned() };
    let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
    let mut sockets = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let socket = sockets.find(|words| end(words[1]) == own).unwrap_or_else(|| panic!("no {own} in {text}"));
    end(socket[2])
}

/// An end of a socket as `/proc` writes it: words of the address as they are in memory, then the port.
fn end(text: &str) -> SocketAddr {
    let (address, port) = text.split_once(':').unwrap();
    let word = |at| u32::from_str_radix(&address[at..at + 8], 16).unwrap().to_ne_bytes();
    let bytes: Vec<u8> = (0..address.len()).step_by(8).flat_map(word).collect();
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).unwrap()),
    };
    SocketAddr::new(address, u16::from_str_radix(port, 16).unwrap())
}

/// The cookies of the namespaces whose sockets are left alone.
fn left_alone(node: &Node) -> Vec<u64> {
    let pin = NodeFacts::read(&node.run_dir()).unwrap().pins.packet_only;
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let map: HashMap<MapData, u64, u8> = map.try_into().unwrap();
    map.keys().map(Result::unwrap).collect()
}

/// Where the server called `name` is, in the family of `like`.
fn backend(node: &Node, name: &str, like: SocketAddr) -> SocketAddr {
    let pod = &node.world.pods[name];
    SocketAddr::new(if like.is_ipv6() { pod.v6.into() } else { pod.v4.into() }, TARGET)
}

#[test]
fn sockets_of_an_annotated_pod_are_left_alone_and_served_nonetheless_until_it_is_deleted() {
    let node = Node::new();
    let [v4, v6] = NAMES;
    node.write("names.yaml", &service("names", &format!("{v4}, '{v6}'"), "UDP"));
    node.write_slices("names", "UDP", &["a", "b", "c"]);
    node.write("node.yaml", NODE);
    let _agent = node.ready_with(&["--pod-network", "true", "--pod-mtu", "1500"]);
    let annotated = Wired::add(&node, "annotated", &json!({ "sheave.io/socket-lb": "off" }));
    let plain = Wired::add(&node, "plain", &json!({ "example.com/else": "off" }));
    assert_eq!(left_alone(&node), [annotated.cookie()]);
    Node::until("both devices have programs", || annotated.meets_programs() && plain.meets_programs());

    let names = NAMES.map(|address| SocketAddr::new(address.parse().unwrap(), vip().port()));
    let questions: [(Question, _); 2] = [(tcp, [vip(), vip6()]), (udp, names)];
    for (ask, addresses) in questions {
        for to in addresses {
            let (name, peer) = ask(&annotated.netns, to);
            assert_eq!(peer, to, "{name} answered, by packets");
            let (name, peer) = ask(&plain.netns, to);
            assert_eq!(peer, backend(&node, &name, to), "the socket was translated");
        }
    }
    annotated.del();
    assert_eq!(left_alone(&node), [0; 0]);
    plain.del();
}
