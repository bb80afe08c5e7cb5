//! The Services that both kinds of proxy are asked for, and their addresses.
//!
//! All of them are there at the same time, each with addresses of its own, counted from its place in [`SERVICES`]. Must
//! not know: who asks, or what should come of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};
use sheave_tests::topology::PORT;
use sheave_tests::topology::addresses::{CLIENT, Pair, node, pod};

/// Port of every frontend but NodePorts.
const SERVICE_PORT: u16 = 80;
const UNKNOWN_PORT: u16 = 81;

/// A Service with one port for TCP and one for UDP.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) endpoints: &'static [Endpoint],
    /// `externalTrafficPolicy` and `internalTrafficPolicy`: whether they are Local.
    local: (bool, bool),
    quirk: Quirk,
}

/// What is special about a Service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quirk {
    None,
    /// Only [`CLIENT`] may use its load balancer addresses.
    Ranges,
    /// Its load balancer addresses are a proxy's, which hands on to NodePorts.
    Proxied,
    Sticky,
}

pub(crate) struct Endpoint {
    pub(crate) place: &'static str,
    state: State,
    /// Hinted at clients on its own node.
    hinted: bool,
}

#[derive(Clone, Copy)]
enum State {
    Ready,
    Terminating,
    Unready,
}

const fn ready(place: &'static str) -> Endpoint {
    Endpoint { place, state: State::Ready, hinted: false }
}

const fn terminating(place: &'static str) -> Endpoint {
    Endpoint { place, state: State::Terminating, hinted: false }
}

const fn unready(place: &'static str) -> Endpoint {
    Endpoint { place, state: State::Unready, hinted: false }
}

const fn hinted(place: &'static str) -> Endpoint {
    Endpoint { place, state: State::Ready, hinted: true }
}

const EVERYWHERE: &[Endpoint] = &[ready("1a"), ready("2a")];
const NODE_2: &[Endpoint] = &[ready(LONE)];
/// The endpoint of Services that have only one.
const LONE: &str = "2a";

const fn service(name: &'static str, endpoints: &'static [Endpoint]) -> Service {
    Service { name, endpoints, local: (false, false), quirk: Quirk::None }
}

impl Service {
    const fn external_local(self) -> Self {
        Self { local: (true, self.local.1), ..self }
    }

    const fn internal_local(self) -> Self {
        Self { local: (self.local.0, true), ..self }
    }

    const fn with(self, quirk: Quirk) -> Self {
        Self { quirk, ..self }
    }
}

/// Every Service. The name says endpoints and policy.
pub(crate) const SERVICES: &[Service] = &[
    service("cluster", EVERYWHERE),
    service("cluster-far", NODE_2),
    service("external", EVERYWHERE).external_local(),
    service("external-far", NODE_2).external_local(),
    service("internal", EVERYWHERE).internal_local(),
    service("internal-far", NODE_2).internal_local(),
    service("both-far", NODE_2).external_local().internal_local(),
    service("none", &[]),
    service("none-local", &[]).external_local().internal_local(),
    service("unready", &[unready("1a"), unready("2a")]),
    service("draining", &[terminating("1a"), terminating("2a")]),
    service("draining-local", &[terminating("1a"), ready("2a")]).external_local().internal_local(),
    service("hinted", &[hinted("1a"), hinted("2a")]),
    service("itself", &[ready("1a")]),
    service("host", &[ready("node1"), ready("node2")]),
    service("ranges", EVERYWHERE).with(Quirk::Ranges),
    service("proxied", EVERYWHERE).with(Quirk::Proxied),
    service("sticky", &[ready("1a"), ready("1b")]).external_local().with(Quirk::Sticky),
];

/// An address of a Service, or one next to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    ClusterIp,
    /// At the first address of this node.
    NodePort(u8),
    /// At the second address of node 1.
    NodePortSecond,
    NodePortLoopback,
    /// Sent to node 1 by the router.
    ExternalIp,
    /// Sent to this node by the router.
    LoadBalancer(u8),
    /// A port that the Service does not have.
    ClusterIpUnknownPort,
    LoadBalancerUnknownPort,
    /// An address of the Services' range that no Service has.
    UnusedClusterIp,
    /// The Service's endpoint itself, from the port from which its ClusterIP was just asked.
    EndpointAfterClusterIp,
    /// The same after its NodePort on the endpoint's node.
    EndpointAfterNodePort,
}

impl Target {
    /// What every Service is asked at.
    pub(crate) const ALL: [Self; 6] = [
        Self::ClusterIp,
        Self::NodePort(1),
        Self::NodePort(2),
        Self::ExternalIp,
        Self::LoadBalancer(1),
        Self::LoadBalancer(2),
    ];
    /// What only a Service with endpoints everywhere is asked at.
    pub(crate) const BESIDE: [Self; 5] = [
        Self::NodePortSecond,
        Self::NodePortLoopback,
        Self::ClusterIpUnknownPort,
        Self::LoadBalancerUnknownPort,
        Self::UnusedClusterIp,
    ];
    /// What only a Service with the endpoint [`LONE`] is asked at.
    pub(crate) const AFTER: [Self; 2] = [Self::EndpointAfterClusterIp, Self::EndpointAfterNodePort];

    /// In the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort(1) => "NodePort@node1",
            Self::NodePort(_) => "NodePort@node2",
            Self::NodePortSecond => "NodePort@second",
            Self::NodePortLoopback => "NodePort@loopback",
            Self::ExternalIp => "ExternalIP",
            Self::LoadBalancer(1) => "LoadBalancer@node1",
            Self::LoadBalancer(_) => "LoadBalancer@node2",
            Self::ClusterIpUnknownPort => "ClusterIP:unknown",
            Self::LoadBalancerUnknownPort => "LoadBalancer:unknown",
            Self::UnusedClusterIp => "ClusterIP-unused",
            Self::EndpointAfterClusterIp => "endpoint-after-ClusterIP",
            Self::EndpointAfterNodePort => "endpoint-after-NodePort@node2",
        }
    }

    /// What is asked before, from the same port.
    pub(crate) fn asked_first(self) -> Option<Self> {
        match self {
            Self::EndpointAfterClusterIp => Some(Self::ClusterIp),
            Self::EndpointAfterNodePort => Some(Self::NodePort(2)),
            _ => None,
        }
    }

    /// Where a client finds the Service with this place in [`SERVICES`].
    pub(crate) fn socket(self, index: u8, v6: bool) -> SocketAddr {
        let pair = match self {
            Self::ClusterIp | Self::ClusterIpUnknownPort => cluster_ip(index),
            Self::NodePort(number) => node(number),
            Self::NodePortSecond => SECOND,
            Self::NodePortLoopback => Pair { v4: Ipv4Addr::LOCALHOST, v6: Ipv6Addr::LOCALHOST },
            Self::ExternalIp => external_ip(index),
            Self::LoadBalancer(number) => load_balancer(index, number),
            Self::LoadBalancerUnknownPort => load_balancer(index, 1),
            Self::UnusedClusterIp => cluster_ip(0x80 + index),
            Self::EndpointAfterClusterIp | Self::EndpointAfterNodePort => addresses(LONE),
        };
        let port = match self {
            Self::NodePort(_) | Self::NodePortSecond | Self::NodePortLoopback => node_port(index),
            Self::ClusterIpUnknownPort | Self::LoadBalancerUnknownPort => UNKNOWN_PORT,
            Self::EndpointAfterClusterIp | Self::EndpointAfterNodePort => PORT,
            _ => SERVICE_PORT,
        };
        let [v4_address, v6_address] = pair.both();
        SocketAddr::new(if v6 { v6_address } else { v4_address }, port)
    }
}

/// An address of node 1 that its Node object does not name.
pub(crate) const SECOND: Pair =
    Pair { v4: Ipv4Addr::new(192, 0, 2, 111), v6: Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x111) };

fn cluster_ip(index: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(10, 96, 1, index),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x100 + u16::from(index)),
    }
}

fn node_port(index: u8) -> u16 {
    30_100 + u16::from(index)
}

/// Within what the router sends to node 1.
fn external_ip(index: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(203, 0, 113, 80 + index),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0xf, 1, 0, 0, 0xe, u16::from(index)),
    }
}

fn load_balancer(index: u8, node: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(203, 0, 113, (node - 1) * 128 + 40 + index),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0xf, u16::from(node), 0, 0, 0xb, u16::from(index)),
    }
}

/// The addresses of a place in the topology that can be an endpoint.
fn addresses(place: &str) -> Pair {
    match place.as_bytes() {
        [b'n', .., number] => node(number - b'0'),
        [number, letter] => pod(number - b'0', letter - b'a'),
        _ => panic!("{place} cannot be an endpoint"),
    }
}

/// The node that a place is on or is; 0 for those outside.
pub(crate) fn node_of(place: &str) -> u8 {
    place.bytes().find(u8::is_ascii_digit).map_or(0, |digit| digit - b'0')
}

impl Service {
    pub(crate) fn is_sticky(&self) -> bool {
        self.quirk == Quirk::Sticky
    }

    /// Whether a client on that place would meet itself at random.
    pub(crate) fn contains(&self, place: &str) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.place == place)
    }

    /// How many endpoints can get something.
    pub(crate) fn usable(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| !matches!(endpoint.state, State::Unready)).count()
    }

    /// Whether `externalTrafficPolicy` is Local.
    pub(crate) fn is_external_local(&self) -> bool {
        self.local.0
    }

    pub(crate) fn has_ranges(&self) -> bool {
        self.quirk == Quirk::Ranges
    }

    /// The `spec` of the object.
    pub(crate) fn spec(&self, index: u8) -> Value {
        let policy = |local: bool| if local { "Local" } else { "Cluster" };
        let port = |name: &str, protocol: &str| {
            let number = node_port(index);
            json!({ "name": name, "protocol": protocol, "port": SERVICE_PORT, "nodePort": number })
        };
        let mut spec = json!({
            "type": "LoadBalancer",
            "ipFamilyPolicy": "RequireDualStack",
            "clusterIP": cluster_ip(index).v4,
            "clusterIPs": cluster_ip(index).both(),
            "externalIPs": external_ip(index).both(),
            "externalTrafficPolicy": policy(self.local.0),
            "internalTrafficPolicy": policy(self.local.1),
            "ports": [port("tcp", "TCP"), port("udp", "UDP")],
        });
        if self.local.0 {
            // Else the API server takes one that a later Service wants.
            spec["healthCheckNodePort"] = json!(32_000 + u16::from(index));
        }
        match self.quirk {
            Quirk::Ranges => {
                spec["loadBalancerSourceRanges"] =
                    json!([format!("{}/32", CLIENT.v4), format!("{}/128", CLIENT.v6)]);
            }
            Quirk::Sticky => spec["sessionAffinity"] = json!("ClientIP"),
            Quirk::None | Quirk::Proxied => {}
        }
        spec
    }

    /// The list in `status.loadBalancer`.
    pub(crate) fn ingress(&self, index: u8) -> Value {
        let mode = if self.quirk == Quirk::Proxied { "Proxy" } else { "VIP" };
        let addresses = [1, 2].map(|node| load_balancer(index, node).both()).concat();
        addresses.into_iter().map(|ip| json!({ "ip": ip, "ipMode": mode })).collect()
    }

    /// An EndpointSlice for each family.
    pub(crate) fn slices(&self) -> [Value; 2] {
        [false, true].map(|v6| {
            let endpoints: Vec<Value> = self.endpoints.iter().map(|endpoint| endpoint.object(v6)).collect();
            let (family, suffix) = if v6 { ("IPv6", "v6") } else { ("IPv4", "v4") };
            json!({
                "metadata": {
                    "name": format!("{}-{suffix}", self.name),
                    "labels": {
                        "kubernetes.io/service-name": self.name,
                        "endpointslice.kubernetes.io/managed-by": "oracle",
                    },
                },
                "addressType": family,
                "ports": [
                    { "name": "tcp", "protocol": "TCP", "port": PORT },
                    { "name": "udp", "protocol": "UDP", "port": PORT },
                ],
                "endpoints": endpoints,
            })
        })
    }
}

impl Endpoint {
    fn object(&self, v6: bool) -> Value {
        let [v4_address, v6_address]: [IpAddr; 2] = addresses(self.place).both();
        let node = format!("node{}", node_of(self.place));
        let (ready, serving, terminating) = match self.state {
            State::Ready => (true, true, false),
            State::Terminating => (false, true, true),
            State::Unready => (false, false, false),
        };
        let mut object = json!({
            "addresses": [if v6 { v6_address } else { v4_address }],
            "nodeName": node,
            "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
        });
        if self.hinted {
            object["hints"] = json!({ "forNodes": [{ "name": node }] });
        }
        object
    }
}
