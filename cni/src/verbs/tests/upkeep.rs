//! CHECK, GC and STATUS: what is told, and what is left alone.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    super::doubles::{NOW, State, netns},
    *,
};
use crate::record::Attachment;

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
    type Change = fn(&mut State);
    fn only(state: &mut State) -> &mut Attachment {
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
            state.namespaces.insert("/run/netns/a".into(), netns(7));
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
fn a_node_stays_ready_for_half_a_minute_without_its_agent_but_not_without_what_pods_need() {
    let says = |seen: Option<u64>, change: fn(&mut State)| {
        let world = Doubles::ready();
        world.change(|state| {
            (state.agent, state.agent_seen) = (false, seen.map(Duration::from_secs));
            change(state);
        });
        let outcome = run(&world, Verb::Status, &config(json!({})));
        if outcome.success { 0 } else { refused(&outcome).0 }
    };
    let nothing: fn(&mut State) = |_| {};
    assert_eq!([None, Some(31), Some(30), Some(0)].map(|seen| says(seen, nothing)), [50, 50, 0, 0]);
    assert_eq!(says(Some(1), |state| state.missing_pins.push("/pins/endpoints".into())), 51);
    assert_eq!(says(Some(1), |state| state.facts.as_mut().unwrap().obstacle = Some("no".into())), 50);
    assert_eq!(says(Some(1), |state| state.facts = None), 50);
}

#[test]
fn status_tells_not_ready_from_broken() {
    type Change = fn(&mut State);
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
