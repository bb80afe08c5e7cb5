//! IPAM plugins that are really run: small scripts in a folder of their own.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// A machine whose CNI_PATH has one plugin, `fake`, with this body.
fn machine(body: &str) -> (TempDir, Machine) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("fake");
    // Written by another process: while this one has a writable descriptor, a test beside may fork with it.
    let made = Command::new("sh").arg("-c").arg("cat >\"$0\"").arg(&path).stdin(Stdio::piped()).spawn();
    let mut made = made.unwrap();
    made.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{body}\n").as_bytes()).unwrap();
    assert!(made.wait().unwrap().success());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let plugin_path = format!("/nonexistent::{}", folder.path().display());
    let machine = Machine { run_dir: folder.path().into(), plugin_path, store: OnceCell::new() };
    (folder, machine)
}

#[test]
fn a_plugin_gets_the_verb_and_the_whole_input() {
    let (_folder, machine) = machine("printf '{\"verb\":\"%s\",\"input\":' $CNI_COMMAND; cat; printf '}'");
    let input = json!({"name": "a", "long": "x".repeat(200_000)});
    let answer = machine.call("fake", Verb::Add, input.to_string().as_bytes()).unwrap();
    assert_eq!(answer["verb"], "ADD");
    assert_eq!(answer["input"], input);
}

#[test]
fn a_plugin_that_reads_nothing_and_says_nothing_is_fine() {
    let (_folder, machine) = machine("exit 0");
    assert_eq!(machine.call("fake", Verb::Del, &vec![b' '; 200_000]), Ok(Value::Null));
}

#[test]
fn a_refusal_keeps_its_code_and_its_words() {
    let (_folder, machine) = machine("echo '{\"code\": 11, \"msg\": \"full\", \"details\": \"d\"}'; exit 1");
    let error = Error { code: 11, msg: "full".into(), details: "d".into() };
    let expected = IpamError::Refused { plugin: "fake".into(), error };
    assert_eq!(machine.call("fake", Verb::Add, b"{}"), Err(expected));
}

#[test]
fn a_plugin_that_breaks_is_told_from_one_that_is_missing() {
    for (body, words) in
        [("exit 3", "exit status: 3"), ("echo hello", "not JSON"), ("echo '{}'; exit 1", "exit")]
    {
        let (_folder, machine) = machine(body);
        let error = machine.call("fake", Verb::Add, b"{}").unwrap_err();
        assert!(matches!(error, IpamError::Broken { .. }) && error.to_string().contains(words), "{error}");
    }
    let (_folder, machine) = machine("exit 0");
    let error = machine.call("other", Verb::Add, b"{}").unwrap_err();
    assert!(
        matches!(error, IpamError::Missing { .. }) && error.to_string().contains("/nonexistent"),
        "{error}"
    );
}

#[test]
fn pins_that_are_not_there_are_named() {
    let (folder, machine) = machine("");
    let here = folder.path().join("fake");
    let pins = Pins {
        schema: 1,
        endpoints: here.clone(),
        packet_only: here.clone(),
        guard_ingress: here.clone(),
        guard_egress: "/nonexistent/guard_egress".into(),
        path: None,
    };
    assert_eq!(machine.missing_pins(&pins), [PathBuf::from("/nonexistent/guard_egress")]);
}

#[test]
fn no_facts_means_later_and_wrong_facts_too() {
    let (folder, machine) = machine("");
    assert_eq!(machine.facts().unwrap_err().code, 11);
    fs::create_dir(folder.path().join("cni")).unwrap();
    fs::write(NodeFacts::path(folder.path()), "{").unwrap();
    assert_eq!(machine.facts().unwrap_err().code, 11);
}
