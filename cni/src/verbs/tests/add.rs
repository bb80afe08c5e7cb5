//! ADD: its order, what it refuses, chains.

use serde_json::json;

use crate::wire::Held;

use super::{
    super::doubles::{NOW, State},
    *,
};

#[test]
fn an_add_reserves_wires_commits_and_answers() {
    let world = Doubles::ready();
    let result = added(&world, &config(json!({})));
    let steps = ["identify", "own_cookie", "facts", "get", "reserve", "held_by_others", "connect", "commit"];
    assert_eq!(world.steps(), steps);
    assert_eq!(result["ips"][0]["address"], "10.244.1.10/32");
    assert_eq!(result["ips"][1]["address"], "fd00:10:244:1::a/128");
    let record = record(&world);
    assert_eq!((record.stage, record.mtu, record.since), (Stage::Wired, 1450, NOW));
    assert_eq!((record.network.as_str(), record.pod.name.as_str()), ("pods", "web-0"));
    assert_eq!(world.state.borrow().devices.first(), Some(&id().host_device()));
}

#[test]
fn an_add_of_what_is_there_is_refused_and_harms_nothing() {
    let world = Doubles::ready();
    with_plugin(&world);
    added(&world, &delegating());
    let before = world.left_over();
    assert_eq!(refused(&run(&world, Verb::Add, &delegating())).0, 102);
    assert_eq!(world.left_over(), before);
    assert_eq!(world.steps().iter().filter(|step| *step == "ipam ADD").count(), 1);
}

#[test]
fn an_address_that_leads_to_a_forgotten_pod_is_passed_over_and_refused_to_who_insists() {
    let world = Doubles::ready();
    let held = |text: &str| Held { address: text.parse().unwrap(), host_device: "shv00".into() };
    world.change(|state| state.held = vec![held("10.244.1.10"), held("10.244.1.11")]);
    let fixed = config(json!({"runtimeConfig": {"ips": ["10.244.1.11"]}}));
    let (code, message) = refused(&run(&world, Verb::Add, &fixed));
    assert_eq!((code, message.contains("shv00")), (7, true), "{message}");
    assert_eq!(world.left_over(), Vec::<String>::new());
    let result = added(&world, &config(json!({})));
    assert_eq!(result["ips"][0]["address"], "10.244.1.12/32");
    assert_eq!(world.state.borrow().log.len(), 1);
}

#[test]
fn of_a_container_that_had_a_default_route_it_is_remembered_and_none_is_claimed() {
    let world = Doubles::ready();
    world.change(|state| state.has_default_route = true);
    let result = added(&world, &config(json!({})));
    assert_eq!(result["routes"], json!([]));
    assert_eq!(record(&world).by_rule, record(&world).addresses);
}

#[test]
fn the_namespace_must_be_one_and_not_the_plugins_own() {
    let world = Doubles::ready();
    let refusal = |netns| refused(&run_in(&world, Verb::Add, netns, &config(json!({})))).0;
    assert_eq!([refusal("/run/netns/own"), refusal("/run/netns/none")], [8, 8]);
    let mut call = call(Verb::Add, "/run/netns/own");
    call.any_netns = true;
    assert!(answer(Ok(call), config(json!({})).to_string().as_bytes(), |_| world.clone()).success);
}

#[test]
fn a_node_that_is_not_ready_says_try_later() {
    type Change = fn(&mut State);
    let changes: [(Change, &str); 4] = [
        (|state| state.facts = None, "no facts"),
        (|state| state.facts.as_mut().unwrap().obstacle = Some("no device".into()), "no device"),
        (|state| state.facts.as_mut().unwrap().pins.schema = 1, "install-cni"),
        (|state| state.facts.as_mut().unwrap().pod_cidrs.clear(), "podCIDR"),
    ];
    for (change, words) in changes {
        let world = Doubles::ready();
        world.change(change);
        let (code, message) = refused(&run(&world, Verb::Add, &config(json!({}))));
        assert_eq!(code, 11, "{message}");
        assert!(message.contains(words), "{message}");
        assert!(!world.steps().contains(&"reserve".to_owned()));
    }
}

#[test]
fn only_host_ports_need_a_running_agent() {
    let world = Doubles::ready();
    world.change(|state| state.agent = false);
    let ports = config(json!({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80}]}}));
    assert_eq!(refused(&run(&world, Verb::Add, &ports)).0, 11);
    added(&world, &config(json!({})));
}

#[test]
fn ports_that_waiting_does_not_help_are_a_wrong_value_and_nothing_of_the_pod_remains() {
    let world = Doubles::ready();
    world.change(|state| state.refused_ports = Some("`198.51.100.9` is no address of this node".into()));
    let ports = config(json!({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80}]}}));
    let (code, message) = refused(&run(&world, Verb::Add, &ports));
    assert_eq!(code, 7, "{message}");
    assert!(message.contains("198.51.100.9"), "{message}");
    assert_eq!(world.left_over(), Vec::<String>::new());
}

#[test]
fn a_port_of_a_host_address_of_another_family_is_passed_over() {
    let world = Doubles::ready();
    world.change(|state| state.facts.as_mut().unwrap().pod_cidrs.truncate(1));
    let port = |host: u16, ip: &str| json!({"hostPort": host, "containerPort": 80, "hostIP": ip});
    let list = [port(80, "::1"), port(81, "127.0.0.1"), port(82, ""), port(83, "::")];
    added(&world, &config(json!({"runtimeConfig": {"portMappings": list}})));
    let kept: Vec<_> = record(&world).ports.iter().map(|port| port.host_port).collect();
    assert_eq!(kept, [81, 82, 83]);
}

#[test]
fn ranges_must_lie_within_the_nodes() {
    let world = Doubles::ready();
    let ranges = |subnet: &str| config(json!({"runtimeConfig": {"ipRanges": [[{"subnet": subnet}]]}}));
    for foreign in ["10.99.0.0/24", "10.244.0.0/16", "fd00::/64"] {
        assert_eq!(refused(&run(&world, Verb::Add, &ranges(foreign))).0, 7, "{foreign}");
    }
    let result = added(&world, &ranges("10.244.1.64/26"));
    assert_eq!(result["ips"][0]["address"], "10.244.1.74/32");
}

#[test]
fn a_member_of_a_chain_passes_on_what_came_before() {
    let world = Doubles::ready();
    let previous = json!({"cniVersion": "1.1.0", "foo": 1, "interfaces": [{"name": "net1", "sandbox": "/x"}],
        "ips": [{"address": "192.0.2.1/24", "interface": 0}], "dns": {"domain": "a"}});
    let result = added(&world, &config(json!({"prevResult": previous, "dns": {"domain": "b"}})));
    let names: Vec<_> = result["interfaces"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, [&json!("net1"), &json!(id().host_device()), &json!("eth0")]);
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!((&result["foo"], &result["dns"]), (&json!(1), &json!({"domain": "a"})));
}

#[test]
fn an_interface_that_an_earlier_plugin_made_is_not_made_again() {
    let world = Doubles::ready();
    let previous = json!({"interfaces": [{"name": "eth0", "sandbox": "/run/netns/a"}]});
    assert_eq!(refused(&run(&world, Verb::Add, &config(json!({"prevResult": previous})))).0, 102);
    let host = json!({"interfaces": [{"name": "eth0"}]});
    added(&world, &config(json!({"prevResult": host})));
}
