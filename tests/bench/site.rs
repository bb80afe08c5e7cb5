//! Two nodes on one link, two pods on the first and one on the second: wired by the plugin below running agents, or with
//! plain devices and routes.
//!
//! Must not know: what is measured.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cni::facts::NodeFacts;
use serde_json::json;
use sheave_tests::agent::Agent;
use sheave_tests::bpffs::BpfFs;
use sheave_tests::cgroup::Cgroup;
use sheave_tests::cni::{Call, Plugin};
use sheave_tests::netns::{Netns, veth};
use sheave_tests::wait::wait_for;

/// How long an agent may take to start.
const LIMIT: Duration = Duration::from_mins(1);
/// Of the plain tunnel; only one in a namespace.
const VXLAN: &str = "type vxlan id 77 dstport 8472 nolearning";

/// What is measured.
#[derive(Clone, Copy)]
pub(crate) struct Programs<'a> {
    /// The built plugin.
    pub(crate) plugin: &'a Path,
    /// The built agent.
    pub(crate) sheave: &'a Path,
    /// What the agent is told besides what the site needs.
    pub(crate) settings: &'a [&'a str],
}

/// How the nodes reach each other's pods.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By routes, 1500 bytes.
    Direct,
    /// By a tunnel, 1450 bytes.
    Vxlan,
}

/// A pod and its address.
pub(crate) struct Place {
    pub(crate) netns: Netns,
    pub(crate) address: Ipv4Addr,
}

/// The order of the fields is the order in which they are taken down.
pub(crate) struct Site {
    /// Two on the first node, one on the second.
    pub(crate) pods: Vec<Place>,
    _agents: Vec<Running>,
    _nodes: Vec<Netns>,
}

struct Running {
    _agent: Agent,
    _bpffs: BpfFs,
    _cgroup: Cgroup,
    dir: tempfile::TempDir,
}

impl Way {
    fn setting(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Vxlan => "vxlan",
        }
    }

    fn mtu(self) -> u32 {
        match self {
            Self::Direct => 1500,
            Self::Vxlan => 1450,
        }
    }
}

fn node_address(number: usize) -> String {
    format!("192.0.2.{number}")
}

/// Both, connected.
fn nodes() -> Result<Vec<Netns>> {
    let nodes = vec![Netns::new()?, Netns::new()?];
    veth(&nodes[0], "eth0", &nodes[1], "eth0")?;
    for (number, node) in (1..).zip(&nodes) {
        node.ip(&format!("addr add {}/24 dev eth0", node_address(number)))?;
        node.ip(&format!("route add default via {}", node_address(3 - number)))?;
        node.sysctl("ipv4/ip_forward", "1")?;
    }
    Ok(nodes)
}

impl Site {
    /// Pods of veth devices with an address and a route each.
    pub(crate) fn plain(way: Way) -> Result<Self> {
        let nodes = nodes()?;
        let mut pods = Vec::new();
        for (node, last) in [(1, 2), (1, 3), (2, 2)] {
            pods.push(plain_pod(&nodes[node - 1], Ipv4Addr::new(10, 244, node as u8, last), way)?);
        }
        for (number, node) in (1..).zip(&nodes) {
            let (other, peer) = (3 - number, node_address(3 - number));
            if way == Way::Direct {
                node.ip(&format!("route add 10.244.{other}.0/24 via {peer}"))?;
                continue;
            }
            let mac = |number| format!("02:00:00:00:77:0{number}");
            node.ip(&format!("link add vx {VXLAN} local {} dev eth0", node_address(number)))?;
            node.ip(&format!("link set vx address {} mtu {} up", mac(number), way.mtu()))?;
            node.ip(&format!("neigh add 10.244.{other}.0 lladdr {} dev vx", mac(other)))?;
            node.ip(&format!("route add 10.244.{other}.0/24 via 10.244.{other}.0 dev vx onlink"))?;
            let fdb = format!("fdb append {} dev vx dst {peer}", mac(other));
            let bridge = || std::process::Command::new("bridge").args(fdb.split_whitespace()).status();
            anyhow::ensure!(node.run(bridge)?.success(), "bridge {fdb}");
        }
        Ok(Self { pods, _agents: Vec::new(), _nodes: nodes })
    }

    /// Pods of the plugin on nodes with agents.
    pub(crate) fn sheave(programs: &Programs<'_>, way: Way) -> Result<Self> {
        let nodes = nodes()?;
        let manifests = tempfile::tempdir()?;
        let text: Vec<String> = (1..=2).map(manifest).collect();
        fs::write(manifests.path().join("nodes.yaml"), text.join("---\n"))?;
        let mut agents = Vec::new();
        for (number, node) in (1..).zip(&nodes) {
            agents.push(Running::start(programs, node, number, manifests.path(), way)?);
        }
        let mut pods = Vec::new();
        for (number, node) in [(1, 0), (2, 0), (3, 1)] {
            pods.push(agents[node].add(programs.plugin, &nodes[node], number)?);
        }
        Ok(Self { pods, _agents: agents, _nodes: nodes })
    }
}

fn plain_pod(node: &Netns, address: Ipv4Addr, way: Way) -> Result<Place> {
    let netns = Netns::new()?;
    let device = format!("pod{}", address.octets()[3]);
    veth(node, &device, &netns, "eth0")?;
    node.ip(&format!("addr add 169.254.1.1/32 dev {device}"))?;
    node.ip(&format!("link set {device} mtu {}", way.mtu()))?;
    node.ip(&format!("route add {address}/32 dev {device}"))?;
    netns.ip(&format!("addr add {address}/32 dev eth0"))?;
    netns.ip(&format!("link set eth0 mtu {}", way.mtu()))?;
    netns.ip("route add 169.254.1.1 dev eth0 scope link")?;
    netns.ip("route add default via 169.254.1.1 dev eth0")?;
    Ok(Place { netns, address })
}

fn manifest(number: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: n{number}}}\nspec: {{podCIDRs: [10.244.{number}.0/24]}}\nstatus:\n  \
         addresses:\n  - {{type: InternalIP, address: {}}}\n",
        node_address(number)
    )
}

impl Running {
    fn start(
        programs: &Programs<'_>,
        node: &Netns,
        number: usize,
        manifests: &Path,
        way: Way,
    ) -> Result<Self> {
        let (cgroup, bpffs, dir) = (Cgroup::new()?, BpfFs::new()?, tempfile::tempdir()?);
        let (name, folder) = (format!("n{number}"), manifests.display().to_string());
        let settings =
            ["--pod-network", "--node-name", &name, "--manifests", &folder, "--routing", way.setting()];
        let settings = [&settings, programs.settings].concat();
        let mut agent =
            Agent::start_program_inside(programs.sheave, node, &cgroup, &bpffs, dir.path(), &settings)?;
        agent.wait_until_ready(LIMIT)?;
        let run_dir = dir.path().join("run");
        wait_for(format!("node {number} knows its pods"), LIMIT, || {
            Ok(NodeFacts::read(&run_dir).ok().filter(|facts| facts.obstacle.is_none()))
        })?;
        Ok(Self { _agent: agent, _bpffs: bpffs, _cgroup: cgroup, dir })
    }

    fn add(&self, plugin: &Path, node: &Netns, number: usize) -> Result<Place> {
        let netns = Netns::untouched()?;
        let run_dir = self.dir.path().join("run");
        let config =
            json!({ "cniVersion": "1.0.0", "name": "pods", "type": "sheave-cni", "runDir": run_dir });
        let call = Call::new("ADD", &config)
            .set("CNI_CONTAINERID", format!("bench{number}"))
            .set("CNI_NETNS", netns.path())
            .set("CNI_IFNAME", "eth0");
        let result = Plugin::new(plugin).call(node, &call)?.result().context("ADD")?;
        let text = result["ips"][0]["address"].as_str().context("no address")?;
        let address = text.split('/').next().unwrap_or_default().parse()?;
        Ok(Place { netns, address })
    }
}
