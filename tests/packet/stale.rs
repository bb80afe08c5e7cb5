//! UDP clients that keep their port: with their next packet they are with a backend that serves, or are refused.

use std::net::{SocketAddr, UdpSocket};

use sheave_tests::probe::{Outcome, ask, udp_socket};
use sheave_tests::topology::Links;

use crate::manifests::{FAMILIES, cluster_ip, node_port, server, vip, web, web_with};
use crate::site::{BY_PACKET, Site};

/// A client with one socket for its whole life.
struct Client {
    name: String,
    socket: UdpSocket,
    v6: bool,
}

impl Client {
    fn new(site: &Site, place: &str, to: SocketAddr) -> Self {
        let socket = site.at(place, || {
            let socket = udp_socket(to, 45_000).unwrap();
            socket.connect(to).unwrap();
            socket
        });
        Self { name: format!("{place} at {to}"), socket, v6: to.is_ipv6() }
    }

    fn ask(&self) -> Outcome {
        ask(&self.socket, b"who?").into()
    }

    fn gets(&self, pod: &str, why: &str) {
        match self.ask() {
            Outcome::Answered(answer) => {
                assert_eq!(answer.server, server(pod, self.v6), "{}: {why}", self.name);
            }
            other => panic!("{}: {why}: {other:?} instead of {pod}", self.name),
        }
    }
}

/// Outside by NodePort and by load balancer, on the node of the backend and on another, and inside.
fn clients(site: &Site) -> Vec<Client> {
    let mut clients = Vec::new();
    for v6 in FAMILIES {
        clients.push(Client::new(site, "client", node_port(1, v6)));
        clients.push(Client::new(site, "stranger", vip(2, v6)));
        clients.push(Client::new(site, "1c", cluster_ip(v6)));
        clients.push(Client::new(site, "2c", vip(1, v6)));
    }
    clients
}

#[test]
fn a_udp_client_moves_with_its_next_packet_and_only_when_its_backend_left() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a"]));
    let clients = clients(&site);
    let all = |pod: &str, why: &str| clients.iter().for_each(|client| client.gets(pod, why));
    let refused = |why: &str| {
        for client in &clients {
            assert_eq!(client.ask(), Outcome::Refused, "{}: {why}", client.name);
        }
    };
    all("1a", "the only endpoint");
    site.publish(&web(&["1a", "1b", "2a", "2b"]));
    all("1a", "others came, its own stayed");
    site.publish(&web(&["2b"]));
    all("2b", "its own left");
    site.publish(&web(&["2b:terminating", "1b"]));
    all("2b", "its own terminates and serves");
    site.publish(&web_with(
        "internalTrafficPolicy: Local\n  externalTrafficPolicy: Local",
        &["2b", "1b", "2a"],
    ));
    all("2b", "a policy does not cut flows");
    site.publish(&web(&["2b:ending", "1b"]));
    all("1b", "its own does not serve any more");
    site.publish(&web(&[]));
    refused("nobody serves");
    refused("nobody serves, asked again");
    site.publish(&web(&["2a:unready"]));
    refused("one is there and does not serve yet");
    site.publish(&web(&["2a"]));
    all("2a", "the first endpoint came");
}

#[test]
fn nothing_is_forgotten_when_an_agent_starts() {
    let mut site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a"]));
    let clients = clients(&site);
    clients.iter().for_each(|client| client.gets("1a", "the only endpoint"));
    site.publish(&web(&["1a", "1b", "2a", "2b"]));
    site.start_agents(BY_PACKET);
    clients.iter().for_each(|client| client.gets("1a", "the agents started again"));
    for node in [1, 2] {
        site.kill_agent(node);
    }
    clients.iter().for_each(|client| client.gets("1a", "no agent runs"));
    site.rewrite(&web(&["2b"]));
    for node in [1, 2] {
        site.start_agent(node, BY_PACKET);
    }
    site.settle();
    clients.iter().for_each(|client| client.gets("2b", "its backend left while no agent ran"));
}
