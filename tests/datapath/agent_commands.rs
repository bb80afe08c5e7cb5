//! The command line of the built program: settings that do not exist, and views of a running and of a dead agent.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use proxy_userspace::config::SETTINGS;
use serde_json::Value;
use sheave_tests::agent::binary;
use sheave_tests::client::ask_tcp;

use crate::node::{LIMIT, Node, START_LIMIT, complaint, nobody};
use crate::world::{errno, vip};

/// An agent that must not start; with folders that do not exist, in case it does.
fn refused(prepare: impl FnOnce(&mut Command) -> &mut Command) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary().unwrap());
    command.arg("agent").arg("--manifests").arg(folder.path().join("none"));
    command.arg("--run-dir").arg(folder.path().join("run"));
    command.arg("--pin-dir").arg(folder.path().join("pins"));
    prepare(&mut command);
    let output = command.output().unwrap();
    assert!(!folder.path().join("run").exists(), "it began: {}", complaint(&output));
    (output.status.code(), complaint(&output))
}

#[test]
fn a_setting_that_does_not_exist_is_an_error_that_names_the_nearest_one() {
    let folder = tempfile::tempdir().unwrap();
    let in_file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        refused(|command| command.arg("--config").arg(&path))
    };
    for (name, text) in [("a.yaml", "audit-intervall: 5\n"), ("a.toml", "audit-intervall = 5\n")] {
        let (code, text) = in_file(name, text);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("unknown setting `audit-intervall`"), "{text}");
        assert!(text.contains(name) && text.contains("did you mean `audit-interval`?"), "{text}");
    }
    let (code, text) = refused(|command| command.env("SHEAVE_LOG_LEVLE", "debug"));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("`SHEAVE_LOG_LEVLE` in the environment"), "{text}");
    assert!(text.contains("did you mean `SHEAVE_LOG_LEVEL`?"), "{text}");
    let (code, text) = refused(|command| command.args(["--ringmax", "500"]));
    assert_eq!(code, Some(2), "wrong usage: {text}");
    assert!(text.contains("--ring-max"), "{text}");
    let (code, text) = refused(|command| command.args(["--backends-max", "0"]));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("setting `backends-max` (flag) is `0`: expected a number from 16 to"), "{text}");
}

#[test]
fn every_setting_is_told_at_the_start_with_its_origin() {
    let node = Node::new();
    let folder = node.manifests.path().to_str().unwrap().to_owned();
    let mut agent = node.start_with(&["--manifests", &folder, "--log-format", "json"]);
    agent.wait_until_ready(START_LIMIT).unwrap();
    let log = agent.log();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let settings: Vec<Value> = lines.filter(|line| line["message"] == "setting").collect();
    let names: Vec<&str> = settings.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, SETTINGS.iter().map(|setting| setting.name).collect::<Vec<_>>());
    let of = |name: &str| settings.iter().find(|line| line["name"] == name).unwrap();
    assert_eq!((&of("manifests")["value"], &of("manifests")["origin"]), (&folder.into(), &"flag".into()));
    assert_eq!(of("audit-interval")["origin"], "default");
}

#[test]
fn version_and_completion_need_no_agent() {
    let run = |words: &[&str]| Command::new(binary().unwrap()).args(words).output().unwrap();
    let version: Value = serde_json::from_slice(&run(&["version", "-o", "json"]).stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["mapSchema"].as_str().unwrap().len(), 8);
    let script = run(&["completion", "bash"]);
    assert!(script.status.success() && String::from_utf8(script.stdout).unwrap().contains("--ring-max"));
}

/// The record of `web` for this family.
fn web<'a>(services: &'a Value, frontend: &str) -> &'a Value {
    let services = services.as_array().unwrap();
    services.iter().find(|service| service["frontend"] == frontend).unwrap()
}

fn backends(node: &Node) -> Value {
    ["a", "b", "c"].map(|name| format!("{}:8080", node.world.pods[name].v4)).as_slice().into()
}

#[test]
fn the_views_work_against_a_running_agent() {
    let node = Node::new();
    let _agent = node.ready();
    let services = node.json(&["service", "list"]);
    assert_eq!(services.as_array().unwrap().len(), 2);
    let v4 = web(&services, "10.96.0.10:80");
    let expected = ["demo/web", "ClusterIP", "TCP", "internal", "reject"];
    let keys = ["service", "kind", "protocol", "scope", "whenEmpty"];
    assert_eq!(keys.map(|key| v4[key].as_str().unwrap()), expected);
    assert_eq!(v4["backends"], backends(&node));
    assert_eq!(web(&services, "[fd00:10:96::10]:80")["service"], "demo/web");
    assert_eq!(node.json(&["service", "get", "demo/web"]), services);
    let absent = node.sheave(&["service", "get", "demo/absent"]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(complaint(&absent).contains("no Service demo/absent"), "{absent:?}");

    let backends = node.json(&["backend", "list"]);
    assert_eq!(backends.as_array().unwrap().len(), 6, "{backends}");
    assert!(backends.as_array().unwrap().iter().all(|backend| backend["services"][0] == "demo/web"));

    let maps = node.json(&["map", "list"]);
    let map = |name: &str| maps.as_array().unwrap().iter().find(|map| map["name"] == name).unwrap();
    assert_eq!(map("backends4")["used"], 3);
    assert!(map("ring")["capacity"].as_u64().unwrap() > 1000 && map("ring")["bytes"].as_u64().unwrap() > 0);

    let status = node.json(&["status"]);
    assert_eq!((&status["agentRunning"], &status["ready"]), (&true.into(), &true.into()), "{status}");
    assert_eq!(status["node"], "node-a");
    let text = String::from_utf8(node.sheave(&["status"]).stdout).unwrap();
    assert!(text.contains("running, ready") && text.contains("probe translated"), "{text}");
}

#[test]
fn the_views_work_against_the_pins_of_an_agent_that_was_killed() {
    let node = Node::new();
    let agent = node.ready();
    let (living, maps) = (node.json(&["service", "list"]), node.json(&["map", "list"]));
    agent.kill();
    let services = node.json(&["service", "list"]);
    for frontend in ["10.96.0.10:80", "[fd00:10:96::10]:80"] {
        let (dead, alive) = (web(&services, frontend), web(&living, frontend));
        assert_eq!(dead["service"], Value::Null, "nobody knows the name");
        for key in ["id", "backends", "protocol", "scope", "whenEmpty"] {
            assert_eq!(dead[key], alive[key]);
        }
    }
    let id = format!("#{}", web(&services, "10.96.0.10:80")["id"]);
    assert_eq!(web(&node.json(&["service", "get", &id]), "10.96.0.10:80")["backends"], backends(&node));
    assert_eq!(node.json(&["backend", "list"]).as_array().unwrap().len(), 6);
    let names =
        |maps: &Value| maps.as_array().unwrap().iter().map(|map| map["name"].to_string()).collect::<Vec<_>>();
    assert_eq!(names(&node.json(&["map", "list"])), names(&maps));

    let output = node.sheave(&["status", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&status["agentRunning"], &status["ready"]), (&false.into(), &false.into()));
    assert!(status["obstacles"][0].as_str().unwrap().contains("no agent answers on"), "{status}");
    assert!(status["subsystems"].to_string().contains("8 of 8 attached"), "{status}");

    assert!(node.sheave(&["cleanup"]).status.success());
    let nothing = node.sheave(&["service", "list"]);
    assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
}

/// A child that ends with the test.
struct Monitor(Child);

impl Drop for Monitor {
    fn drop(&mut self) {
        // An error here means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines of `from`, read by a thread, so that waiting for one can have a limit.
fn lines(from: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        BufReader::new(from).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    lines
}

#[test]
fn the_monitor_prints_a_line_for_a_connect() {
    let node = Node::new();
    let agent = node.ready();
    let mut command = node.command(&["monitor", "-o", "json"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut monitor = Monitor(command.spawn().unwrap());
    let (out, said) = (lines(monitor.0.stdout.take().unwrap()), lines(monitor.0.stderr.take().unwrap()));
    assert!(said.recv_timeout(LIMIT).unwrap().contains("watching"));
    let second = node.sheave(&["monitor"]);
    assert!(complaint(&second).contains("another `sheave monitor` is at work"), "{second:?}");

    let name = node.world.in_pod(|| ask_tcp(vip())).unwrap().0;
    let event: Value = serde_json::from_str(&out.recv_timeout(LIMIT).unwrap()).unwrap();
    let expected = [
        ("hook", "connect".to_owned()),
        ("verdict", "translated".to_owned()),
        ("protocol", "TCP".to_owned()),
        ("frontend", vip().to_string()),
        ("backend", format!("{}:8080", node.world.pods[&name].v4)),
        ("service", "demo/web".to_owned()),
    ];
    for (key, value) in expected {
        assert_eq!(event[key], Value::from(value), "{event}");
    }
    assert_eq!(event["pid"], std::process::id());

    drop(monitor);
    Node::until("the programs are silent again", || agent.log().contains("the programs are silent again"));
    assert_ne!(errno(node.world.on_node(|| ask_tcp(nobody()))), 0);
    let third = node.sheave(&["status"]);
    assert!(third.status.success(), "{third:?}");
}
