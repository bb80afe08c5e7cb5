//! Nodes come, go, and change their addresses and prefixes, also while no agent looks.

use sheave_tests::wait::wait_for;

use crate::rig::{LIMIT, Rig, Underlay, ask, pod, shown};

#[test]
fn a_node_that_goes_is_readdressed_or_gets_other_prefixes_is_followed() {
    let mut rig = Rig::new(Underlay::Both);
    rig.start(&[]);
    rig.await_all_reach_all();

    // Another address: on the node first, then in its object.
    rig.node(2).ip("addr del 192.0.2.2/24 dev eth0").unwrap();
    rig.node(2).ip("addr add 192.0.2.22/24 dev eth0").unwrap();
    rig.node(2).ip("route replace default via 192.0.2.254").unwrap();
    let mut nodes = rig.nodes();
    nodes[1].addresses[0] = "192.0.2.22".parse().unwrap();
    rig.describe(&nodes);
    rig.await_route(1, "10.244.2.0/24", Some("via 192.0.2.22 dev eth0"));
    rig.await_all_reach_all();

    // Another prefix: pods get there, and the old one leads nowhere any more.
    nodes[2].pod_cidrs[0] = "10.244.33.0/24".into();
    rig.describe(&nodes);
    rig.await_route(1, "10.244.33.0/24", Some("dev sheave.vxlan"));
    rig.await_route(1, "10.244.3.0/24", None);
    rig.await_route(3, "unreachable 10.244.33.0/24", Some(""));
    let told = || rig.facts(3).filter(|facts| facts.pod_cidrs[0].to_string() == "10.244.33.0/24");
    wait_for("the plugin knows the new prefix", LIMIT, || Ok(told())).unwrap();

    // The only one behind the router goes, and the tunnel with it.
    nodes.remove(2);
    rig.describe(&nodes);
    rig.await_route(1, "10.244.33.0/24", None);
    let gone = || shown(rig.node(1), &["link", "show", "sheave.vxlan"]).is_empty().then_some(());
    wait_for("the tunnel is gone", LIMIT, || Ok(gone())).unwrap();
    wait_for("pods get the whole MTU", LIMIT, || Ok(rig.facts(1).filter(|facts| facts.mtu == 1500))).unwrap();
    let cause = || rig.facts(3).and_then(|facts| facts.obstacle);
    let obstacle = wait_for("node 3 serves no pods", LIMIT, || Ok(cause())).unwrap();
    assert!(obstacle.contains("there is no Node `n3`"), "{obstacle}");
    for address in pod(2) {
        ask(rig.pod_netns(1), rig.pod_netns(2), address).unwrap();
    }
}

#[test]
fn what_changed_while_no_agent_ran_is_found_and_meanwhile_everything_goes_on() {
    let mut rig = Rig::new(Underlay::Both);
    rig.start(&[]);
    rig.await_all_reach_all();
    rig.kill(1);
    rig.await_all_reach_all();
    let mut nodes = rig.nodes();
    nodes[1].pod_cidrs = vec!["10.244.22.0/24".into()];
    nodes.remove(2);
    rig.describe(&nodes);
    rig.launch(1, &[]);
    rig.await_route(1, "10.244.22.0/24", Some("dev eth0"));
    for gone in ["10.244.2.0/24", "10.244.3.0/24", "fd00:10:244:2::/64", "fd00:10:244:3::/64"] {
        rig.await_route(1, gone, None);
    }
    // The routes to the node's own pod are not the agent's.
    for family in ["-4", "-6"] {
        let routes = shown(rig.node(1), &[family, "route", "show", "dev", "pod", "proto", "158"]);
        assert!(routes.contains("10.244.1.5") || routes.contains("fd00:10:244:1::5"), "{routes}");
    }
}
