//! What every verb reads of a configuration.

use serde_json::json;

use super::*;

fn read(verb: Verb, config: &Value) -> Result<Network, ConfigError> {
    Network::read(Document::parse(config.to_string().as_bytes())?, verb)
}

fn code(verb: Verb, config: &Value) -> u32 {
    Error::from(read(verb, config).unwrap_err()).code
}

#[test]
fn a_configuration_is_read_in_any_letter_case() {
    let config =
        json!({"CNIVersion": "0.4.0", "Name": "pods", "rundir": "/run/x", "IPAM": {"Type": "host-local"}});
    let network = read(Verb::Check, &config).unwrap();
    assert_eq!((network.version, network.name.as_str()), (Version::V0_4_0, "pods"));
    assert_eq!((network.run_dir, network.ipam), ("/run/x".into(), Some("host-local".into())));
}

#[test]
fn what_is_not_said_has_a_default_and_unknown_keys_are_passed_over() {
    let config =
        json!({"cniVersion": "1.1.0", "name": "pods", "ipam": {"subnet": "x"}, "runDir": null, "foo": {}});
    let network = read(Verb::Add, &config).unwrap();
    assert_eq!((network.run_dir, network.ipam), (DEFAULT_RUN_DIR.into(), None));
}

#[test]
fn a_version_must_be_exactly_one_of_ours() {
    for version in [json!("0.2.0"), json!("1.0"), json!("v1.0.0"), json!("1.2.0"), json!(null)] {
        assert_eq!(code(Verb::Add, &json!({"cniVersion": version, "name": "a"})), 1, "{version}");
    }
    let error = Error::from(read(Verb::Add, &json!({"name": "a"})).unwrap_err());
    assert!(error.details.contains("0.1.0") && error.details.contains("0.3.0"), "{}", error.details);
    for version in Version::texts() {
        assert!(read(Verb::Add, &json!({"cniVersion": version, "name": "a"})).is_ok());
    }
}

#[test]
fn later_verbs_need_later_versions() {
    let verdicts = |verb| {
        let read = |version| read(verb, &json!({"cniVersion": version, "name": "a"})).is_ok();
        Version::texts().map(read)
    };
    assert_eq!(verdicts(Verb::Add), [true; 5]);
    assert_eq!(verdicts(Verb::Del), [true; 5]);
    assert_eq!(verdicts(Verb::Check), [false, false, true, true, true]);
    assert_eq!(verdicts(Verb::Gc), [false, false, false, false, true]);
    assert_eq!(verdicts(Verb::Status), [false, false, false, false, true]);
}

#[test]
fn names_paths_and_plugins_must_be_what_they_are_to_be() {
    for name in [json!(""), json!("-a"), json!("a/b"), json!(5), json!(null)] {
        assert_eq!(code(Verb::Del, &with("name", &name)), 7);
    }
    for (key, value) in spoilt() {
        for verb in [Verb::Add, Verb::Check, Verb::Status] {
            assert_eq!(code(verb, &with(key, &value)), 7, "{verb} {key}: {value}");
        }
    }
}

#[test]
fn what_only_removes_goes_on_with_what_is_usual_and_says_so() {
    for (key, value) in spoilt() {
        for verb in [Verb::Del, Verb::Gc] {
            let network = read(verb, &with(key, &value)).unwrap();
            assert_eq!((network.run_dir, network.ipam), (DEFAULT_RUN_DIR.into(), None), "{key}: {value}");
            assert!(network.overlooked.concat().contains(key), "{:?}", network.overlooked);
        }
    }
}

fn with(key: &str, value: &Value) -> Value {
    let mut config = json!({"cniVersion": "1.1.0", "name": "a"});
    config[key] = value.clone();
    config
}

/// Keys that every verb reads, with values that they must not have.
fn spoilt() -> [(&'static str, Value); 6] {
    [
        ("runDir", json!("run")),
        ("runDir", json!(5)),
        ("ipam", json!({"type": "../evil"})),
        ("ipam", json!({"type": []})),
        ("ipam", json!("host-local")),
        ("ipam", json!({"type": "sheave-cni"})),
    ]
}

#[test]
fn a_plugin_does_not_delegate_to_itself() {
    for (own, ipam) in [("sheave-cni", "sheave-cni"), ("renamed", "renamed"), ("renamed", "sheave-cni")] {
        let config = json!({"cniVersion": "1.1.0", "name": "a", "type": own, "ipam": {"type": ipam}});
        assert_eq!(code(Verb::Add, &config), 7, "{own} {ipam}");
    }
}

#[test]
fn the_list_of_attachments_is_absent_empty_or_full() {
    let list = |config: Value| {
        let mut config = config;
        config["cniVersion"] = json!("1.1.0");
        config["name"] = json!("a");
        read(Verb::Gc, &config).unwrap().valid_attachments().unwrap()
    };
    let one = json!([{"containerID": "c1", "ifname": "eth0"}]);
    let id = AttachmentId { container_id: "c1".into(), ifname: "eth0".into() };
    assert_eq!(list(json!({})), None);
    assert_eq!(list(json!({"cni.dev/valid-attachments": null})), Some(vec![]));
    assert_eq!(list(json!({"cni.dev/attachments": []})), Some(vec![]));
    assert_eq!(list(json!({"cni.dev/attachments": one})), Some(vec![id.clone()]));
    assert_eq!(list(json!({"cni.dev/valid-attachments": one, "cni.dev/attachments": null})), Some(vec![id]));
}

#[test]
fn an_error_names_the_place_and_the_value() {
    let error = code_text(&json!({"cniVersion": "1.1.0", "name": "a", "ipam": {"type": 5}}));
    assert_eq!(error, "network configuration, ipam.type: 5 is not a text");
}

fn code_text(config: &Value) -> String {
    read(Verb::Add, config).unwrap_err().to_string()
}
