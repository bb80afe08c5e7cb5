//! Three nodes, each a network namespace with an agent and a pod: two on one link, the third behind a router that knows
//! nothing of pods.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use cni::facts::NodeFacts;
use sheave_tests::agent::{Agent, binary};
use sheave_tests::bpffs::BpfFs;
use sheave_tests::cgroup::Cgroup;
use sheave_tests::netns::{Netns, veth};
use sheave_tests::wait::wait_for;

/// How long a change may take to show, on a machine that is busy with other tests.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
const START_LIMIT: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_secs(5);
/// How many nodes there are; they are counted from 1.
pub(crate) const NODES: u8 = 3;

/// Which addresses nodes have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Underlay {
    Both,
    OnlyV6,
}

/// What the Node object of one says.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) pod_cidrs: Vec<String>,
}

/// The order of the fields is the order in which they are taken down.
pub(crate) struct Rig {
    hosts: Vec<Host>,
    manifests: tempfile::TempDir,
    underlay: Underlay,
    /// Knows the nodes and nothing of pods.
    pub(crate) router: Netns,
}

struct Host {
    number: u8,
    agent: Option<Agent>,
    node: Netns,
    pod: Netns,
    bpffs: BpfFs,
    cgroup: Cgroup,
    dir: tempfile::TempDir,
}

/// A node's own address.
pub(crate) fn node_v4(number: u8) -> Ipv4Addr {
    if number == 3 { Ipv4Addr::new(198, 51, 100, 3) } else { Ipv4Addr::new(192, 0, 2, number) }
}

pub(crate) fn node_v6(number: u8) -> Ipv6Addr {
    let link = if number == 3 { 0xb } else { 0xa };
    Ipv6Addr::new(0x2001, 0xdb8, link, 0, 0, 0, 0, number.into())
}

/// A node's pod.
pub(crate) fn pod(number: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, number.into(), 0, 0, 0, 5);
    [Ipv4Addr::new(10, 244, number, 5).into(), v6.into()]
}

impl Rig {
    /// Everything connected, no agent yet; all Nodes described.
    pub(crate) fn new(underlay: Underlay) -> Self {
        let router = namespace();
        router.ip("link add lan type bridge stp_state 0 mcast_snooping 0").unwrap();
        router.ip("link set lan up").unwrap();
        let hosts = (1..=NODES).map(|number| Host::new(number, &router, underlay)).collect();
        router_addresses(&router, "lan", 1, underlay);
        router_addresses(&router, "node3", 3, underlay);
        let rig = Self { hosts, manifests: tempfile::tempdir().unwrap(), underlay, router };
        rig.describe(&rig.nodes());
        rig
    }

    /// What the Nodes say unless a test changes it.
    pub(crate) fn nodes(&self) -> Vec<Described> {
        let described = |number| Described {
            name: format!("n{number}"),
            addresses: match self.underlay {
                Underlay::Both => vec![node_v4(number).into(), node_v6(number).into()],
                Underlay::OnlyV6 => vec![node_v6(number).into()],
            },
            pod_cidrs: vec![format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")],
        };
        (1..=NODES).map(described).collect()
    }

    /// Replaces the Nodes.
    pub(crate) fn describe(&self, nodes: &[Described]) {
        let text: Vec<String> = nodes.iter().map(Described::manifest).collect();
        let hidden = self.manifests.path().join(".nodes.yaml.new");
        fs::write(&hidden, text.join("---\n")).unwrap();
        fs::rename(hidden, self.manifests.path().join("nodes.yaml")).unwrap();
    }

    /// Starts all agents with these settings, and waits until each has told its plugin of the node.
    pub(crate) fn start(&mut self, settings: &[&str]) {
        for number in 1..=NODES {
            self.launch(number, settings);
        }
        for number in 1..=NODES {
            self.wait_until_told(number);
        }
    }

    pub(crate) fn launch(&mut self, number: u8, settings: &[&str]) {
        let folder = self.manifests.path().to_str().unwrap().to_owned();
        let host = &mut self.hosts[usize::from(number) - 1];
        let name = format!("n{number}");
        let fixed = ["--pod-network", "--node-name", &name, "--manifests", &folder];
        let arguments = [&fixed, settings].concat();
        host.agent = Some(
            Agent::start_inside(&host.node, &host.cgroup, &host.bpffs, host.dir.path(), &arguments).unwrap(),
        );
    }

    pub(crate) fn wait_until_told(&mut self, number: u8) {
        let host = &mut self.hosts[usize::from(number) - 1];
        host.agent.as_mut().unwrap().wait_until_ready(START_LIMIT).unwrap();
        wait_for(format!("node {number} knows its pods"), LIMIT, || {
            Ok(host.facts().filter(|facts| facts.obstacle.is_none()))
        })
        .unwrap();
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, number: u8) {
        self.hosts[usize::from(number) - 1].agent.take().unwrap().kill();
    }

    pub(crate) fn log(&self, number: u8) -> String {
        self.host(number).agent.as_ref().unwrap().log()
    }

    /// Runs a command of `sheave` on a node.
    pub(crate) fn sheave(&self, number: u8, words: &[&str]) -> String {
        let host = self.host(number);
        let mut command = Command::new(binary().unwrap());
        command.args(words).env("SHEAVE_PIN_DIR", host.bpffs.pins());
        command.env("SHEAVE_RUN_DIR", host.dir.path().join("run"));
        host.node.place(&mut command).unwrap();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn host(&self, number: u8) -> &Host {
        &self.hosts[usize::from(number) - 1]
    }

    pub(crate) fn node(&self, number: u8) -> &Netns {
        &self.host(number).node
    }

    pub(crate) fn pod_netns(&self, number: u8) -> &Netns {
        &self.host(number).pod
    }

    pub(crate) fn facts(&self, number: u8) -> Option<NodeFacts> {
        self.host(number).facts()
    }

    /// The run folder of a node's agent.
    pub(crate) fn run_dir(&self, number: u8) -> PathBuf {
        self.host(number).dir.path().join("run")
    }

    /// Our routes on a node, without those to its own pods, as `ip` shows them.
    pub(crate) fn routes(&self, number: u8) -> Vec<String> {
        let show = |family| shown(self.node(number), &[family, "route", "show", "proto", "158"]);
        let lines = [show("-4"), show("-6")].concat();
        let is_between = |line: &&str| line.contains(" via ") || line.starts_with("unreachable");
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        lines.lines().filter(is_between).map(words).collect()
    }

    /// Waits until a node has a route to `network` that `ip` shows with `part`; with `None`: until it has none.
    pub(crate) fn await_route(&self, number: u8, network: &str, part: Option<&str>) {
        let begins = format!("{network} ");
        let what = format!("node {number} has for {network}: {part:?}");
        let shows = |route: &String| route.starts_with(&begins) && part.is_none_or(|it| route.contains(it));
        let result = wait_for(what, LIMIT, || {
            let any = self.routes(number).iter().any(shows);
            Ok((any == part.is_some()).then_some(()))
        });
        result.unwrap_or_else(|error| panic!("{error}: {:#?}\n{}", self.routes(number), self.log(number)));
    }

    /// Waits until every pod reaches every other.
    pub(crate) fn await_all_reach_all(&self) {
        for (from, to) in pairs() {
            for address in pod(to) {
                wait_for(format!("pod {from} reaches {address}"), LIMIT, || {
                    Ok(ask(self.pod_netns(from), self.pod_netns(to), address).ok())
                })
                .unwrap();
            }
        }
    }

    /// Replaces the Services and EndpointSlices.
    pub(crate) fn serve(&self, manifests: &str) {
        let hidden = self.manifests.path().join(".services.yaml.new");
        fs::write(&hidden, manifests).unwrap();
        fs::rename(hidden, self.manifests.path().join("services.yaml")).unwrap();
    }

    /// Whether one datagram that fills the MTU gets from pod to pod.
    pub(crate) fn largest_datagram_arrives(&self, from: u8, to: u8, address: IpAddr, mtu: u32) -> bool {
        let headers = if address.is_ipv4() { 28 } else { 48 };
        let payload = vec![1; usize::try_from(mtu).unwrap() - headers];
        let server = self.pod_netns(to).run(|| UdpSocket::bind((address, 0))).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let target = server.local_addr().unwrap();
        self.pod_netns(from).run(|| {
            let any: IpAddr =
                if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            UdpSocket::bind((any, 0)).unwrap().send_to(&payload, target).unwrap();
        });
        let mut buffer = vec![0; 65_536];
        server.recv(&mut buffer).is_ok_and(|length| length == payload.len())
    }

    /// Gives every pod the MTU that its node's agent says.
    pub(crate) fn adopt_mtu(&self) -> [u32; 3] {
        [1, 2, 3].map(|number| {
            let mtu = self.facts(number).unwrap().mtu;
            self.node(number).ip(&format!("link set pod mtu {mtu}")).unwrap();
            self.pod_netns(number).ip(&format!("link set eth0 mtu {mtu}")).unwrap();
            mtu
        })
    }
}

impl Host {
    fn new(number: u8, router: &Netns, underlay: Underlay) -> Self {
        let (node, pod) = (namespace(), namespace());
        let device = format!("node{number}");
        veth(router, &device, &node, "eth0").unwrap();
        if number != 3 {
            router.ip(&format!("link set {device} master lan")).unwrap();
        }
        let gateway = gateways(number);
        if underlay == Underlay::Both {
            node.ip(&format!("addr add {}/24 dev eth0", node_v4(number))).unwrap();
            node.ip(&format!("route add default via {}", gateway.0)).unwrap();
        }
        node.ip(&format!("addr add {}/64 dev eth0 nodad", node_v6(number))).unwrap();
        node.ip(&format!("-6 route add default via {}", gateway.1)).unwrap();
        wire(number, &node, &pod);
        Self {
            number,
            agent: None,
            node,
            pod,
            bpffs: BpfFs::new().unwrap(),
            cgroup: Cgroup::new().unwrap(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn facts(&self) -> Option<NodeFacts> {
        let run_dir = self.dir.path().join("run");
        let facts = NodeFacts::read(&run_dir).ok()?;
        assert_eq!(facts.node, format!("n{}", self.number));
        Some(facts)
    }
}

impl Described {
    fn manifest(&self) -> String {
        let address = |it: &IpAddr| format!("  - {{type: InternalIP, address: '{it}'}}\n");
        let addresses: String = self.addresses.iter().map(address).collect();
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {}}}\nspec: {{podCIDRs: {:?}}}\nstatus:\n  addresses:\n{addresses}",
            self.name, self.pod_cidrs
        )
    }
}

/// A namespace whose addresses can be used at once, and where no router is waited for.
fn namespace() -> Netns {
    let netns = Netns::new().unwrap();
    for devices in ["all", "default"] {
        netns.sysctl(&format!("ipv6/conf/{devices}/accept_dad"), "0").unwrap();
        netns.sysctl(&format!("ipv6/conf/{devices}/router_solicitations"), "0").unwrap();
    }
    netns
}

/// The router's addresses on the link of a node.
fn gateways(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let [a, b, c, _] = node_v4(number).octets();
    let mut v6 = node_v6(number).segments();
    v6[7] = 0xfe;
    (Ipv4Addr::new(a, b, c, 254), v6.into())
}

fn router_addresses(router: &Netns, device: &str, number: u8, underlay: Underlay) {
    let (v4, v6) = gateways(number);
    if underlay == Underlay::Both {
        router.ip(&format!("addr add {v4}/24 dev {device}")).unwrap();
    }
    router.ip(&format!("addr add {v6}/64 dev {device} nodad")).unwrap();
    router.sysctl("ipv4/ip_forward", "1").unwrap();
    router.sysctl("ipv6/conf/all/forwarding", "1").unwrap();
}

/// As the plugin does, with routes of the same protocol.
fn wire(number: u8, node: &Netns, netns: &Netns) {
    veth(node, "pod", netns, "eth0").unwrap();
    node.ip("addr add 169.254.1.1/32 dev pod scope link").unwrap();
    node.ip("addr add fe80::1/64 dev pod nodad").unwrap();
    let [v4, v6] = pod(number);
    node.ip(&format!("route add {v4}/32 dev pod proto 158")).unwrap();
    node.ip(&format!("-6 route add {v6}/128 dev pod proto 158")).unwrap();
    netns.ip(&format!("addr add {v4}/32 dev eth0")).unwrap();
    netns.ip(&format!("addr add {v6}/128 dev eth0 nodad")).unwrap();
    netns.ip("route add 169.254.1.1 dev eth0 scope link").unwrap();
    netns.ip("route add default via 169.254.1.1 dev eth0").unwrap();
    netns.ip("-6 route add default via fe80::1 dev eth0").unwrap();
}

/// Sends much by TCP from one namespace to an address in another. Returns whom that saw.
pub(crate) fn ask(from: &Netns, to: &Netns, address: IpAddr) -> std::io::Result<IpAddr> {
    let listener = to.run(|| TcpListener::bind((address, 0)))?;
    let target = listener.local_addr()?;
    send_much(from, target, &listener)
}

/// The same to a Service's address, of which `backend` in the namespace `to` is the endpoint.
pub(crate) fn ask_service(
    from: &Netns,
    service: SocketAddr,
    to: &Netns,
    backend: SocketAddr,
) -> std::io::Result<IpAddr> {
    let listener = to.run(|| TcpListener::bind(backend))?;
    send_much(from, service, &listener)
}

/// How many fragments a namespace has made, both families.
pub(crate) fn fragments(netns: &Netns) -> u64 {
    let text = netns.run(|| {
        let v6 = fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
        (fs::read_to_string("/proc/thread-self/net/snmp").unwrap(), v6)
    });
    let ip: Vec<&str> = text.0.lines().filter(|line| line.starts_with("Ip: ")).collect();
    let place = ip[0].split_whitespace().position(|word| word == "FragCreates").unwrap();
    let v4: u64 = ip[1].split_whitespace().nth(place).unwrap().parse().unwrap();
    let line = text.1.lines().find(|line| line.starts_with("Ip6FragCreates")).unwrap();
    v4 + line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

fn send_much(from: &Netns, target: SocketAddr, listener: &TcpListener) -> std::io::Result<IpAddr> {
    const AMOUNT: usize = 300_000;
    listener.set_nonblocking(true)?;
    let mut client = from.run(|| connect(target))?;
    let (mut server, seen) = listener.accept()?;
    server.set_nonblocking(false)?;
    server.set_read_timeout(Some(PATIENCE))?;
    let sender = std::thread::spawn(move || client.write_all(&vec![7; AMOUNT]));
    let mut received = vec![0; AMOUNT];
    let read = server.read_exact(&mut received);
    drop(server);
    sender.join().unwrap()?;
    read.map(|()| seen.ip().to_canonical())
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Every ordered pair of nodes.
pub(crate) fn pairs() -> impl Iterator<Item = (u8, u8)> {
    (1..=NODES).flat_map(|from| (1..=NODES).filter(move |to| *to != from).map(move |to| (from, to)))
}

/// What a command of iproute2 prints in a namespace.
pub(crate) fn shown(netns: &Netns, words: &[&str]) -> String {
    let output = netns.run(|| Command::new("ip").args(words).output()).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `bridge` of iproute2 in a namespace.
pub(crate) fn bridge(netns: &Netns, words: &str) {
    let output = netns.run(|| Command::new("bridge").args(words.split_whitespace()).output()).unwrap();
    assert!(output.status.success(), "bridge {words}: {}", String::from_utf8_lossy(&output.stderr));
}
