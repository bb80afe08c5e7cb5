//! DEL: the order, and what it does not fail for.

use serde_json::json;

use super::*;

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
fn what_the_pods_sockets_are_left_alone_for_goes_with_its_last_interface() {
    let world = Doubles::ready();
    let off = json!({"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"sheave.io/socket-lb": "off"}}});
    let on = |verb, ifname: &str| {
        let mut call = call(verb, "/run/netns/a");
        call.id.ifname = ifname.into();
        assert!(answer(Ok(call), config(off.clone()).to_string().as_bytes(), |_| world.clone()).success);
        world.state.borrow().unexempted
    };
    on(Verb::Add, "eth0");
    on(Verb::Add, "net1");
    assert!(!on(Verb::Del, "net1"), "eth0 still asks for it");
    assert!(on(Verb::Del, "eth0"));
}
