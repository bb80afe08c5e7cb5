//! Addresses of another IPAM plugin.

use serde_json::json;

use super::*;
use crate::record::Ipam;

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
fn a_delegated_plugin_that_is_gone_does_not_keep_a_pod_from_ending() {
    let world = Doubles::ready();
    with_plugin(&world);
    added(&world, &delegating());
    world.change(|state| state.plugins.clear());
    silent(&run(&world, Verb::Del, &delegating()));
    assert!(world.state.borrow().log[0].contains("host-local"));
    assert!(world.state.borrow().records.is_empty());
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
