//! The topology with an agent on each node, over one folder of manifests that the tests edit.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;
use sheave_tests::agent::{Agent, binary};
use sheave_tests::bpffs::BpfFs;
use sheave_tests::netns::Netns;
use sheave_tests::scenario::Translation;
use sheave_tests::topology::addresses::{NODES, node, pods_of};
use sheave_tests::topology::{Links, Place, Topology, Wiring};
use sheave_tests::wait::wait_for;

/// How long an edit may take to show, on a machine that is busy with other tests.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// How long a start may take.
const START_LIMIT: Duration = Duration::from_mins(1);
/// Frontend and backend address of the Service by which [`Site::settle`] knows how far an agent is.
const MARKER: [&str; 2] = ["10.96.255.254:80", "10.244.1.10"];

/// Topology and agents. The order of the fields is the order in which they are taken down.
pub(crate) struct Site {
    hosts: Vec<Host>,
    manifests: tempfile::TempDir,
    edits: AtomicU16,
    pub(crate) topology: Topology,
}

/// What an agent leaves on its node, and the agent.
struct Host {
    number: u8,
    agent: Option<Agent>,
    bpffs: BpfFs,
    dir: tempfile::TempDir,
}

impl Site {
    /// Agents with these settings on all nodes, ready; no Service yet.
    pub(crate) fn new(links: Links, settings: &[&str]) -> Self {
        let mut site = Self::without_agents(links);
        site.start_agents(settings);
        site
    }

    pub(crate) fn without_agents(links: Links) -> Self {
        let mut site = Self::with_wiring(links, Wiring::ByHand);
        site.topology.serve().unwrap();
        site
    }

    /// Without agents; unless pods are wired by hand, without their network and servers.
    pub(crate) fn with_wiring(links: Links, wiring: Wiring) -> Self {
        let host = |number| Host {
            number,
            agent: None,
            bpffs: BpfFs::new().unwrap(),
            dir: tempfile::tempdir().unwrap(),
        };
        let site = Self {
            hosts: (1..=NODES).map(host).collect(),
            manifests: tempfile::tempdir().unwrap(),
            edits: AtomicU16::new(0),
            topology: Topology::wired(links, wiring).unwrap(),
        };
        let pod_cidrs = wiring != Wiring::ByHand;
        fs::write(site.manifests.path().join("nodes.yaml"), nodes(pod_cidrs)).unwrap();
        site
    }

    /// Starts an agent on each node, in place of the one that runs there, and waits for both.
    pub(crate) fn start_agents(&mut self, settings: &[&str]) {
        for index in 0..self.hosts.len() {
            self.kill_agent(index + 1);
            self.launch(index + 1, settings);
        }
        for host in &mut self.hosts {
            host.agent.as_mut().unwrap().wait_until_ready(START_LIMIT).unwrap();
        }
    }

    /// Starts the agent of one node, counted from 1, and waits until it is ready.
    pub(crate) fn start_agent(&mut self, node: usize, settings: &[&str]) {
        self.launch(node, settings);
        self.hosts[node - 1].agent.as_mut().unwrap().wait_until_ready(START_LIMIT).unwrap();
    }

    fn launch(&mut self, node: usize, settings: &[&str]) {
        let host = &mut self.hosts[node - 1];
        let (name, folder) = (format!("node{}", host.number), self.manifests.path().to_str().unwrap());
        let fixed = ["--node-name", &name, "--manifests", folder, "--min-sync-interval", "0"];
        let group = self.topology.group(host.number).unwrap();
        let netns = &self.topology.place(&name).unwrap().netns;
        let arguments = [&fixed, settings].concat();
        let start = || Agent::start_inside(netns, group, &host.bpffs, host.dir.path(), &arguments);
        host.agent = Some(self.topology.starting_on(host.number, start).unwrap());
    }

    /// SIGKILL for the agent of a node, counted from 1.
    pub(crate) fn kill_agent(&mut self, node: usize) {
        if let Some(agent) = self.hosts[node - 1].agent.take() {
            agent.kill();
        }
    }

    /// The folder in which the agent of a node, counted from 1, tells its plugin of the node.
    pub(crate) fn run_dir(&self, node: u8) -> PathBuf {
        self.hosts[usize::from(node) - 1].dir.path().join("run")
    }

    /// The agent of a node, counted from 1.
    pub(crate) fn agent(&self, node: usize) -> &Agent {
        self.hosts[node - 1].agent.as_ref().unwrap()
    }

    /// Replaces the Services and EndpointSlices by these, and waits until both nodes have them.
    pub(crate) fn publish(&self, manifests: &str) {
        self.rewrite(manifests);
        self.settle();
    }

    /// Replaces the Services and EndpointSlices by these.
    pub(crate) fn rewrite(&self, manifests: &str) {
        let edit = self.edits.fetch_add(1, Ordering::Relaxed) + 1;
        let text = format!("{manifests}\n---\n{}", marker(edit));
        // Beside and renamed, as editors and kubelets do.
        let hidden = self.manifests.path().join(".services.yaml.new");
        fs::write(&hidden, text).unwrap();
        fs::rename(hidden, self.manifests.path().join("services.yaml")).unwrap();
    }

    /// Waits until the kernels of all nodes have what was published last.
    pub(crate) fn settle(&self) {
        let wanted = format!("{}:{}", MARKER[1], self.edits.load(Ordering::Relaxed));
        for host in self.hosts.iter().filter(|host| host.agent.is_some()) {
            let what = format!("node{} has edit {wanted}", host.number);
            wait_for(what, LIMIT, || Ok((self.marked(host).as_ref() == Some(&wanted)).then_some(())))
                .unwrap();
        }
    }

    fn marked(&self, host: &Host) -> Option<String> {
        let list = self.json(host, &["service", "list"]);
        let marker = list.as_array()?.iter().find(|frontend| frontend["frontend"] == MARKER[0])?;
        marker["backends"][0].as_str().map(str::to_owned)
    }

    /// What a command of `sheave` prints on a node, with `-o json`.
    fn json(&self, host: &Host, words: &[&str]) -> Value {
        serde_json::from_str(&self.run(host, &[words, &["-o", "json"]].concat())).unwrap()
    }

    /// What was lost and dropped on the way so far, for whoever finds an answer missing.
    pub(crate) fn losses(&self) -> String {
        let drops = (1..=self.hosts.len()).map(|node| {
            let status: Value = serde_json::from_str(&self.sheave(node, &["status", "-o", "json"])).unwrap();
            format!("node{node}: {}\n", status["drops"])
        });
        drops.collect::<String>() + &self.topology.losses().unwrap()
    }

    /// Waits until a device of a node, counted from 1, has the programs of one that leads out. An answer that somebody
    /// gets does not show it: those of another node's backends arrive at a device that has its programs, and are
    /// translated there.
    pub(crate) fn until_leads_out(&self, node: usize, device: &str) {
        let leads_out = |it: &Value| it["name"] == device && it["role"] == "node" && it["error"].is_null();
        wait_for(format!("{device} of node{node} has programs"), LIMIT, || {
            let status = self.json(&self.hosts[node - 1], &["status"]);
            Ok(status["devices"].as_array().unwrap().iter().any(leads_out).then_some(()))
        })
        .unwrap();
    }

    /// Runs a command of `sheave` on a node, counted from 1.
    pub(crate) fn sheave(&self, node: usize, words: &[&str]) -> String {
        self.run(&self.hosts[node - 1], words)
    }

    fn run(&self, host: &Host, words: &[&str]) -> String {
        let mut command = Command::new(binary().unwrap());
        command.args(words).env("SHEAVE_PIN_DIR", host.bpffs.pins());
        command.env("SHEAVE_RUN_DIR", host.dir.path().join("run"));
        self.netns(host.number).place(&mut command).unwrap();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn netns(&self, number: u8) -> &Netns {
        &self.place(&format!("node{number}")).netns
    }

    /// A place by its name.
    pub(crate) fn place(&self, name: &str) -> &Place {
        self.topology.place(name).unwrap()
    }

    /// Runs `work` at a place.
    pub(crate) fn at<T: Send>(&self, place: &str, work: impl FnOnce() -> T + Send) -> T {
        self.place(place).run(work)
    }

    /// What the programs of a node, counted from 1, have counted under this label.
    pub(crate) fn counted(&self, node: usize, label: &str) -> u64 {
        let metrics = self.agent(node).metrics().unwrap();
        let is_it = |line: &&str| line.contains(&format!("\"{label}\""));
        let values = metrics.lines().filter(|line| !line.starts_with('#')).filter(is_it);
        values
            .map(|line| line.rsplit(' ').next().unwrap().trim_end_matches(".0").parse::<u64>().unwrap())
            .sum()
    }
}

/// The settings that make an agent translate on this path.
pub(crate) fn translating(path: Translation) -> &'static [&'static str] {
    match path {
        Translation::Sockets => &[],
        Translation::Packets => BY_PACKET,
    }
}

/// The settings that make an agent translate packets only.
pub(crate) const BY_PACKET: &[&str] = &["--socket-lb", "off"];

fn nodes(with_pod_cidrs: bool) -> String {
    let node = |number| {
        let addresses = node(number);
        let [v4, v6] = pods_of(number);
        let spec =
            if with_pod_cidrs { format!("spec: {{podCIDRs: ['{v4}', '{v6}']}}\n") } else { String::new() };
        format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: node{number}\n  labels: {{topology.kubernetes.io/zone: \
             zone-{number}}}\n{spec}status:\n  addresses:\n  - {{type: InternalIP, address: {}}}\n  - {{type: InternalIP, \
             address: '{}'}}\n",
            addresses.v4, addresses.v6
        )
    };
    (1..=NODES).map(node).collect::<Vec<_>>().join("---\n")
}

/// A Service whose backend's port is the number of the edit, last in every order of names.
fn marker(edit: u16) -> String {
    let [frontend, backend] = MARKER;
    let (address, port) = frontend.split_once(':').unwrap();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: marker, namespace: zzz}}\nspec:\n  clusterIPs: [{address}]\n  \
         ports: [{{port: {port}}}]\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: marker, \
         namespace: zzz, labels: {{kubernetes.io/service-name: marker}}}}\naddressType: IPv4\n\
         ports: [{{name: '', port: {edit}, protocol: TCP}}]\nendpoints: [{{addresses: [{backend}], nodeName: node1}}]\n"
    )
}
