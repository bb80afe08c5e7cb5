//! Devices and addresses that come, go and change while an agent runs.

use std::net::SocketAddr;

use sheave_tests::probe::{Connection, Outcome, tcp, udp};
use sheave_tests::topology::Links;
use sheave_tests::wait::wait_for;

use crate::manifests::{FAMILIES, NODE_PORT, cluster_ip, node_port, server, vip, web};
use crate::site::{BY_PACKET, LIMIT, Site};

fn answers(site: &Site, place: &str, to: SocketAddr) -> bool {
    matches!(Outcome::from(site.at(place, || tcp(to))), Outcome::Answered(_))
}

fn until_answers(site: &Site, place: &str, to: SocketAddr, why: &str) {
    let what = format!("{place} at {to}: {why}");
    wait_for(what, LIMIT, || Ok(answers(site, place, to).then_some(()))).unwrap();
}

#[test]
fn a_renamed_device_goes_on_serving() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a", "2a"]));
    let mut held = site.at("client", || Connection::open(node_port(1, false)).unwrap());
    for (old, new) in [("eth0", "uplink"), ("pod-1c", "renamed")] {
        site.place("node1").netns.ip(&format!("link set {old} name {new}")).unwrap();
    }
    for _ in 0..20 {
        for v6 in FAMILIES {
            assert!(answers(&site, "client", node_port(1, v6)));
            assert!(answers(&site, "1c", cluster_ip(v6)));
        }
    }
    held.exchange(b"on").unwrap();
}

#[test]
fn a_device_that_is_made_again_serves_again() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a", "2a"]));
    site.topology.reconnect("node1").unwrap();
    for v6 in FAMILIES {
        until_answers(&site, "client", node_port(1, v6), "the node's device is another");
        until_answers(&site, "stranger", vip(1, v6), "the node's device is another");
    }
    site.topology.reconnect("1c").unwrap();
    for v6 in FAMILIES {
        until_answers(&site, "1c", cluster_ip(v6), "the pod's device is another");
    }
}

#[test]
fn node_ports_follow_the_addresses_of_the_node() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a", "2a"]));
    let node = &site.place("node1").netns;
    for (address, bits) in [("192.0.2.77", 24), ("2001:db8:a::77", 64)] {
        let to = SocketAddr::new(address.parse().unwrap(), NODE_PORT);
        node.ip(&format!("addr add {address}/{bits} dev eth0")).unwrap();
        until_answers(&site, "client", to, "the address is the node's");
        assert!(answers(&site, "1c", to));
        node.ip(&format!("addr del {address}/{bits} dev eth0")).unwrap();
        wait_for("the address is nobody's", LIMIT, || Ok((!answers(&site, "1c", to)).then_some(()))).unwrap();
    }
    for v6 in FAMILIES {
        assert!(answers(&site, "client", node_port(1, v6)), "the others stay");
    }
}

#[test]
fn after_cleanup_the_devices_are_as_if_nothing_had_been_there() {
    let mut site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a", "2a"]));
    for node in [1, 2] {
        site.kill_agent(node);
        site.sheave(node, &["cleanup"]);
    }
    for v6 in FAMILIES {
        let direct = server("1a", v6);
        assert_eq!(site.at("client", || tcp(direct)).unwrap().server, direct);
        let refused = Outcome::from(site.at("client", || tcp(node_port(1, v6))));
        assert_eq!(refused, Outcome::Refused, "the node's own answer at a closed port");
    }
    site.start_agents(BY_PACKET);
    for v6 in FAMILIES {
        assert!(answers(&site, "client", node_port(1, v6)));
        assert!(answers(&site, "1c", cluster_ip(v6)));
    }
}

#[test]
fn an_answer_may_leave_by_another_device_than_its_question_came_by() {
    let site = Site::new(Links::ETHERNET, BY_PACKET);
    site.publish(&web(&["1a", "2a"]));
    site.topology.leave_by_second_link("node1").unwrap();
    site.until_leads_out(1, "eth1");
    for v6 in FAMILIES {
        let to = node_port(1, v6);
        for _ in 0..20 {
            site.at("client", || Connection::open(to)?.transfer_last(b"by another way")).unwrap();
            site.at("client", || udp(to)).unwrap();
            site.at("1c", || tcp(cluster_ip(v6))).unwrap();
        }
    }
}
