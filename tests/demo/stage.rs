//! The node, its pods and the agent on it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use sheave_tests::bpffs::BpfFs;
use sheave_tests::cgroup::Cgroup;
use sheave_tests::lab::{Lab, Pod};
use sheave_tests::netns::Netns;
use sheave_tests::process::Process;
use sheave_tests::server::Server;
use sheave_tests::wait::wait_for;

use crate::http;
use crate::manifests::{Addresses, TARGET};

/// The parts, in the order in which they are taken down.
pub(crate) struct Stage {
    pods: BTreeMap<String, Pod>,
    udp: Vec<Server>,
    client: Pod,
    lab: Lab,
    bpffs: BpfFs,
    cgroup: Cgroup,
    run: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Result<Self> {
        let cgroup = Cgroup::new()?;
        let bpffs = BpfFs::new()?;
        let mut lab = Lab::new()?;
        let client = lab.pod("client")?;
        let run = tempfile::Builder::new().prefix("sheave-demo-run-").tempdir()?;
        let mut stage = Self { pods: BTreeMap::new(), udp: Vec::new(), client, lab, bpffs, cgroup, run };
        for name in ["a", "b", "c"] {
            stage.add_pod(name)?;
        }
        stage.cgroup.join()?;
        Ok(stage)
    }

    pub(crate) fn add_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.lab.pod(name)?;
        for address in [IpAddr::V4(pod.v4), IpAddr::V6(pod.v6)] {
            http::serve(&pod.netns, name, SocketAddr::new(address, TARGET))?;
        }
        self.udp.push(Server::start_udp(&pod.netns, name, pod.v4.into(), TARGET)?);
        self.pods.insert(name.to_owned(), pod);
        Ok(())
    }

    pub(crate) fn pods(&self, names: &[&str]) -> Vec<Addresses> {
        names
            .iter()
            .filter_map(|name| self.pods.get(*name))
            .map(|pod| (pod.name.clone(), pod.v4, pod.v6))
            .collect()
    }

    pub(crate) fn client(&self) -> &Netns {
        &self.client.netns
    }

    pub(crate) fn in_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.client.netns.run(work)
    }

    /// Starts the agent inside the node and waits until it says that it is ready.
    pub(crate) fn start_agent(&self, sheave: &Path, manifests: &Path) -> Result<Process> {
        let mut command = self.command(sheave);
        command.arg("agent").arg("--manifests").arg(manifests).args(["--node-name", "node-a"]);
        command.arg("--cgroup").arg(self.cgroup.path());
        command.args(["--health-address", "127.0.0.1:10256", "--metrics-address", "127.0.0.1:10249"]);
        self.lab.node.place(&mut command)?;
        let mut agent = Process::start("sheave agent", &mut command, self.run.path().join("agent.log"))?;
        wait_for("the agent is ready", Duration::from_secs(20), || {
            agent.check_running()?;
            Ok(self.command(sheave).arg("status").output()?.status.success().then_some(()))
        })?;
        Ok(agent)
    }

    /// Runs another `sheave` command on the node; what it printed.
    pub(crate) fn sheave(&self, sheave: &Path, words: &[&str]) -> Result<String> {
        let mut command = self.command(sheave);
        command.args(words);
        self.lab.node.place(&mut command)?;
        let output = command.output()?;
        if !output.status.success() {
            bail!("sheave {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    fn command(&self, sheave: &Path) -> Command {
        let mut command = Command::new(sheave);
        command.env("SHEAVE_PIN_DIR", self.bpffs.pins()).env("SHEAVE_RUN_DIR", self.run.path());
        command
    }

    pub(crate) fn explain_exploring(&self, sheave: &Path, manifests: &Path) {
        let (sheave, run, pins) = (sheave.display(), self.run.path().display(), self.bpffs.pins());
        println!("\nIn another terminal, as root:");
        println!("  export SHEAVE_RUN_DIR={run} SHEAVE_PIN_DIR={}", pins.display());
        for words in ["status", "service list", "map list", "monitor"] {
            println!("  {sheave} {words}");
        }
        println!("  # a shell in the client pod, served by the programs:");
        println!(
            "  sh -c 'echo $$ > {}/cgroup.procs; exec nsenter --net={} bash'",
            self.cgroup.path().display(),
            self.client.netns.path()
        );
        println!("  # then: curl http://10.96.0.10");
        println!("The agent follows every edit of the manifests in {}", manifests.display());
    }
}
