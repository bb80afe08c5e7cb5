//! What Sheave does otherwise than kube-proxy, each with its reason. `docs/differences.md` has a section for each.
//!
//! Must not know: how it is found out.

use sheave_tests::kube_proxy::Mode;

use crate::questions::Question;
use crate::services::{Target, node_of};
use crate::stage::System;
use crate::survey::Outcomes;

const IPTABLES: System = System::KubeProxy(Mode::Iptables);
const NFTABLES: System = System::KubeProxy(Mode::Nftables);
const SOCKETS: System = System::Sheave { sockets: true };
const PACKETS: System = System::Sheave { sockets: false };
const KUBE_PROXY: &[System] = &[IPTABLES, NFTABLES];
const SHEAVE: &[System] = &[SOCKETS, PACKETS];

const PORT_TITLE: &str = "A client's UDP port stays with the Service it was used for";
const PORT_REASON: &str = "What a client sends to an endpoint itself is not looked at, so that packets that are not for a \
                           Service cost one look-up, and the answer is taken for one of the flow before.";

/// A difference: what Sheave makes of the questions that it covers, as a function of what kube-proxy makes of them.
pub(crate) struct Difference {
    /// The heading in the documentation.
    pub(crate) title: &'static str,
    /// Why it is so, in a sentence, which the documentation has too.
    pub(crate) reason: &'static str,
    /// The columns that differ.
    theirs: &'static [System],
    ours: &'static [System],
    covers: fn(&Question) -> bool,
    becomes: Becomes,
}

enum Becomes {
    /// The same servers see the client under another name: that for a server and the name it had.
    Source(fn(&Question, &str, &str) -> String),
    /// Something else: in the words of the table.
    Text(fn(&Question) -> String),
}

impl Difference {
    pub(crate) fn is_between(&self, [theirs, ours]: [System; 2]) -> bool {
        self.theirs.contains(&theirs) && self.ours.contains(&ours)
    }

    pub(crate) fn covers(&self, question: &Question, systems: [System; 2]) -> bool {
        self.is_between(systems) && (self.covers)(question)
    }

    /// What becomes of kube-proxy's outcomes.
    pub(crate) fn apply(&self, question: &Question, outcomes: &Outcomes) -> Outcomes {
        match self.becomes {
            Becomes::Source(name) => outcomes.with_sources(|server, source| name(question, server, source)),
            Becomes::Text(text) => text(question).parse().unwrap(),
        }
    }
}

/// All of them, applied in this order.
pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        title: "An unknown port of a ClusterIP is refused",
        reason: "Nothing else can own the address, so a typing error shows at once instead of after a time-out.",
        theirs: &[IPTABLES],
        ours: SHEAVE,
        covers: |question| question.row.target == Target::ClusterIpUnknownPort,
        becomes: Becomes::Text(|_| "refused".to_owned()),
    },
    Difference {
        title: "Every address of a node has its NodePorts",
        reason: "Clients that know a node by any of its addresses reach it.",
        theirs: &[NFTABLES],
        ours: SHEAVE,
        covers: |question| question.row.target == Target::NodePortSecond,
        becomes: Becomes::Text(everybody),
    },
    Difference {
        title: "NodePorts on loopback are a socket's, in both families",
        reason: "A socket needs no route that lets loopback addresses out of the node.",
        theirs: KUBE_PROXY,
        ours: &[SOCKETS],
        covers: |question| question.row.target == Target::NodePortLoopback && question.row.client == "node1",
        becomes: Becomes::Text(everybody),
    },
    Difference {
        title: "NodePorts on loopback need sockets",
        reason: "Packets with a loopback address never leave the loopback device unless the kernel is told to route them.",
        theirs: &[IPTABLES],
        ours: &[PACKETS],
        covers: |question| question.row.target == Target::NodePortLoopback,
        becomes: Becomes::Text(|_| "refused".to_owned()),
    },
    Difference {
        title: "A pod at another node's NodePort comes from outside",
        reason: "kube-proxy takes it for a client inside there, chooses any endpoint, and the answer of one on another node \
                 goes past the NodePort's node, so that the client gets nothing.",
        theirs: KUBE_PROXY,
        ours: SHEAVE,
        covers: |question| {
            let is_pod = node_of(question.row.client) != 0 && question.row.client != "node1";
            let service = question.row.service();
            let is_node_port = matches!(question.row.target, Target::NodePort(_));
            is_pod
                && is_node_port
                && question.comes_from_outside()
                && service.is_external_local()
                && !service.is_sticky()
        },
        becomes: Becomes::Text(local_endpoints),
    },
    Difference {
        title: "A process of the host is refused like everybody else",
        reason: "Without endpoints every frontend refuses at once; kube-proxy's iptables rules leave out what a node's own \
                 processes send to external addresses.",
        theirs: &[IPTABLES],
        ours: SHEAVE,
        covers: |question| {
            let comes_back = matches!(question.row.target, Target::ExternalIp | Target::LoadBalancer(1));
            let is_empty = ["none", "none-local", "unready"].contains(&question.row.service().name);
            question.row.client == "node1" && comes_back && is_empty && !question.way.v6
        },
        becomes: Becomes::Text(|_| "refused".to_owned()),
    },
    Difference {
        title: PORT_TITLE,
        reason: PORT_REASON,
        theirs: KUBE_PROXY,
        ours: &[SOCKETS],
        // Where a socket is translated no flow is made.
        covers: |question| {
            let is_packet = question.row.target == Target::EndpointAfterNodePort;
            keeps_flow(question) && is_packet && node_of(question.row.client) != 2
        },
        becomes: Becomes::Text(|_| "silent".to_owned()),
    },
    Difference {
        title: PORT_TITLE,
        reason: PORT_REASON,
        theirs: KUBE_PROXY,
        ours: &[PACKETS],
        covers: keeps_flow,
        becomes: Becomes::Text(|_| "silent".to_owned()),
    },
    Difference {
        title: "A client keeps its address",
        reason: "A backend sees the client's own address wherever its answer comes back through the same node anyway.",
        theirs: KUBE_PROXY,
        ours: SHEAVE,
        covers: |question| is_external(question.row.target) && !question.row.service().is_external_local(),
        becomes: Becomes::Source(own_address_if_it_works),
    },
    Difference {
        title: "A pod that reaches itself stays inside",
        reason: "A socket that is connected to its own pod needs no node in between.",
        theirs: KUBE_PROXY,
        ours: &[SOCKETS],
        covers: |question| !question.comes_from_outside(),
        becomes: Becomes::Source(|question, server, source| {
            if server == question.row.client { server.to_owned() } else { source.to_owned() }
        }),
    },
];

/// Whether the endpoint is asked over UDP from a port with which a flow to it was made that kept the port.
fn keeps_flow(question: &Question) -> bool {
    let is_masqueraded = question.row.client == "client";
    question.way.udp
        && match question.row.target {
            Target::EndpointAfterNodePort => true,
            Target::EndpointAfterClusterIp => !is_masqueraded,
            _ => false,
        }
}

/// Whether the address is one that clients outside use too.
fn is_external(target: Target) -> bool {
    use Target::{ExternalIp, LoadBalancer, NodePort, NodePortLoopback, NodePortSecond};
    matches!(target, NodePort(_) | NodePortSecond | NodePortLoopback | ExternalIp | LoadBalancer(_))
}

/// Each endpoint sees the client.
fn everybody(question: &Question) -> String {
    let places = question.row.service().endpoints.iter().map(|endpoint| endpoint.place);
    answers(question, places)
}

/// Each endpoint of the deciding node sees the client.
fn local_endpoints(question: &Question) -> String {
    let service = question.row.service();
    let places = service.endpoints.iter().map(|endpoint| endpoint.place);
    let local: Vec<&str> = places.filter(|place| node_of(place) == question.deciding_node()).collect();
    match (service.endpoints.is_empty(), local.is_empty()) {
        (true, _) => "refused".to_owned(),
        (false, true) => "silent".to_owned(),
        (false, false) => answers(question, local.into_iter()),
    }
}

fn answers<'a>(question: &Question, servers: impl Iterator<Item = &'a str>) -> String {
    servers.map(|server| format!("{}>{server}", question.row.client)).collect::<Vec<_>>().join(" ")
}

/// A node's address where the answer would not come back otherwise.
fn own_address_if_it_works(question: &Question, server: &str, _: &str) -> String {
    let client = question.row.client;
    let is_remote = question.comes_from_outside() && node_of(server) != question.deciding_node();
    if is_remote || server == client {
        format!("node{}", question.deciding_node())
    } else {
        client.to_owned()
    }
}
