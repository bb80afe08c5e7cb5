//! The built agent on a node with pods: live edits, crashes, restarts, the end, and sources that never list.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use sheave_tests::agent::Agent;
use sheave_tests::bpffs::BpfFs;
use sheave_tests::cgroup::Cgroup;
use sheave_tests::client::{ask_connected, ask_tcp, connected_udp};
use sheave_tests::netns::Netns;

use crate::node::{LIMIT, Node, START_LIMIT, complaint, service};
use crate::world::{PORT, REFUSED, VIP_B, errno, vip, vip6};

/// Hooks that the agent attaches to.
const HOOKS: usize = 8;

fn dns() -> SocketAddr {
    SocketAddr::new(VIP_B.into(), PORT)
}

#[test]
fn an_edit_of_the_manifests_reaches_the_traffic() {
    let node = Node::new();
    let _agent = node.ready();
    node.until_only(&["a", "b", "c"]);
    assert!(node.world.in_pod(|| ask_tcp(vip6())).is_ok());
    node.write_slices("web", "TCP", &["b"]);
    node.until_only(&["b"]);
    node.write_slices("web", "TCP", &["b", "c"]);
    node.until_only(&["b", "c"]);
    node.write_slices("web", "TCP", &[]);
    let refused = || node.world.in_pod(|| ask_tcp(vip())).is_err_and(|e| e.raw_os_error() == Some(REFUSED));
    Node::until("the Service refuses", refused);
    node.write_slices("web", "TCP", &["a"]);
    node.until_only(&["a"]);
    node.remove("web.yaml");
    // Nobody owns the address any more: the packet leaves for a node that has no route for it.
    Node::until("the address is nobody's", || {
        node.world.on_node(|| ask_tcp(vip())).is_err_and(|e| e.raw_os_error() != Some(REFUSED))
    });
    assert_eq!(node.json(&["service", "list"]), serde_json::json!([]));
    assert_eq!(node.json(&["backend", "list"]), serde_json::json!([]));
}

#[test]
fn a_broken_file_is_reported_with_its_line_and_its_last_good_content_stays() {
    let node = Node::new();
    let agent = node.ready();
    let good = service("web", "10.96.0.10, 'fd00:10:96::10'", "TCP");
    let path = node.write("web.yaml", &good.replace("- port: 80", "- port: eighty"));
    let place = format!("{}:9: ", path.display());
    Node::until("the log names file and line", || agent.log().contains(&place));
    node.until_only(&["a", "b", "c"]);
    let status = node.json(&["status"]);
    assert_eq!(status["ready"], true, "what is served is in force: {status}");
    let sources = status["subsystems"].to_string();
    assert!(sources.contains(&place), "{sources}");

    // Another file is not held up by the broken one.
    node.write_slices("web", "TCP", &["b"]);
    node.until_only(&["b"]);
    node.write("web.yaml", &good.replace("- port: 80", "- port: 81"));
    let moved = SocketAddr::new(vip().ip(), 81);
    Node::until("the mended file is applied", || node.world.in_pod(|| ask_tcp(moved)).is_ok());
    assert_eq!(errno(node.world.in_pod(|| ask_tcp(vip()))), REFUSED);
    Node::until("the status is clear again", || {
        !node.json(&["status"])["subsystems"].to_string().contains(&place)
    });
}

#[test]
fn no_connect_fails_while_the_agent_is_killed_and_started_again() {
    let node = Node::new();
    let mut agent = node.ready();
    let agent = node.under_connects(|| {
        for _ in 0..5 {
            agent.kill();
            agent = node.ready();
        }
        // In the middle of a start as well, wherever that is then.
        for milliseconds in [1, 30, 100, 200, 300, 400, 600] {
            agent.kill();
            agent = node.start();
            sleep(Duration::from_millis(milliseconds));
        }
        agent.kill();
        node.ready()
    });
    let log = agent.log();
    let attached = |action: &str| log.matches(&format!("action={action}")).count();
    assert_eq!(attached("Created"), HOOKS, "only the first start");
    assert!(attached("Updated") >= 6 * HOOKS, "each start that went so far replaced the programs in place");
    assert_eq!(attached("Replaced"), 0);
}

#[test]
fn the_end_of_the_agent_leaves_the_data_plane_and_cleanup_removes_it() {
    let node = Node::new();
    let agent = node.ready();
    let refused = node.sheave(&["cleanup"]);
    assert!(!refused.status.success());
    let pid = agent.pid().unwrap();
    assert!(complaint(&refused).contains(&format!("the agent (process {pid}) is running")), "{refused:?}");
    node.until_only(&["a", "b", "c"]);

    assert!(agent.terminate(LIMIT).unwrap().success());
    node.until_only(&["a", "b", "c"]);
    let pins = node.world.host.bpffs.pins();
    assert!(fs::read_dir(pins.join("links")).unwrap().count() >= HOOKS);

    let output = node.sheave(&["cleanup"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!pins.exists());
    assert_eq!(errno(node.world.on_node(|| ask_tcp(vip()))), 101, "ENETUNREACH: no program translates");
    let again = node.sheave(&["cleanup"]);
    assert!(again.status.success() && again.stdout.is_empty(), "{again:?}");
}

/// Two sockets connected to `dns`, to the pods `a` and `b`.
fn two_sockets(node: &Node) -> [UdpSocket; 2] {
    let connect = |wanted: &str| {
        // One of two at random: missing one 40 times is one in 10^12.
        let sockets = (0..40).map(|_| node.world.in_pod(|| connected_udp(dns()).unwrap()));
        let is_wanted = |socket: &UdpSocket| ask_connected(socket).unwrap().0 == wanted;
        sockets.into_iter().find(is_wanted).unwrap()
    };
    [connect("a"), connect("b")]
}

#[test]
fn a_connected_udp_client_is_told_that_its_backend_left_and_another_is_left_alone() {
    let node = Node::new();
    node.write("dns.yaml", &service("dns", &VIP_B.to_string(), "UDP"));
    node.write_slices("dns", "UDP", &["a", "b"]);
    let agent = node.ready();
    let [leaving, staying] = two_sockets(&node);
    node.write_slices("dns", "UDP", &["b", "c"]);
    // ECONNABORTED for a reader that waits.
    Node::until("the socket is ended", || {
        leaving.take_error().unwrap().and_then(|error| error.raw_os_error()) == Some(103)
    });
    assert_eq!(ask_connected(&staying).unwrap().0, "b");
    assert_ne!(node.world.in_pod(|| ask_connected(&connected_udp(dns()).unwrap())).unwrap().0, "a");
    // Also one that left while no agent ran.
    agent.kill();
    node.write_slices("dns", "UDP", &["c"]);
    let agent = node.ready();
    Node::until("the socket is ended", || {
        staying.take_error().unwrap().and_then(|error| error.raw_os_error()) == Some(103)
    });
    // Counted a moment after it was done.
    Node::until("it is counted", || agent.metrics().unwrap().contains("sheave_sockets_destroyed_total 1\n"));
}

#[test]
fn an_agent_whose_sources_never_list_takes_nothing_away() {
    let node = Node::new();
    let agent = node.ready();
    agent.kill();
    let (inherited, backends) = (node.json(&["service", "list"]), node.json(&["backend", "list"]));
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "none", "cluster": { "server": "http://127.0.0.1:1" } }],
        "users": [{ "name": "none", "user": {} }],
        "contexts": [{ "name": "none", "context": { "cluster": "none", "user": "none" } }],
        "current-context": "none",
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    fs::write(&path, kubeconfig.to_string()).unwrap();
    let kubeconfig = path.to_str().unwrap();
    // Other capacities are other maps, which are empty: all the more must the old ones stay in use.
    for capacity in ["262144", "1000"] {
        let agent = node.under_connects(|| never_lists(&node, kubeconfig, capacity));
        assert!(!agent.log().contains("action=Updated"), "programs are exchanged only over complete lists");
        agent.kill();
    }
    assert_eq!(node.json(&["service", "list"]), inherited);
    assert_eq!(node.json(&["backend", "list"]), backends);
    // The change of capacity is taken back, and then made after all.
    node.under_connects(|| node.ready()).kill();
    let agent = node.under_connects(|| node.ready_with(&["--services-max", "1000"]));
    assert_eq!(agent.log().matches("action=Updated").count(), 2 * HOOKS);
    node.write_slices("web", "TCP", &["b"]);
    node.until_only(&["b"]);
}

/// An agent that is alive and waits for lists.
fn never_lists(node: &Node, kubeconfig: &str, capacity: &str) -> Agent {
    let agent = node.start_with(&["--kubeconfig", kubeconfig, "--services-max", capacity]);
    Node::until("the agent says what it lacks", || {
        agent.readiness().is_ok_and(|(status, why)| status == 503 && why.contains("not listed yet: "))
    });
    sleep(Duration::from_secs(2));
    let (status, why) = agent.readiness().unwrap();
    assert_eq!(status, 503);
    for expected in ["Services not listed yet: ", "Slices not listed yet: ", "Node not listed yet: "] {
        assert!(why.contains(expected), "{why}");
    }
    assert!(agent.is_live(), "a restart would not bring the API server back");
    assert_eq!(node.sheave(&["status"]).status.code(), Some(1));
    let monitor = node.sheave(&["monitor"]);
    assert!(complaint(&monitor).contains("not attached yet"), "{monitor:?}");
    agent
}

#[test]
fn an_agent_with_other_folders_on_the_same_cgroup_or_network_namespace_is_refused() {
    let node = Node::new();
    let first = node.ready();
    let (host, lab) = (&node.world.host, &node.world.lab);
    let folder = node.manifests.path().to_str().unwrap();
    let elsewhere = (Cgroup::new().unwrap(), Netns::new().unwrap());
    let cases = [
        (&host.cgroup, &elsewhere.1, Some("works on the cgroup")),
        (&elsewhere.0, &lab.node, Some("works on this network namespace")),
        (&elsewhere.0, &elsewhere.1, None),
    ];
    for (cgroup, netns, refusal) in cases {
        let (bpffs, dir) = (BpfFs::new().unwrap(), tempfile::tempdir().unwrap());
        let arguments = ["--node-name", "node-a", "--manifests", folder];
        let mut second = Agent::start_inside(netns, cgroup, &bpffs, dir.path(), &arguments).unwrap();
        let started = second.wait_until_ready(START_LIMIT);
        let log = second.log();
        match refusal {
            None => started.unwrap(),
            Some(words) => {
                assert!(started.is_err() && log.contains(words), "{log}");
                let pid = format!("pid {}", first.pid().unwrap());
                assert!(log.contains(&pid) && log.contains("agent.lock"), "{log}");
            }
        }
    }
    node.until_only(&["a", "b", "c"]);
}
