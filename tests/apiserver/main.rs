//! The agent against a real API server: `cargo xtask test apiserver`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod deploy;
mod nodes;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sheave_tests::agent::Agent;
use sheave_tests::bpffs::BpfFs;
use sheave_tests::cgroup::Cgroup;
use sheave_tests::cluster::Cluster;
use sheave_tests::controlplane::{ControlPlane, User};
use sheave_tests::lab::{Lab, NODE_V4, NODE_V6, Pod};
use sheave_tests::proxy::Proxy;
use sheave_tests::requests::{Answers, Transport, ask};
use sheave_tests::server::Server;
use sheave_tests::wait::wait_for;

/// For what the controllers and the agent do within a second when nothing else runs.
const SOON: Duration = Duration::from_secs(30);
/// The agent's `--watch-timeout`, as short as it may be.
const WATCH_TIMEOUT: Duration = Duration::from_secs(5);
const NODE: &str = "node-a";
/// Where the pods answer, and where the Services do.
const POD_PORT: u16 = 8080;
const PORT: u16 = 80;
/// Requests per pod: none of three is missed by chance (less than once in 10^9 series).
const PER_POD: usize = 20;

fn control_plane() -> (ControlPlane, Cluster) {
    let control_plane = ControlPlane::start().unwrap();
    let kubeconfig = control_plane.kubeconfig(User::Admin, control_plane.api_port()).unwrap();
    let cluster = Cluster::new(kubeconfig, SOON).unwrap();
    cluster.create_node(NODE, &[NODE_V4.into(), NODE_V6.into()]).unwrap();
    (control_plane, cluster)
}

fn addresses(pod: &Pod) -> [IpAddr; 2] {
    [pod.v4.into(), pod.v6.into()]
}

fn dual_stack(app: &str) -> Value {
    json!({
        "selector": { "app": app },
        "ipFamilyPolicy": "RequireDualStack",
        "ports": [
            { "name": "tcp", "protocol": "TCP", "port": PORT, "targetPort": POD_PORT },
            { "name": "udp", "protocol": "UDP", "port": PORT, "targetPort": POD_PORT },
        ],
    })
}

/// A cluster of one node whose agent talks to the API server through a proxy. What connects from
/// the node's namespace is what the agent serves.
struct World {
    // The order is that of the end.
    agent: Option<Agent>,
    pods: HashMap<String, (Pod, Vec<Server>)>,
    lab: Lab,
    cgroup: Cgroup,
    bpffs: BpfFs,
    proxy: Proxy,
    cluster: Cluster,
    control_plane: ControlPlane,
}

impl World {
    fn start() -> Self {
        let (control_plane, cluster) = control_plane();
        let lab = Lab::new().unwrap();
        let mut world = Self {
            agent: None,
            pods: HashMap::new(),
            cgroup: Cgroup::new().unwrap(),
            bpffs: BpfFs::new().unwrap(),
            proxy: Proxy::start_inside(&lab.node, control_plane.api_port()).unwrap(),
            lab,
            cluster,
            control_plane,
        };
        world.start_agent();
        world.agent.as_mut().unwrap().wait_until_ready(SOON).unwrap();
        world
    }

    fn start_agent(&mut self) {
        let kubeconfig = self.control_plane.kubeconfig(User::Agent, self.proxy.port()).unwrap();
        let timeout = WATCH_TIMEOUT.as_secs().to_string();
        let arguments =
            ["--kubeconfig", kubeconfig.to_str().unwrap(), "--node-name", NODE, "--watch-timeout", &timeout];
        let (node, dir) = (&self.lab.node, self.control_plane.dir());
        let agent = Agent::start_inside(node, &self.cgroup, &self.bpffs, dir, &arguments);
        self.agent = Some(agent.unwrap());
    }

    /// Runs ready pods of one application; each answers by its name.
    fn run_pods(&mut self, app: &str, names: &[&str]) {
        for name in names {
            let (pod, servers) = self.lab.serving_pod(name, POD_PORT).unwrap();
            self.cluster.create_ready_pod(name, app, NODE, &addresses(&pod)).unwrap();
            self.pods.insert((*name).to_owned(), (pod, servers));
        }
    }

    /// Waits until the slices of a Service hold just these ready pods.
    fn wait_for_slices(&self, service: &str, pods: &[&str]) {
        let wanted: Vec<IpAddr> = pods.iter().flat_map(|name| addresses(&self.pods[*name].0)).collect();
        self.cluster.wait_for_slices(service, &wanted, SOON).unwrap();
    }

    /// A dual-stack Service, as its sockets of either family.
    fn create_service(&self, name: &str) -> Vec<SocketAddr> {
        let addresses = self.cluster.create_service(name, &dual_stack(name)).unwrap();
        assert_eq!(addresses.len(), 2, "one address per family: {addresses:?}");
        addresses.into_iter().map(|address| SocketAddr::new(address, PORT)).collect()
    }

    fn ask(&self, transport: Transport, target: SocketAddr, count: usize) -> Answers {
        self.cgroup.join().unwrap();
        let answers = ask(&self.lab.node, transport, target, count);
        self.cgroup.leave().unwrap();
        answers
    }

    /// Waits until a series of connections is answered by just these.
    fn wait_for_answers(&self, target: SocketAddr, wanted: &[&str]) {
        let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
        let mut last = Answers::new();
        let result = wait_for(format!("{target} is answered by {wanted:?}"), SOON, || {
            last = self.ask(Transport::Tcp, target, PER_POD * wanted.len());
            Ok(last.keys().map(String::as_str).eq(wanted.iter().copied()).then_some(()))
        });
        result.unwrap_or_else(|error| panic!("{error}; the last answers: {last:?}"));
    }

    /// Every one of many requests is answered by one of these.
    fn assert_answers(&self, target: SocketAddr, allowed: &[&str]) {
        let answers = self.ask(Transport::Tcp, target, 100);
        assert!(answers.keys().all(|name| allowed.contains(&name.as_str())), "{target}: {answers:?}");
    }
}

#[test]
fn the_real_controller_writes_slices_for_pods_marked_ready() {
    let (mut control_plane, cluster) = control_plane();
    cluster.create_service("web", &dual_stack("web")).unwrap();
    let first: [IpAddr; 2] = ["10.244.0.1", "fd00:244::1"].map(|text| text.parse().unwrap());
    let second: [IpAddr; 2] = ["10.244.0.2", "fd00:244::2"].map(|text| text.parse().unwrap());
    cluster.create_ready_pod("web-1", "web", NODE, &first).unwrap();
    cluster.create_ready_pod("web-2", "web", NODE, &second).unwrap();
    cluster.wait_for_slices("web", &[first, second].concat(), SOON).unwrap();
    cluster.set_ready("web-1", false).unwrap();
    cluster.wait_for_slices("web", &second, SOON).unwrap();
    cluster.delete_pod("web-2").unwrap();
    cluster.wait_for_slices("web", &[], SOON).unwrap();
    control_plane.check_running().unwrap();
}

#[test]
fn a_resource_version_from_before_a_compaction_and_a_restart_of_the_api_server_is_gone() {
    let (mut control_plane, cluster) = control_plane();
    let version = cluster.resource_version().unwrap();
    cluster.create_service("web", &dual_stack("web")).unwrap();
    assert!(!cluster.is_gone(&version).unwrap());
    control_plane.kill_api_server();
    control_plane.compact().unwrap();
    control_plane.start_api_server().unwrap();
    cluster.delete_service("web").unwrap();
    assert!(cluster.is_gone(&version).unwrap());
}

#[test]
fn without_an_agent_pods_answer_at_their_own_addresses_and_a_cluster_ip_leads_nowhere() {
    let mut lab = Lab::new().unwrap();
    let (pod, _servers) = lab.serving_pod("web-1", POD_PORT).unwrap();
    for transport in [Transport::Tcp, Transport::Udp] {
        for address in addresses(&pod) {
            let answers = ask(&lab.node, transport, SocketAddr::new(address, POD_PORT), 3);
            assert_eq!(answers, Answers::from([("web-1".to_owned(), 3)]));
        }
        for cluster_ip in ["10.96.0.99", "fd00:10:96::99"] {
            let answers = ask(&lab.node, transport, SocketAddr::new(cluster_ip.parse().unwrap(), PORT), 3);
            assert_eq!(answers, Answers::from([("NetworkUnreachable".to_owned(), 3)]));
        }
    }
}

#[test]
fn both_families_of_a_cluster_ip_reach_every_ready_pod_over_tcp_and_udp() {
    let mut world = World::start();
    let service = world.create_service("web");
    world.run_pods("web", &["web-1", "web-2", "web-3"]);
    for target in service {
        world.wait_for_answers(target, &["web-1", "web-2", "web-3"]);
        let answers = world.ask(Transport::Udp, target, 3 * PER_POD);
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["web-1", "web-2", "web-3"]);
    }
}

#[test]
fn an_unready_pod_is_left_a_new_one_is_used_and_with_none_left_connections_are_refused() {
    let mut world = World::start();
    let service = world.create_service("web");
    world.run_pods("web", &["web-1", "web-2"]);
    world.wait_for_answers(service[0], &["web-1", "web-2"]);
    world.cluster.set_ready("web-1", false).unwrap();
    world.wait_for_answers(service[0], &["web-2"]);
    world.run_pods("web", &["web-3"]);
    world.wait_for_answers(service[0], &["web-2", "web-3"]);
    world.cluster.set_ready("web-1", true).unwrap();
    world.wait_for_answers(service[0], &["web-1", "web-2", "web-3"]);
    for pod in ["web-1", "web-2", "web-3"] {
        world.cluster.delete_pod(pod).unwrap();
    }
    for target in service {
        world.wait_for_answers(target, &["ConnectionRefused"]);
    }
}

#[test]
fn a_deleted_service_is_gone_and_another_that_takes_its_address_gets_its_own_pods() {
    let mut world = World::start();
    let service = world.create_service("web");
    world.run_pods("web", &["web-1"]);
    world.run_pods("shop", &["shop-2"]);
    world.wait_for_answers(service[0], &["web-1"]);
    world.cluster.delete_service("web").unwrap();
    for target in &service {
        world.wait_for_answers(*target, &["NetworkUnreachable"]);
    }
    let mut spec = dual_stack("shop");
    spec["clusterIP"] = json!(service[0].ip());
    spec["clusterIPs"] = json!([service[0].ip(), service[1].ip()]);
    world.cluster.create_service("shop", &spec).unwrap();
    for target in &service {
        world.wait_for_answers(*target, &["shop-2"]);
    }
}

#[test]
fn a_service_that_a_label_gives_to_another_proxy_is_let_go_and_served_again_without_it() {
    let label = |value: Value| json!({ "metadata": { "labels": { "service.kubernetes.io/service-proxy-name": value } } });
    let mut world = World::start();
    let web = world.create_service("web")[0];
    world.run_pods("web", &["web-1"]);
    world.wait_for_answers(web, &["web-1"]);
    world.cluster.patch_service("web", &label("other".into())).unwrap();
    world.wait_for_answers(web, &["NetworkUnreachable"]);
    world.cluster.patch_service("web", &label(Value::Null)).unwrap();
    world.wait_for_answers(web, &["web-1"]);
}

#[test]
fn of_two_services_with_one_external_ip_the_older_serves_it_and_the_younger_is_told_by_an_event() {
    let mut world = World::start();
    let external: SocketAddr = "203.0.113.7:80".parse().unwrap();
    let claim = json!({ "spec": { "externalIPs": [external.ip()] } });
    let old = world.create_service("old")[0];
    world.cluster.patch_service("old", &claim).unwrap();
    // Creation times are whole seconds.
    sleep(Duration::from_secs(1));
    let new = world.create_service("new")[0];
    world.cluster.patch_service("new", &claim).unwrap();
    world.run_pods("old", &["old-1"]);
    world.run_pods("new", &["new-1"]);
    world.wait_for_answers(old, &["old-1"]);
    world.wait_for_answers(new, &["new-1"]);
    world.wait_for_answers(external, &["old-1"]);
    wait_for("an event tells of the conflict", SOON, || {
        let reasons = world.cluster.events_about("new")?;
        Ok(reasons.iter().any(|reason| reason == "AddressConflict").then_some(()))
    })
    .unwrap();
    assert!(world.cluster.events_about("old").unwrap().is_empty());
}

#[test]
fn after_sigterm_the_data_plane_serves_on_until_cleanup_removes_it() {
    let mut world = World::start();
    let web = world.create_service("web")[0];
    world.run_pods("web", &["web-1"]);
    world.wait_for_answers(web, &["web-1"]);
    let status = world.agent.take().unwrap().terminate(SOON).unwrap();
    assert!(status.success(), "{status}");
    world.assert_answers(web, &["web-1"]);
    let shown = Agent::command(&world.bpffs, world.control_plane.dir(), &["service", "list"]).unwrap();
    assert!(shown.contains(&web.ip().to_string()), "{shown}");
    Agent::command(&world.bpffs, world.control_plane.dir(), &["cleanup"]).unwrap();
    world.assert_answers(web, &["NetworkUnreachable"]);
    assert!(!world.bpffs.pins().exists(), "pins are left");
}

/// What happens to the cluster while the agent cannot see it: pod 1 goes and pod 3 comes, Service
/// `old` goes and `new` comes. Returns the address of `new`.
fn change_unseen(world: &mut World) -> SocketAddr {
    world.cluster.delete_pod("web-1").unwrap();
    world.cluster.delete_service("old").unwrap();
    world.run_pods("web", &["web-3"]);
    world.run_pods("new", &["new-4"]);
    world.wait_for_slices("web", &["web-2", "web-3"]);
    world.create_service("new")[0]
}

#[test]
fn changes_made_while_the_api_server_restarts_and_the_agent_is_cut_off_all_arrive() {
    let mut world = World::start();
    let (web, old) = (world.create_service("web")[0], world.create_service("old")[0]);
    world.run_pods("web", &["web-1", "web-2"]);
    world.run_pods("old", &["old-9"]);
    world.wait_for_answers(web, &["web-1", "web-2"]);
    world.wait_for_answers(old, &["old-9"]);
    world.proxy.refuse();
    world.control_plane.kill_api_server();
    world.control_plane.start_api_server().unwrap();
    let new = change_unseen(&mut world);
    world.assert_answers(web, &["web-1", "web-2"]);
    world.assert_answers(old, &["old-9"]);
    world.proxy.forward();
    world.wait_for_answers(web, &["web-2", "web-3"]);
    world.wait_for_answers(old, &["NetworkUnreachable"]);
    world.wait_for_answers(new, &["new-4"]);
}

#[test]
fn a_watch_that_is_gone_after_a_compaction_starts_anew_and_removals_arrive() {
    let mut world = World::start();
    let (web, old) = (world.create_service("web")[0], world.create_service("old")[0]);
    world.run_pods("web", &["web-1", "web-2"]);
    world.run_pods("old", &["old-9"]);
    world.wait_for_answers(web, &["web-1", "web-2"]);
    world.wait_for_answers(old, &["old-9"]);
    world.proxy.refuse();
    let version = world.cluster.resource_version().unwrap();
    let new = change_unseen(&mut world);
    world.control_plane.kill_api_server();
    world.control_plane.compact().unwrap();
    world.control_plane.start_api_server().unwrap();
    assert!(world.cluster.is_gone(&version).unwrap());
    world.proxy.forward();
    world.wait_for_answers(web, &["web-2", "web-3"]);
    world.wait_for_answers(old, &["NetworkUnreachable"]);
    world.wait_for_answers(new, &["new-4"]);
    let log = world.agent.as_ref().unwrap().log();
    assert!(log.contains("too old resource version"), "the agent was never told that its watch is gone");
}

#[test]
fn a_connection_that_goes_silent_without_closing_is_given_up_after_about_a_watch_timeout() {
    let mut world = World::start();
    let web = world.create_service("web")[0];
    world.run_pods("web", &["web-1"]);
    world.wait_for_answers(web, &["web-1"]);
    let connections = world.proxy.connections();
    world.proxy.silence_open_connections();
    let silent = Instant::now();
    world.run_pods("web", &["web-2"]);
    world.cluster.delete_pod("web-1").unwrap();
    world.wait_for_answers(web, &["web-2"]);
    let stale = silent.elapsed();
    assert!(world.proxy.connections() > connections, "no new connection: the old one was not silent");
    assert!(stale < 4 * WATCH_TIMEOUT, "stale for {stale:?}");
}

#[test]
fn with_the_api_server_away_the_last_state_serves_on() {
    let mut world = World::start();
    let service = world.create_service("web");
    world.run_pods("web", &["web-1", "web-2"]);
    world.wait_for_answers(service[0], &["web-1", "web-2"]);
    world.wait_for_answers(service[1], &["web-1", "web-2"]);
    world.control_plane.kill_api_server();
    let away = Instant::now();
    while away.elapsed() < 2 * WATCH_TIMEOUT {
        service.iter().for_each(|target| world.assert_answers(*target, &["web-1", "web-2"]));
    }
    assert!(world.agent.as_ref().unwrap().is_live());
}

#[test]
fn an_agent_that_starts_without_an_api_server_keeps_what_the_last_one_left_and_catches_up_later() {
    let mut world = World::start();
    let (web, old) = (world.create_service("web")[0], world.create_service("old")[0]);
    world.run_pods("web", &["web-1"]);
    world.run_pods("old", &["old-9"]);
    world.wait_for_answers(web, &["web-1"]);
    world.wait_for_answers(old, &["old-9"]);
    world.agent.take().unwrap().kill();
    world.cluster.delete_service("old").unwrap();
    world.run_pods("web", &["web-2"]);
    world.control_plane.kill_api_server();
    world.start_agent();
    let start = Instant::now();
    while start.elapsed() < WATCH_TIMEOUT {
        world.assert_answers(web, &["web-1"]);
        world.assert_answers(old, &["old-9"]);
    }
    world.control_plane.start_api_server().unwrap();
    world.wait_for_answers(web, &["web-1", "web-2"]);
    world.wait_for_answers(old, &["NetworkUnreachable"]);
    world.agent.as_mut().unwrap().wait_until_ready(SOON).unwrap();
}
