//! The verbs over a machine in memory: order, undoing, what DEL and GC leave alone.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use serde_json::{Value, json};

use super::{
    Outcome, answer,
    doubles::{Doubles, NOW, netns},
    guarded,
};
use crate::{
    record::{Attachment, AttachmentId, Ipam, Stage},
    spec::{Call, CallError, Verb},
};

fn id() -> AttachmentId {
    AttachmentId { container_id: "c1".into(), ifname: "eth0".into() }
}

fn call(verb: Verb, netns: &str) -> Call {
    let args = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0".to_owned();
    Call { verb, id: id(), netns: netns.into(), args, any_netns: false }
}

/// A configuration of the newest version with more keys.
fn config(more: Value) -> Value {
    let mut config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "sheave-cni"});
    let Value::Object(more) = more else { panic!("{more}") };
    config.as_object_mut().unwrap().extend(more);
    config
}

fn run(world: &Doubles, verb: Verb, config: &Value) -> Outcome {
    run_in(world, verb, "/run/netns/a", config)
}

fn run_in(world: &Doubles, verb: Verb, netns: &str, config: &Value) -> Outcome {
    answer(Ok(call(verb, netns)), config.to_string().as_bytes(), |_| world.clone())
}

fn added(world: &Doubles, config: &Value) -> Value {
    let outcome = run(world, Verb::Add, config);
    assert!(outcome.success, "{outcome:?}");
    outcome.document.unwrap()
}

/// Code and message of an error.
fn refused(outcome: &Outcome) -> (u64, String) {
    assert!(!outcome.success, "{outcome:?}");
    let document = outcome.document.as_ref().unwrap();
    (document["code"].as_u64().unwrap(), document["msg"].as_str().unwrap().to_owned())
}

fn silent(outcome: &Outcome) {
    assert_eq!(outcome, &Outcome { document: None, success: true });
}

fn record(world: &Doubles) -> Attachment {
    world.state.borrow().records[&id()].clone()
}

fn delegating() -> Value {
    config(json!({"ipam": {"type": "host-local"}, "runtimeConfig": {"portMappings": [
        {"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}]}}))
}

fn with_plugin(world: &Doubles) {
    let answer = json!({
        "ips": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["10.1.0.53"]},
    });
    world.change(|state| state.plugins.insert("host-local".into(), answer));
}

#[test]
fn an_add_reserves_wires_commits_and_answers() {
    let world = Doubles::ready();
    let result = added(&world, &config(json!({})));
    assert_eq!(world.steps(), ["identify", "own_cookie", "facts", "get", "reserve", "connect", "commit"]);
    assert_eq!(result["ips"][0]["address"], "10.244.1.10/32");
    assert_eq!(result["ips"][1]["address"], "fd00:10:244:1::a/128");
    let record = record(&world);
    assert_eq!((record.stage, record.mtu, record.since), (Stage::Wired, 1450, NOW));
    assert_eq!((record.network.as_str(), record.pod.name.as_str()), ("pods", "web-0"));
    assert_eq!(world.state.borrow().devices.first(), Some(&id().host_device()));
}

#[test]
fn an_add_that_fails_at_any_step_leaves_nothing() {
    let steps = steps_of_an_add();
    assert!(steps.iter().any(|step| step == "serve_ports") && steps.iter().any(|step| step == "ipam ADD"));
    for (at, name) in (1..).zip(&steps) {
        let world = Doubles::ready();
        with_plugin(&world);
        world.failing.borrow_mut().insert(at);
        let outcome = run(&world, Verb::Add, &delegating());
        assert!(!outcome.success, "{name}");
        assert!(refused(&outcome).1.contains(name.as_str()), "{name}: {outcome:?}");
        assert_eq!(world.left_over(), Vec::<String>::new(), "{name}");
    }
}

/// Names of the steps of an ADD with everything.
fn steps_of_an_add() -> Vec<String> {
    let world = Doubles::ready();
    with_plugin(&world);
    added(&world, &delegating());
    world.steps()
}

#[test]
fn whichever_two_steps_fail_no_address_is_free_while_a_device_has_it_and_del_leaves_nothing() {
    let most = steps_of_an_add().len() + 4;
    for (first, second) in (1..=most).flat_map(|first| (first..=most).map(move |second| (first, second))) {
        let world = Doubles::ready();
        with_plugin(&world);
        world.failing.borrow_mut().extend([first, second]);
        run(&world, Verb::Add, &delegating());
        let steps = world.steps();
        let state = world.state.borrow();
        let held = !state.records.is_empty() && !state.leases.is_empty();
        assert!(state.devices.is_empty() || held, "{first} and {second} of {steps:?}");
        drop(state);
        world.mend();
        silent(&run(&world, Verb::Del, &delegating()));
        assert_eq!(world.left_over(), Vec::<String>::new(), "{first} and {second} of {steps:?}");
    }
}

#[test]
fn killed_at_any_step_an_add_leaves_what_del_removes_and_the_next_add_replaces() {
    for (at, name) in (1..).zip(steps_of_an_add()) {
        for verb in [Verb::Del, Verb::Add] {
            let world = Doubles::ready();
            with_plugin(&world);
            world.deadly.set(Some(at));
            let killed = catch_unwind(AssertUnwindSafe(|| run(&world, Verb::Add, &delegating())));
            assert!(killed.is_err(), "{name}");
            world.mend();
            let next = run(&world, verb, &delegating());
            assert!(next.success, "{verb} after {name}: {next:?}");
            silent(&run(&world, Verb::Del, &delegating()));
            assert_eq!(world.left_over(), Vec::<String>::new(), "{verb} after {name}");
        }
    }
}

#[test]
fn killed_at_any_step_a_del_is_finished_by_the_next() {
    for at in 1..=5 {
        let world = Doubles::ready();
        with_plugin(&world);
        added(&world, &delegating());
        world.deadly.set(Some(world.steps().len() + at));
        let killed = catch_unwind(AssertUnwindSafe(|| run(&world, Verb::Del, &delegating())));
        assert!(killed.is_err(), "step {at}");
        world.mend();
        silent(&run(&world, Verb::Del, &delegating()));
        assert_eq!(world.left_over(), Vec::<String>::new(), "step {at}");
    }
}

#[test]
fn what_cannot_be_undone_keeps_its_record_and_its_addresses_for_del() {
    let world = Doubles::ready();
    with_plugin(&world);
    world.break_step("commit");
    world.break_step("disconnect");
    let outcome = run(&world, Verb::Add, &delegating());
    assert_eq!(outcome.document.unwrap()["details"], "disconnect broke");
    assert_eq!(record(&world).stage, Stage::Reserved);
    assert_eq!(world.left_over().len(), 3, "{:?}", world.left_over());
    world.mend();
    silent(&run_in(&world, Verb::Del, "", &delegating()));
    assert_eq!(world.left_over(), Vec::<String>::new());
}

#[test]
fn wiring_that_cannot_undo_itself_keeps_its_record_for_del() {
    let world = Doubles::ready();
    world.change(|state| state.connect_leaves = true);
    world.break_step("connect");
    assert_eq!(refused(&run(&world, Verb::Add, &config(json!({})))).1, "connect broke");
    assert_eq!(record(&world).stage, Stage::Reserved);
    silent(&run(&world, Verb::Del, &config(json!({}))));
    assert_eq!(world.left_over(), Vec::<String>::new());
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
fn what_a_killed_add_left_is_removed_before_the_next_one_begins() {
    let world = Doubles::ready();
    added(&world, &config(json!({})));
    world.change(|state| state.records.get_mut(&id()).unwrap().stage = Stage::Reserved);
    added(&world, &config(json!({})));
    assert_eq!(record(&world).stage, Stage::Wired);
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
    type Change = fn(&mut super::doubles::State);
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
fn a_delegated_plugin_gives_the_addresses_and_the_name_servers() {
    let world = Doubles::ready();
    with_plugin(&world);
    let result = added(&world, &delegating());
    assert_eq!(result["ips"].as_array().unwrap().len(), 1);
    assert_eq!(result["ips"][0]["address"], "10.1.0.5/32");
    assert_eq!(result["ips"][0]["gateway"], "169.254.1.1");
    assert_eq!(result["dns"], json!({"nameservers": ["10.1.0.53"]}));
    assert_eq!(record(&world).ipam, Ipam::Delegated("host-local".into()));
}

#[test]
fn a_delegated_result_without_a_usable_address_is_given_back() {
    for answer in [json!({}), json!({"ips": []}), json!({"ips": [{"address": "x"}]}), json!(null)] {
        let world = Doubles::ready();
        world.change(|state| state.plugins.insert("host-local".into(), answer.clone()));
        assert_eq!(refused(&run(&world, Verb::Add, &delegating())).0, 104, "{answer}");
        assert_eq!(world.left_over(), Vec::<String>::new());
    }
    let (code, message) = refused(&run(&Doubles::ready(), Verb::Add, &delegating()));
    assert_eq!(code, 7);
    assert!(message.contains("CNI_PATH"), "{message}");
}

#[test]
fn what_a_delegated_plugin_refuses_is_passed_on_with_its_code() {
    let world = Doubles::ready();
    with_plugin(&world);
    let error = crate::spec::Error { code: 142, msg: "full".into(), details: "all of it".into() };
    world.broken.borrow_mut().insert("ipam ADD".into(), error);
    let outcome = run(&world, Verb::Add, &delegating());
    assert_eq!(refused(&outcome), (142, "IPAM plugin `host-local`: full".into()));
    assert_eq!(outcome.document.unwrap()["details"], "all of it");
    assert!(world.steps().contains(&"ipam DEL".to_owned()));
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

#[test]
fn a_del_removes_the_device_before_it_gives_the_address_back() {
    let world = Doubles::ready();
    with_plugin(&world);
    added(&world, &delegating());
    world.change(|state| state.steps.clear());
    silent(&run(&world, Verb::Del, &delegating()));
    assert_eq!(world.steps(), ["get", "facts", "disconnect", "ipam DEL", "release"]);
    assert_eq!(world.left_over(), Vec::<String>::new());
}

#[test]
fn a_del_does_not_fail_for_what_is_gone() {
    let config = config(json!({}));
    let world = Doubles::ready();
    for netns in ["", "/run/netns/none", "/run/netns/a", "/run/netns/own"] {
        silent(&run_in(&world, Verb::Del, netns, &config));
        added(&world, &config);
        silent(&run_in(&world, Verb::Del, netns, &config));
        silent(&run_in(&world, Verb::Del, netns, &config));
        assert_eq!(world.left_over(), Vec::<String>::new(), "{netns}");
    }
    world.change(|state| (state.facts, state.agent) = (None, false));
    silent(&run(&world, Verb::Del, &config));
}

#[test]
fn a_del_has_no_use_for_options_and_does_not_read_them() {
    let world = Doubles::ready();
    let wrong = config(json!({"mtu": "x", "runtimeConfig": {"mac": 5, "portMappings": {}}, "prevResult": 3}));
    assert_eq!(refused(&run(&world, Verb::Add, &wrong)).0, 7);
    let mut call = call(Verb::Del, "");
    call.args = "nonsense".into();
    silent(&answer(Ok(call), wrong.to_string().as_bytes(), |_| world.clone()));
}

#[test]
fn a_del_without_a_record_still_removes_the_device() {
    let world = Doubles::ready();
    world.change(|state| state.devices.insert(id().host_device()));
    silent(&run(&world, Verb::Del, &config(json!({}))));
    assert_eq!(world.left_over(), Vec::<String>::new());
}

#[test]
fn a_del_whose_record_cannot_be_read_removes_the_device_and_forgets() {
    let world = Doubles::ready();
    added(&world, &config(json!({})));
    world.break_step("get");
    silent(&run(&world, Verb::Del, &config(json!({}))));
    assert_eq!(world.left_over(), Vec::<String>::new());
    assert!(world.state.borrow().log[0].contains("get broke"));
}

#[test]
fn a_del_whose_store_is_broken_removes_the_device_and_says_so() {
    let world = Doubles::ready();
    added(&world, &config(json!({})));
    world.break_step("get");
    world.break_step("release");
    assert_eq!(refused(&run(&world, Verb::Del, &config(json!({})))).0, 5);
    assert!(world.state.borrow().devices.is_empty());
}

#[test]
fn a_del_that_failed_anywhere_succeeds_when_it_is_called_again() {
    let steps = 5;
    for at in 1..=steps {
        let world = Doubles::ready();
        with_plugin(&world);
        added(&world, &delegating());
        let done = world.steps().len();
        world.failing.borrow_mut().insert(done + at);
        let first = run(&world, Verb::Del, &delegating());
        let name = world.steps()[done + at - 1].clone();
        // Without facts, or with a record that cannot be read, everything is removed all the same.
        assert_eq!(first.success, matches!(name.as_str(), "facts" | "get"), "{name}");
        silent(&run(&world, Verb::Del, &delegating()));
        assert_eq!(world.left_over(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_delegated_plugin_that_is_gone_does_not_keep_a_pod_from_ending() {
    let world = Doubles::ready();
    with_plugin(&world);
    added(&world, &delegating());
    world.change(|state| state.plugins.clear());
    silent(&run(&world, Verb::Del, &delegating()));
    assert!(world.state.borrow().log[0].contains("host-local"));
    assert!(world.state.borrow().records.is_empty());
}

fn check_config(world: &Doubles) -> Value {
    let result = added(world, &config(json!({})));
    config(json!({"prevResult": result}))
}

#[test]
fn a_check_right_after_add_finds_nothing_also_without_the_agent() {
    let world = Doubles::ready();
    let config = check_config(&world);
    silent(&run(&world, Verb::Check, &config));
    world.change(|state| state.agent = false);
    silent(&run(&world, Verb::Check, &config));
}

#[test]
fn a_check_says_what_differs() {
    let world = Doubles::ready();
    let good = check_config(&world);
    let differs = |netns: &str, config: &Value, words: &str| {
        let (code, message) = refused(&run_in(&world, Verb::Check, netns, config));
        assert_eq!(code, 103, "{message}");
        assert!(message.contains(words), "{message}");
    };
    let mut other = good.clone();
    other["prevResult"]["ips"][0]["address"] = json!("10.244.1.11/32");
    differs("/run/netns/a", &other, "10.244.1.10");
    other["prevResult"]["interfaces"] = json!([]);
    differs("/run/netns/a", &other, "no interface eth0");
    differs("/run/netns/own", &good, "another network namespace");
    differs("/run/netns/none", &good, "no network namespace");
    world.change(|state| state.differences.push("the route is gone".into()));
    differs("/run/netns/a", &good, "the route is gone");
    world.change(|state| state.records.get_mut(&id()).unwrap().stage = Stage::Reserved);
    differs("/run/netns/a", &good, "nothing is remembered");
}

#[test]
fn a_check_needs_a_result_to_check() {
    let world = Doubles::ready();
    assert_eq!(refused(&run(&world, Verb::Check, &config(json!({})))).0, 7);
}

fn gc_world() -> Doubles {
    let world = Doubles::ready();
    added(&world, &config(json!({})));
    world.change(|state| {
        state.records.get_mut(&id()).unwrap().since = NOW - 60;
        state.namespaces.clear();
    });
    world
}

#[test]
fn a_gc_removes_what_is_in_no_list_and_has_no_namespace() {
    for list in [json!({"cni.dev/valid-attachments": []}), json!({"cni.dev/attachments": null})] {
        let world = gc_world();
        silent(&run(&world, Verb::Gc, &config(list)));
        assert_eq!(world.left_over(), Vec::<String>::new());
        assert_eq!(world.state.borrow().log.len(), 1);
    }
}

#[test]
fn a_gc_leaves_alone_whatever_may_be_alive() {
    type Change = fn(&mut super::doubles::State);
    fn only(state: &mut super::doubles::State) -> &mut Attachment {
        state.records.get_mut(&id()).unwrap()
    }
    let none = json!({"cni.dev/valid-attachments": []});
    let mine = json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]});
    let nothing: Change = |_| {};
    let cases: [(&str, Value, Change); 5] = [
        ("no list", json!({}), nothing),
        ("listed", mine, nothing),
        ("young", none.clone(), |state| only(state).since = NOW - 59),
        ("another network", none.clone(), |state| only(state).network = "other".into()),
        ("its namespace is there", none, |state| {
            state.namespaces.insert(PathBuf::from("/run/netns/a"), netns(7));
        }),
    ];
    for (name, list, change) in cases {
        let world = gc_world();
        world.change(change);
        silent(&run(&world, Verb::Gc, &config(list)));
        assert_eq!(world.left_over().len(), 2, "{name}");
    }
}

#[test]
fn a_gc_knows_a_namespace_by_its_cookie_and_not_by_its_path() {
    let world = gc_world();
    world.change(|state| state.namespaces.insert("/run/netns/a".into(), netns(8)));
    silent(&run(&world, Verb::Gc, &config(json!({"cni.dev/valid-attachments": []}))));
    assert_eq!(world.left_over(), Vec::<String>::new());
}

#[test]
fn a_gc_goes_on_past_errors_and_tells_all() {
    let world = gc_world();
    world.change(|state| {
        let mut second = state.records[&id()].clone();
        second.id.container_id = "c2".into();
        state.records.insert(second.id.clone(), second);
    });
    world.break_step("disconnect");
    let (code, message) = refused(&run(&world, Verb::Gc, &config(json!({"cni.dev/valid-attachments": []}))));
    assert_eq!((code, message.as_str()), (5, "disconnect broke; disconnect broke"));
}

#[test]
fn a_list_that_is_not_understood_frees_nothing() {
    for list in [json!({}), json!([{"containerID": "c1"}]), json!(["c1"]), json!("x")] {
        let world = gc_world();
        let outcome = run(&world, Verb::Gc, &config(json!({"cni.dev/valid-attachments": list})));
        assert_eq!(refused(&outcome).0, 7);
        assert_eq!(world.left_over().len(), 2);
    }
}

#[test]
fn status_is_silent_on_a_ready_node_and_opens_no_store() {
    let world = Doubles::ready();
    silent(&run(&world, Verb::Status, &config(json!({}))));
    assert_eq!(world.steps(), ["facts"]);
}

#[test]
fn status_tells_not_ready_from_broken() {
    type Change = fn(&mut super::doubles::State);
    let cases: [(Change, u64); 6] = [
        (|state| state.facts = None, 50),
        (|state| state.agent = false, 50),
        (|state| state.facts.as_mut().unwrap().obstacle = Some("starting".into()), 50),
        (|state| state.facts.as_mut().unwrap().pod_cidrs.clear(), 50),
        (|state| state.facts.as_mut().unwrap().pins.schema = 1, 50),
        (|state| state.missing_pins.push("/pins/guard_ingress".into()), 51),
    ];
    for (at, (change, code)) in cases.into_iter().enumerate() {
        let world = Doubles::ready();
        world.change(change);
        assert_eq!(refused(&run(&world, Verb::Status, &config(json!({})))).0, code, "case {at}");
    }
}

#[test]
fn a_delegated_plugin_is_asked_for_status_check_and_gc_too() {
    let world = Doubles::ready();
    with_plugin(&world);
    world.change(|state| state.facts.as_mut().unwrap().pod_cidrs.clear());
    silent(&run(&world, Verb::Status, &delegating()));
    let mut gc = delegating();
    gc["cni.dev/valid-attachments"] = json!([]);
    silent(&run(&world, Verb::Gc, &gc));
    assert_eq!(world.steps().iter().filter(|step| step.starts_with("ipam")).count(), 2);
    world.break_step("ipam STATUS");
    assert_eq!(refused(&run(&world, Verb::Status, &delegating())).0, 5);
}

#[test]
fn versions_are_answered_whatever_is_asked() {
    let world = Doubles::ready();
    for (stdin, said) in
        [("{\"cniVersion\":\"0.4.0\"}", "0.4.0"), ("{\"CNIVersion\":\"9.9\"}", "9.9"), ("", "1.1.0")]
    {
        let outcome = answer(Ok(call(Verb::Version, "dummy")), stdin.as_bytes(), |_| world.clone());
        let supported = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        let document = json!({"cniVersion": said, "supportedVersions": supported});
        assert_eq!(outcome, Outcome { document: Some(document), success: true });
    }
    assert!(world.steps().is_empty());
}

#[test]
fn an_error_of_ours_is_told_as_one_too() {
    let outcome = guarded(|| panic!("a bug")).unwrap();
    assert_eq!(refused(&outcome).0, 999);
    assert_eq!(guarded(|| None), None);
}

#[test]
fn errors_are_told_in_the_version_of_the_configuration() {
    let world = Doubles::ready();
    let says = |config: &[u8]| {
        let document = answer(Ok(call(Verb::Gc, "")), config, |_| world.clone()).document.unwrap();
        (document["code"].as_u64().unwrap(), document["cniVersion"].as_str().unwrap().to_owned())
    };
    assert_eq!(says(b"{"), (6, "1.1.0".into()));
    assert_eq!(says(b"[]"), (6, "1.1.0".into()));
    assert_eq!(says(br#"{"cniVersion":"1.0.0","name":"a"}"#), (1, "1.0.0".into()));
    assert_eq!(says(br#"{"CniVersion":"0.3.1","name":"-"}"#), (7, "0.3.1".into()));
    assert_eq!(says(br#"{"cniVersion":"3.0.0","name":"a"}"#), (1, "1.1.0".into()));
    assert_eq!(says(br#"{"cniVersion":"1.1.0"}"#), (7, "1.1.0".into()));
    let wrong = answer(Err(CallError::Verb("X".into())), br#"{"cniVersion":"0.3.0"}"#, |_| world.clone());
    assert_eq!(wrong.document.unwrap()["cniVersion"], "0.3.0");
}
