//! A running agent looks after what it put in place: programs on their hooks, and sockets whose backend left.

use std::fs;
use std::net::{SocketAddr, UdpSocket};

use sheave_tests::client::{ask_connected, ask_tcp, connected_udp};

use crate::node::{Node, service};
use crate::world::{PORT, VIP_B, vip};

/// Short, so that a test sees several.
const AUDIT: [&str; 2] = ["--audit-interval", "1"];
/// A second Service, over the same pods as the one at `VIP_B`.
const OTHER: &str = "10.96.0.77";

#[test]
fn programs_that_somebody_detached_are_attached_again() {
    let node = Node::new();
    let agent = node.ready_with(&AUDIT);
    node.until_only(&["a", "b", "c"]);
    let links = node.world.host.bpffs.pins().join("links");
    for program in ["connect4", "connect6"] {
        fs::remove_file(links.join(program)).unwrap();
    }
    Node::until("the audit attaches them again", || {
        agent.log().matches("the program was not attached any more").count() == 2
    });
    node.until_only(&["a", "b", "c"]);
    Node::until("readiness", || agent.readiness().is_ok_and(|(status, _)| status == 200));
    assert!(
        agent.metrics().unwrap().contains("sheave_drift_repaired_total 2\n"),
        "an audit in good order repairs nothing"
    );
}

#[test]
fn an_agent_that_cannot_attach_again_says_that_it_is_not_ready_until_it_can() {
    let node = Node::new();
    let agent = node.ready_with(&AUDIT);
    let links = node.world.host.bpffs.pins().join("links");
    for link in fs::read_dir(&links).unwrap() {
        fs::remove_file(link.unwrap().path()).unwrap();
    }
    fs::remove_dir(&links).unwrap();
    Node::until("it is not ready", || {
        agent.readiness().is_ok_and(|(status, why)| status == 503 && why.contains("cannot pin"))
    });
    assert!(agent.is_live(), "a restart would not help");
    fs::create_dir(&links).unwrap();
    Node::until("it is ready", || agent.readiness().is_ok_and(|(status, _)| status == 200));
    assert!(node.world.in_pod(|| ask_tcp(vip())).is_ok());
}

fn is_ended(socket: &UdpSocket) -> bool {
    // ECONNABORTED for a reader that waits.
    socket.take_error().unwrap().and_then(|error| error.raw_os_error()) == Some(103)
}

#[test]
fn a_udp_socket_is_ended_when_its_own_service_loses_the_backend_though_another_has_it() {
    let node = Node::new();
    let addresses: [SocketAddr; 2] =
        [SocketAddr::new(VIP_B.into(), PORT), SocketAddr::new(OTHER.parse().unwrap(), PORT)];
    for (name, address) in ["dns", "other"].into_iter().zip(addresses) {
        node.write(&format!("{name}.yaml"), &service(name, &address.ip().to_string(), "UDP"));
        node.write_slices(name, "UDP", &["a"]);
    }
    let agent = node.ready();
    let [leaving, staying] = addresses.map(|address| node.world.in_pod(|| connected_udp(address).unwrap()));
    for socket in [&leaving, &staying] {
        assert_eq!(ask_connected(socket).unwrap().0, "a");
    }
    node.write_slices("dns", "UDP", &["b"]);
    Node::until("the socket is ended", || is_ended(&leaving));
    assert_eq!(ask_connected(&staying).unwrap().0, "a");

    // It leaves the other Service while no agent runs, and other capacities make other maps.
    let second = node.world.in_pod(|| connected_udp(addresses[0]).unwrap());
    assert_eq!(ask_connected(&second).unwrap().0, "b");
    agent.kill();
    node.write_slices("other", "UDP", &["c"]);
    let agent = node.ready_with(&["--services-max", "1000"]);
    Node::until("the socket is ended", || is_ended(&staying));
    assert_eq!(ask_connected(&second).unwrap().0, "b");
    let counted = "sheave_sockets_destroyed_total 1\n";
    Node::until("it is counted", || agent.metrics().is_ok_and(|metrics| metrics.contains(counted)));
}
