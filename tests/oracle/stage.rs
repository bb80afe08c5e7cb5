//! The topology with one kind of proxy on both nodes, against one API server.
//!
//! Must not know: what is asked.

use std::net::IpAddr;
use std::time::Duration;

use sheave_tests::agent::Agent;
use sheave_tests::bpffs::BpfFs;
use sheave_tests::cluster::Cluster;
use sheave_tests::controlplane::{ControlPlane, User};
use sheave_tests::kube_proxy::{KubeProxy, Mode};
use sheave_tests::proxy::Proxy;
use sheave_tests::topology::addresses::{ALL_PODS, NODES, node};
use sheave_tests::topology::{Links, Topology};

use crate::services::{SECOND, SERVICES};
use crate::survey::{Survey, survey};

const SOON: Duration = Duration::from_mins(1);

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    KubeProxy(Mode),
    /// With `--socket-lb all` or `off`.
    Sheave {
        sockets: bool,
    },
}

impl System {
    pub(crate) const ALL: [Self; 4] = [
        Self::KubeProxy(Mode::Iptables),
        Self::KubeProxy(Mode::Nftables),
        Self::Sheave { sockets: true },
        Self::Sheave { sockets: false },
    ];

    pub(crate) fn is_sheave(self) -> bool {
        matches!(self, Self::Sheave { .. })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KubeProxy(mode) => mode.name(),
            Self::Sheave { sockets: true } => "sockets",
            Self::Sheave { sockets: false } => "packets",
        }
    }
}

/// The API server with everything in it.
pub(crate) struct Stage {
    _cluster: Cluster,
    control_plane: ControlPlane,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let control_plane = ControlPlane::start().unwrap();
        let kubeconfig = control_plane.kubeconfig(User::Admin, control_plane.api_port()).unwrap();
        let cluster = Cluster::new(kubeconfig, SOON).unwrap();
        for number in 1..=NODES {
            let addresses: [IpAddr; 2] = node(number).both();
            cluster.create_node(&format!("node{number}"), &addresses).unwrap();
        }
        for (index, service) in (0..).zip(SERVICES) {
            cluster.create_service(service.name, &service.spec(index)).unwrap();
            cluster.set_ingress(service.name, &service.ingress(index)).unwrap();
            for slice in service.slices() {
                cluster.create_slice(slice).unwrap();
            }
        }
        Self { _cluster: cluster, control_plane }
    }

    /// Asks everything of one kind of proxy, on a topology of its own.
    pub(crate) fn survey(&self, system: System) -> Survey {
        let topology = topology();
        match system {
            System::KubeProxy(mode) => {
                let _running = self.kube_proxies(&topology, mode);
                survey(&topology)
            }
            System::Sheave { sockets } => {
                let _running = self.agents(&topology, sockets);
                survey(&topology)
            }
        }
    }

    /// Each with what it reaches the API server by.
    fn kube_proxies(&self, topology: &Topology, mode: Mode) -> Vec<(KubeProxy, Proxy)> {
        let start = |number| {
            let place = topology.place(&format!("node{number}")).unwrap();
            let relay = Proxy::start_inside(&place.netns, self.control_plane.api_port()).unwrap();
            let kubeconfig = self.control_plane.kubeconfig(User::Admin, relay.port()).unwrap();
            let proxy = KubeProxy::start(place, mode, &kubeconfig, self.control_plane.dir()).unwrap();
            (proxy, relay)
        };
        let mut started: Vec<_> = (1..=NODES).map(start).collect();
        started.iter_mut().for_each(|(proxy, _)| proxy.wait_until_synced(SOON).unwrap());
        started
    }

    /// Each with its pins and what it reaches the API server by.
    fn agents(&self, topology: &Topology, sockets: bool) -> Vec<(Agent, BpfFs, Proxy)> {
        let start = |number| {
            let name = format!("node{number}");
            let place = topology.place(&name).unwrap();
            let relay = Proxy::start_inside(&place.netns, self.control_plane.api_port()).unwrap();
            let kubeconfig = self.control_plane.kubeconfig(User::Agent, relay.port()).unwrap();
            let dir = self.control_plane.dir().join(format!("{name}-{sockets}"));
            std::fs::create_dir(&dir).unwrap();
            let (bpffs, pods) = (BpfFs::new().unwrap(), ALL_PODS.join(","));
            let arguments = [
                "--kubeconfig",
                kubeconfig.to_str().unwrap(),
                "--node-name",
                &name,
                "--cluster-cidr",
                &pods,
                "--socket-lb",
                if sockets { "all" } else { "off" },
            ];
            let group = topology.group(number).unwrap();
            let agent = topology
                .starting_on(number, || Agent::start_inside(&place.netns, group, &bpffs, &dir, &arguments));
            (agent.unwrap(), bpffs, relay)
        };
        let mut started: Vec<_> = (1..=NODES).map(start).collect();
        started.iter_mut().for_each(|(agent, ..)| agent.wait_until_ready(SOON).unwrap());
        started
    }
}

/// With a second address at node 1, which nobody sends from, and without a limit to ICMP messages: of many clients that
/// are refused at the same time each is to hear of it.
fn topology() -> Topology {
    let topology = Topology::new(Links::ETHERNET).unwrap();
    let namespaces = topology.places().map(|place| &place.netns).chain([&topology.router]);
    for netns in namespaces {
        netns.sysctl("ipv4/icmp_ratemask", "0").unwrap();
        netns.sysctl("ipv6/icmp/ratemask", "\n").unwrap();
    }
    let node1 = &topology.place("node1").unwrap().netns;
    node1.ip(&format!("addr add {}/24 dev eth0", SECOND.v4)).unwrap();
    node1.ip(&format!("addr add {}/64 dev eth0 nodad preferred_lft 0", SECOND.v6)).unwrap();
    topology
}
