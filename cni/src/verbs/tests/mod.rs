//! The verbs over a machine in memory: what each does is in a file of its own, what all share is here.

mod add;
mod any_input;
mod del;
mod delegated;
mod faults;
mod real;
mod upkeep;

use serde_json::{Value, json};

use super::{Outcome, answer, doubles::Doubles, guarded};
use crate::{
    record::{Attachment, AttachmentId, Stage},
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
