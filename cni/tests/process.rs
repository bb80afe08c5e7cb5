//! The plugin as a process: what is on standard output, what the exit status is.
//!
//! Nothing here needs root, an agent or a namespace: the calls end before any of them is used.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at the first surprise, also in what its tests share"
)]

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Variables of a call.
type Variables<'a> = &'a [(&'a str, &'a str)];

/// Runs the plugin with these variables and no others.
fn run(variables: Variables<'_>, stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sheave-cni"));
    command.env_clear().envs(variables.iter().copied());
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    // It may end without reading.
    drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
    child.wait_with_output().unwrap()
}

/// The one document of an error.
fn error(output: &Output) -> Value {
    assert!(!output.status.success());
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in ["cniVersion", "code", "msg", "details"] {
        assert!(document.get(key).is_some(), "{document}");
    }
    document
}

fn config(folder: &TempDir) -> String {
    json!({"cniVersion": "1.1.0", "name": "pods", "type": "sheave-cni", "runDir": folder.path()}).to_string()
}

#[test]
fn a_person_gets_a_word_about_it_and_no_error() {
    let output = run(&[], "");
    assert!(output.status.success());
    assert!(output.stdout.is_empty());
    let about = String::from_utf8(output.stderr).unwrap();
    assert!(about.contains("sheave-cni") && about.contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{about}");
}

#[test]
fn versions_are_told_to_whoever_asks_as_libcni_does() {
    let dummies = ["CNI_NETNS", "CNI_IFNAME", "CNI_PATH"].map(|name| (name, "dummy"));
    let variables: Vec<_> = dummies.into_iter().chain([("CNI_COMMAND", "VERSION")]).collect();
    let output = run(&variables, "{\"cniVersion\":\"1.0.0\"}");
    assert!(output.status.success());
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["cniVersion"], "1.0.0");
    assert_eq!(answer["supportedVersions"].as_array().unwrap().len(), 5);
}

#[test]
fn every_error_is_one_document_on_standard_output() {
    let folder = TempDir::new().unwrap();
    let config = config(&folder);
    let attach = |netns| {
        [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", netns)]
    };
    let cases: [(Variables<'_>, &str, u64); 6] = [
        (&[("CNI_COMMAND", "NONE")], &config, 4),
        (&[("CNI_COMMAND", "ADD")], &config, 4),
        (&attach("/run/netns/a"), "", 6),
        (&attach("/run/netns/a"), "{\"cniVersion\":\"1.1.0\"}", 7),
        (&attach("/run/netns/a"), "{\"cniVersion\":\"0.1.0\",\"name\":\"a\"}", 1),
        (&[("CNI_COMMAND", "STATUS")], &config, 50),
    ];
    for (variables, stdin, code) in cases {
        let output = run(variables, stdin);
        assert_eq!(error(&output)["code"], code, "{variables:?} {stdin}");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn status_leaves_no_trace() {
    let folder = TempDir::new().unwrap();
    error(&run(&[("CNI_COMMAND", "STATUS")], &config(&folder)));
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_gc_without_a_list_does_nothing_and_says_nothing() {
    let folder = TempDir::new().unwrap();
    let empty = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "CNI_ARGS"].map(|name| (name, ""));
    let variables: Vec<_> = empty.into_iter().chain([("CNI_COMMAND", "GC")]).collect();
    let output = run(&variables, &config(&folder));
    assert!(output.status.success());
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}
