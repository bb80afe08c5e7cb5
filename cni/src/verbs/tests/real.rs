//! The verbs with the real store and the real kernel. A lab takes the place of the agent's pins.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use tempfile::TempDir;

use super::{super::doubles::facts, *};
use crate::{
    facts::{CNI_DIR, NodeFacts},
    store::{Store, Wish},
    verbs::Machine,
    wire::{
        self,
        lab::{Lab, Pod, assert_same, on_a_host},
    },
};

/// A node with the pins of a lab.
struct Real<'a> {
    lab: &'a Lab,
    folder: TempDir,
}

impl<'a> Real<'a> {
    fn of(lab: &'a Lab) -> Self {
        let folder = TempDir::new().unwrap();
        NodeFacts { pins: lab.pins.clone(), ..facts() }.write(folder.path()).unwrap();
        Self { lab, folder }
    }

    fn run(&self, verb: Verb, container: &str, netns: PathBuf, more: Value) -> Outcome {
        let mut config = config(more);
        config["runDir"] = json!(self.folder.path());
        let id = AttachmentId { container_id: container.into(), ifname: "eth0".into() };
        let call = Call { verb, id, netns, args: String::new(), any_netns: false };
        answer(Ok(call), config.to_string().as_bytes(), Machine::new)
    }

    fn store(&self) -> Store {
        Store::open(self.folder.path()).unwrap()
    }

    /// An agent, as far as the plugin can see, while the value lives.
    fn agent(&self) -> Flock<File> {
        let file = File::create(self.folder.path().join("agent.lock")).unwrap();
        Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap()
    }
}

fn on_a_node(test: impl FnOnce(&Real<'_>) + Send) {
    on_a_host(|lab| test(&Real::of(lab)));
}

#[test]
#[ignore = "needs root: makes network namespaces, maps and a bpf file system"]
fn a_pod_is_added_checked_and_deleted_and_leaves_nothing_on_the_host() {
    on_a_node(|node| {
        let (pod, before) = (Pod::new(), node.lab.traces());
        let result = node.run(Verb::Add, "c1", pod.path(), json!({}));
        assert!(result.success, "{result:?}");
        let result = json!({"prevResult": result.document});
        silent(&node.run(Verb::Check, "c1", pod.path(), result.clone()));
        for netns in [pod.path(), "".into(), "/nonexistent".into(), pod.path()] {
            silent(&node.run(Verb::Del, "c1", netns, result.clone()));
        }
        assert_eq!(node.store().list().unwrap(), []);
        assert_same(&node.lab.traces(), &before, "the host");
        let (code, message) = refused(&node.run(Verb::Check, "c1", pod.path(), result));
        assert_eq!(code, 103, "{message}");
    });
}

#[test]
#[ignore = "needs root: makes network namespaces, maps and a bpf file system"]
fn an_interface_that_is_there_is_refused_and_goes_on_working() {
    on_a_node(|node| {
        let pod = Pod::new();
        let first = node.run(Verb::Add, "c1", pod.path(), json!({}));
        let with = node.lab.traces();
        for container in ["c1", "c2"] {
            assert_eq!(refused(&node.run(Verb::Add, container, pod.path(), json!({}))).0, 102, "{container}");
        }
        assert_eq!(node.store().list().unwrap().len(), 1);
        assert_same(&node.lab.traces(), &with, "the host");
        let result = json!({"prevResult": first.document});
        silent(&node.run(Verb::Check, "c1", pod.path(), result));
        silent(&node.run(Verb::Del, "c1", "".into(), json!({})));
    });
}

#[test]
#[ignore = "needs root: makes network namespaces, maps and a bpf file system"]
fn what_is_no_namespace_is_refused_and_its_del_succeeds() {
    on_a_node(|node| {
        let before = node.lab.traces();
        let file = node.folder.path().join("plain");
        fs::write(&file, "").unwrap();
        for netns in
            [file, node.folder.path().into(), "/nonexistent".into(), "/proc/thread-self/ns/net".into()]
        {
            let (code, message) = refused(&node.run(Verb::Add, "c1", netns.clone(), json!({})));
            assert_eq!(code, 8, "{}: {message}", netns.display());
            silent(&node.run(Verb::Del, "c1", netns, json!({})));
        }
        assert_same(&node.lab.traces(), &before, "the host");
    });
}

#[test]
#[ignore = "needs root: makes network namespaces, maps and a bpf file system"]
fn a_living_pod_keeps_its_address_when_the_store_is_lost() {
    on_a_node(|node| {
        let (first, second, third, before) = (Pod::new(), Pod::new(), Pod::new(), node.lab.traces());
        let add = |pod: &Pod, name| node.run(Verb::Add, name, pod.path(), json!({}));
        let address = |outcome: &Outcome| {
            assert!(outcome.success, "{outcome:?}");
            let ips = &outcome.document.as_ref().unwrap()["ips"];
            [0, 1].map(|at: usize| ips[at]["address"].as_str().unwrap().to_owned())
        };
        let known = ["c1", "c2"].map(|name| address(&add(if name == "c1" { &first } else { &second }, name)));
        fs::remove_dir_all(node.store().folder()).unwrap();
        fs::write(node.folder.path().join("cni/addresses"), "").unwrap();
        let new = address(&add(&third, "c3"));
        for known in &known {
            assert!(known.iter().zip(&new).all(|(known, new)| known != new), "{known:?} {new:?}");
        }
        for name in ["c1", "c2", "c3"] {
            silent(&node.run(Verb::Del, name, "".into(), json!({})));
        }
        assert_same(&node.lab.traces(), &before, "the host");
    });
}

#[test]
#[ignore = "needs root: makes network namespaces, maps and a bpf file system"]
fn a_gc_collects_a_pod_whose_namespace_is_gone() {
    on_a_node(|node| {
        let (living, dead, before) = (Pod::new(), Pod::new(), node.lab.traces());
        let add = |pod: &Pod, name| {
            let wish = Wish { ranges: facts().pod_cidrs, ..Wish::default() };
            let old = Attachment { network: "pods".into(), since: 1, ..pod.attachment(name) };
            let attachment = node.store().reserve(old, &wish).unwrap();
            wire::connect(&attachment, &node.lab.pins).unwrap();
            node.store().commit(&attachment.id).unwrap();
        };
        add(&living, "living");
        add(&dead, "dead");
        drop(dead);
        silent(&node.run(Verb::Gc, "", "".into(), json!({})));
        assert_eq!(node.store().list().unwrap().len(), 2, "without a list");
        silent(&node.run(Verb::Gc, "", "".into(), json!({"cni.dev/valid-attachments": []})));
        let left: Vec<_> = node.store().list().unwrap().into_iter().map(|it| it.id.container_id).collect();
        assert_eq!(left, ["living"]);
        silent(&node.run(Verb::Del, "living", "".into(), json!({})));
        assert_same(&node.lab.traces(), &before, "the host");
    });
}

#[test]
#[ignore = "needs root: makes network namespaces, maps and a bpf file system"]
fn status_follows_the_agent_and_its_pins() {
    on_a_node(|node| {
        let status = || node.run(Verb::Status, "", "".into(), json!({}));
        assert_eq!(refused(&status()).0, 50);
        let lock = node.folder.path().join("agent.lock");
        drop(node.agent());
        silent(&status());
        let an_hour_ago = SystemTime::now() - Duration::from_hours(1);
        File::options().write(true).open(lock).unwrap().set_modified(an_hour_ago).unwrap();
        assert_eq!(refused(&status()).0, 50);
        let agent = node.agent();
        silent(&status());
        fs::remove_file(&node.lab.pins.guard_ingress).unwrap();
        assert_eq!(refused(&status()).0, 51);
        let pod = Pod::new();
        let (code, message) = refused(&node.run(Verb::Add, "c1", pod.path(), json!({})));
        assert_eq!(code, 11, "{message}");
        assert_eq!(node.store().list().unwrap(), []);
        drop(agent);
        assert_eq!(refused(&status()).0, 51);
    });
}

/// The network configuration outlives a reboot, so the runtime takes the node for ready and asks at once.
#[test]
#[ignore = "needs root: makes network namespaces, maps and a bpf file system"]
fn after_a_reboot_no_pod_is_added_before_an_agent_has_told_the_facts() {
    on_a_node(|node| {
        let (pod, before) = (Pod::new(), node.lab.traces());
        let status = || node.run(Verb::Status, "", "".into(), json!({}));
        let add = || node.run(Verb::Add, "c1", pod.path(), json!({}));
        let facts = NodeFacts::read(node.folder.path()).unwrap();
        // What is on tmpfs.
        fs::remove_dir_all(node.folder.path().join(CNI_DIR)).unwrap();
        assert_eq!(refused(&status()).0, 50);
        let (code, message) = refused(&add());
        assert_eq!(code, 11, "{message}");
        assert_same(&node.lab.traces(), &before, "the host");
        silent(&node.run(Verb::Del, "of-before", "".into(), json!({})));
        let agent = node.agent();
        assert_eq!(refused(&status()).0, 50, "an agent that has told nothing");
        assert_eq!(refused(&add()).0, 11);
        facts.write(node.folder.path()).unwrap();
        silent(&status());
        assert!(add().success);
        silent(&node.run(Verb::Del, "c1", "".into(), json!({})));
        drop(agent);
    });
}
