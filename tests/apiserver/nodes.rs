//! The ways to other nodes follow the Nodes of a real API server and the prefixes of the real controller.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use cni::facts::NodeFacts;
use cni::record::{Attachment, AttachmentId};
use cni::store::{Store, Wish};
use sheave_tests::agent::Agent;
use sheave_tests::bpffs::BpfFs;
use sheave_tests::cgroup::Cgroup;
use sheave_tests::cluster::Cluster;
use sheave_tests::controlplane::{ControlPlane, User};
use sheave_tests::netns::{Netns, veth};
use sheave_tests::proxy::Proxy;
use sheave_tests::wait::wait_for;

use super::{SOON, WATCH_TIMEOUT};

const OWN: &str = "node-a";

/// One node on a link with others that are only described. The order is that of the end.
struct Site {
    agent: Agent,
    node: Netns,
    _link: Netns,
    _cgroup: Cgroup,
    _bpffs: BpfFs,
    proxy: Proxy,
    cluster: Cluster,
    control_plane: ControlPlane,
}

/// The addresses of a node on the link.
fn addresses(number: u8) -> [IpAddr; 2] {
    [format!("192.0.2.{number}").parse().unwrap(), format!("2001:db8:a::{number}").parse().unwrap()]
}

impl Site {
    /// The agent runs; there is no Node yet.
    fn start() -> Self {
        let control_plane = ControlPlane::start().unwrap();
        let admin = control_plane.kubeconfig(User::Admin, control_plane.api_port()).unwrap();
        let cluster = Cluster::new(admin, SOON).unwrap();
        let (node, link) = (Netns::new().unwrap(), Netns::new().unwrap());
        veth(&link, "node-a", &node, "eth0").unwrap();
        let [v4, v6] = addresses(1);
        node.ip(&format!("addr add {v4}/24 dev eth0")).unwrap();
        node.ip(&format!("addr add {v6}/64 dev eth0 nodad")).unwrap();
        let proxy = Proxy::start_inside(&node, control_plane.api_port()).unwrap();
        let kubeconfig = control_plane.kubeconfig(User::Agent, proxy.port()).unwrap();
        let (cgroup, bpffs) = (Cgroup::new().unwrap(), BpfFs::new().unwrap());
        let timeout = WATCH_TIMEOUT.as_secs().to_string();
        let arguments = [
            ["--kubeconfig", kubeconfig.to_str().unwrap()],
            ["--node-name", OWN],
            ["--watch-timeout", &timeout],
            ["--pod-network", "true"],
        ];
        let agent =
            Agent::start_inside(&node, &cgroup, &bpffs, control_plane.dir(), &arguments.concat()).unwrap();
        Self { agent, node, _link: link, _cgroup: cgroup, _bpffs: bpffs, proxy, cluster, control_plane }
    }

    fn run_dir(&self) -> PathBuf {
        self.control_plane.dir().join("run")
    }

    fn await_facts(&self, what: &str, is_so: impl Fn(&NodeFacts) -> bool) -> NodeFacts {
        let facts = wait_for(what, SOON, || Ok(NodeFacts::read(&self.run_dir()).ok().filter(|it| is_so(it))));
        facts.unwrap_or_else(|error| panic!("{error}\n{}", self.agent.log()))
    }

    fn route(&self, prefix: &str) -> String {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        let shown = self.node.run(|| {
            Command::new("ip").args([family, "route", "show", prefix, "proto", "158"]).output().unwrap()
        });
        String::from_utf8(shown.stdout).unwrap()
    }

    /// Waits until the node has routes to these prefixes by the node with this number; `None`: until it has none.
    fn await_routes(&self, prefixes: &[String], by: Option<u8>) {
        for prefix in prefixes {
            let ways = by.map(|number| addresses(number).map(|address| format!("via {address} ")));
            let is_so = || {
                let route = self.route(prefix);
                ways.as_ref().map_or(route.is_empty(), |ways| ways.iter().any(|way| route.contains(way)))
            };
            wait_for(format!("the route to {prefix} is by {by:?}"), SOON, || Ok(is_so().then_some(())))
                .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.route(prefix), self.agent.log()));
        }
    }

    /// A Node and what the controller gives it.
    fn join(&self, name: &str, number: u8) -> Vec<String> {
        self.cluster.create_node(name, &addresses(number)).unwrap();
        self.cluster.pod_cidrs(name, SOON).unwrap()
    }
}

#[test]
fn routes_follow_the_nodes_and_the_prefixes_that_the_real_controller_gives_them() {
    let site = Site::start();
    site.await_facts("the agent waits for its Node", |facts| {
        facts.obstacle.as_ref().is_some_and(|it| it.contains("there is no Node `node-a`"))
    });
    let own = site.join(OWN, 1);
    let facts = site.await_facts("the plugin is told", |facts| facts.obstacle.is_none());
    let told: Vec<String> = facts.pod_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(told, own);

    let b = site.join("node-b", 2);
    site.await_routes(&b, Some(2));
    site.cluster.set_node_addresses("node-b", &addresses(7)).unwrap();
    site.await_routes(&b, Some(7));
    site.cluster.delete_node("node-b").unwrap();
    site.await_routes(&b, None);
    let again = site.join("node-b", 3);
    site.await_routes(&again, Some(3));
}

#[test]
fn nodes_that_came_and_went_while_the_watch_was_lost_are_found_by_the_next_list() {
    let mut site = Site::start();
    site.join(OWN, 1);
    let [b, c] = [("node-b", 2), ("node-c", 3)].map(|(name, number)| site.join(name, number));
    site.await_routes(&b, Some(2));
    site.await_routes(&c, Some(3));
    site.proxy.refuse();
    let version = site.cluster.resource_version().unwrap();
    site.cluster.delete_node("node-b").unwrap();
    site.cluster.set_node_addresses("node-c", &addresses(8)).unwrap();
    let d = site.join("node-d", 4);
    site.control_plane.kill_api_server();
    site.control_plane.compact().unwrap();
    site.control_plane.start_api_server().unwrap();
    assert!(site.cluster.is_gone(&version).unwrap());
    site.await_routes(&c, Some(3));
    site.await_routes(&b, Some(2));
    site.proxy.forward();
    site.await_routes(&d, Some(4));
    site.await_routes(&c, Some(8));
    // Another node may have got the prefix.
    let stale: Vec<String> = b.into_iter().filter(|prefix| !d.contains(prefix)).collect();
    site.await_routes(&stale, None);
}

/// An attachment that takes its address from our store.
fn pod(container: &str) -> Attachment {
    let id = AttachmentId { container_id: container.to_owned(), ifname: "eth0".to_owned() };
    Attachment {
        network: "sheave".to_owned(),
        since: 1,
        netns_path: "/run/netns/none".into(),
        mtu: 1500,
        ..Attachment::of(id)
    }
}

#[test]
fn a_node_without_free_addresses_gets_an_event_and_metrics() {
    let mut site = Site::start();
    let own = site.join(OWN, 1);
    site.await_facts("the plugin is told", |facts| facts.obstacle.is_none());
    site.agent.wait_until_ready(SOON).unwrap();
    let store = Store::open(&site.run_dir()).unwrap();
    // One address of the node's own prefix.
    let single = format!("{}/32", own[0].replace(".0/24", ".9"));
    let wish = Wish { ranges: vec![single.parse().unwrap()], ..Wish::default() };
    store.reserve(pod("first"), &wish).unwrap();
    // The agent's first look is no news to it.
    wait_for("an event tells of it", SOON, || {
        store.reserve(pod("second"), &wish).unwrap_err();
        let reasons = site.cluster.events_about_node(OWN)?;
        Ok(reasons.iter().any(|reason| reason == "NoPodAddress").then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", site.agent.log()));
    let metrics = site.agent.metrics().unwrap();
    for line in [
        format!("sheave_pod_addresses{{family=\"ipv4\",range=\"{}\"}} 253.0", own[0]),
        format!("sheave_pod_addresses_used{{family=\"ipv4\",range=\"{}\"}} 1.0", own[0]),
        format!("sheave_pod_addresses_free{{family=\"ipv4\",range=\"{}\"}} 252.0", own[0]),
        format!("sheave_pod_addresses_used{{family=\"ipv6\",range=\"{}\"}} 0.0", own[1]),
    ] {
        assert!(metrics.contains(&line), "{line} in\n{metrics}");
    }
    let refused = metrics.lines().find(|line| line.starts_with("sheave_pod_addresses_exhausted_total"));
    assert!(refused.is_some_and(|line| !line.ends_with(" 0.0")), "{refused:?}");
}
