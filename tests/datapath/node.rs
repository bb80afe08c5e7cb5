//! A node on which the real agent runs, over a folder of manifests that the test edits.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use sheave_tests::agent::{Agent, binary};
use sheave_tests::client::ask_tcp;
use sheave_tests::wait::wait_for;

use crate::world::{TARGET, World, vip};

/// How long an edit may take to show, on a machine that is busy with other tests.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// How long a start may take.
pub(crate) const START_LIMIT: Duration = Duration::from_mins(1);

/// Pause between two connects: every connection keeps a port of the client for a minute after its end.
const BREATH: Duration = Duration::from_millis(1);

/// The node. The order of the fields is the order in which it is taken down.
pub(crate) struct Node {
    pub(crate) world: World,
    pub(crate) manifests: tempfile::TempDir,
    dir: tempfile::TempDir,
}

impl Node {
    /// The Service `web` (TCP, dual-stack) over the pods `a`, `b`, `c`; no agent yet.
    pub(crate) fn new() -> Self {
        let temporary = || tempfile::tempdir().unwrap();
        let node = Self { world: World::without_plane(), manifests: temporary(), dir: temporary() };
        node.write("web.yaml", &service("web", "10.96.0.10, 'fd00:10:96::10'", "TCP"));
        node.write_slices("web", "TCP", &["a", "b", "c"]);
        node
    }

    /// Starts the agent over the folder.
    pub(crate) fn start(&self) -> Agent {
        let folder = self.manifests.path().to_str().unwrap();
        self.start_with(&["--manifests", folder])
    }

    /// Starts the agent with these arguments.
    pub(crate) fn start_with(&self, arguments: &[&str]) -> Agent {
        let (host, node) = (&self.world.host, &self.world.lab.node);
        let arguments = [&["--node-name", "node-a"], arguments].concat();
        Agent::start_inside(node, &host.cgroup, &host.bpffs, self.dir.path(), &arguments).unwrap()
    }

    /// Starts the agent over the folder and waits until it is ready.
    pub(crate) fn ready(&self) -> Agent {
        self.ready_with(&[])
    }

    /// The same with further arguments.
    pub(crate) fn ready_with(&self, arguments: &[&str]) -> Agent {
        let folder = self.manifests.path().to_str().unwrap();
        let mut agent = self.start_with(&[&["--manifests", folder], arguments].concat());
        agent.wait_until_ready(START_LIMIT).unwrap();
        agent
    }

    /// Writes a manifest beside and renames it, as editors and kubelets do.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.manifests.path().join(name);
        let hidden = self.manifests.path().join(format!(".{name}.new"));
        fs::write(&hidden, text).unwrap();
        fs::rename(hidden, &path).unwrap();
        path
    }

    /// Removes a manifest.
    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.manifests.path().join(name)).unwrap();
    }

    /// Writes the slices of `service`, both families, over these pods.
    pub(crate) fn write_slices(&self, service: &str, protocol: &str, pods: &[&str]) {
        let pods = || pods.iter().map(|name| &self.world.pods[*name]);
        let v4: Vec<String> = pods().map(|pod| pod.v4.to_string()).collect();
        let v6: Vec<String> = pods().map(|pod| pod.v6.to_string()).collect();
        let documents = [slice(service, "IPv4", protocol, &v4), slice(service, "IPv6", protocol, &v6)];
        self.write(&format!("{service}-slices.yaml"), &documents.join("---\n"));
    }

    /// Waits until `what` is so.
    pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
        wait_for(what, LIMIT, || Ok(is_so().then_some(()))).unwrap();
    }

    /// Waits until these pods answer at `web`'s address, and nobody else does.
    pub(crate) fn until_only(&self, pods: &[&str]) {
        let mut expected: Vec<String> = pods.iter().map(ToString::to_string).collect();
        expected.sort();
        Self::until(&format!("only {pods:?} answer"), || self.answering() == Some(expected.clone()));
    }

    /// Who answers at `web`'s address; `None` if nobody does.
    fn answering(&self) -> Option<Vec<String>> {
        let asked: io::Result<Vec<String>> =
            self.world.in_pod(|| (0..40).map(|_| Ok(ask_tcp(vip())?.0)).collect());
        let mut names = asked.ok()?;
        names.sort();
        names.dedup();
        Some(names)
    }

    /// Connects all the time while `work` is done; no connect may fail.
    pub(crate) fn under_connects<T>(&self, work: impl FnOnce() -> T) -> T {
        let (stop, netns) = (AtomicBool::new(false), &self.world.client.netns);
        thread::scope(|scope| {
            let client = scope.spawn(|| netns.run(|| connects(&stop)));
            // Also when the work fails, or the scope would wait for ever.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            stop.store(true, Ordering::Relaxed);
            let (connects, failures) = client.join().unwrap();
            let result = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            println!("{connects} connects, {failures} failures");
            assert!(connects > 100, "{connects} connects");
            assert_eq!(failures, 0, "of {connects} connects");
            result
        })
    }

    /// The agent's run folder.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// A command of `sheave` on this node, not yet run.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary().unwrap());
        command.args(words).arg("--run-dir").arg(self.dir.path().join("run"));
        command.arg("--pin-dir").arg(self.world.host.bpffs.pins());
        self.world.lab.node.place(&mut command).unwrap();
        command
    }

    /// Runs a command of `sheave` on this node.
    pub(crate) fn sheave(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// What a command prints with `-o json`.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let output = self.sheave(&[words, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{words:?}: {error}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn connects(stop: &AtomicBool) -> (u64, u64) {
    let (mut connects, mut failures) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        connects += 1;
        if let Err(error) = ask_tcp(vip()) {
            eprintln!("connect {connects} failed: {error}");
            failures += 1;
        }
        thread::sleep(BREATH);
    }
    (connects, failures)
}

/// A ClusterIP Service on port 80.
pub(crate) fn service(name: &str, addresses: &str, protocol: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: demo\nspec:\n  \
         clusterIPs: [{addresses}]\n  ports:\n  - port: 80\n    targetPort: {TARGET}\n    protocol: {protocol}\n"
    )
}

fn slice(service: &str, family: &str, protocol: &str, addresses: &[String]) -> String {
    let endpoint = |address: &String| format!("{{addresses: ['{address}'], nodeName: node-a}}");
    let endpoints = addresses.iter().map(endpoint).collect::<Vec<_>>().join(", ");
    let name = format!("{service}-{}", family.to_lowercase());
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  namespace: demo\n  \
         labels: {{kubernetes.io/service-name: {service}}}\naddressType: {family}\n\
         ports: [{{name: '', port: {TARGET}, protocol: {protocol}}}]\nendpoints: [{endpoints}]\n"
    )
}

/// The text of a program's standard error.
pub(crate) fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An address with a Service that no manifest has.
pub(crate) fn nobody() -> SocketAddr {
    "10.96.0.99:80".parse().unwrap()
}
