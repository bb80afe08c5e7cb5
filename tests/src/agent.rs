//! A running `sheave agent`, and what it says about itself.
//!
//! Must not know: how it does its work.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::bpffs::BpfFs;
use crate::cgroup::Cgroup;
use crate::controlplane::free_ports;
use crate::http::ask;
use crate::netns::Netns;
use crate::process::Process;
use crate::wait::wait_for;

/// The agent's process. Dropping it kills it, which leaves its maps and links in place.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    /// Where it runs; `None` is the namespace of the test.
    netns: Option<Netns>,
    health: SocketAddr,
    metrics: SocketAddr,
}

impl Agent {
    /// Starts the agent with `arguments` besides those that keep it inside `cgroup`, `bpffs` and
    /// `dir`. Its log is `dir/agent.log`.
    ///
    /// # Errors
    /// It has not been built or cannot be started.
    pub fn start(cgroup: &Cgroup, bpffs: &BpfFs, dir: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_program(&binary()?, cgroup, bpffs, dir, arguments)
    }

    /// Like [`Agent::start`], with the agent of another build.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_program(
        program: &Path,
        cgroup: &Cgroup,
        bpffs: &BpfFs,
        dir: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        Self::launch(Command::new(program), None, cgroup, bpffs, dir, arguments)
    }

    /// Like [`Agent::start`], with the agent inside `netns`.
    ///
    /// # Errors
    /// It has not been built or cannot be started.
    pub fn start_inside(
        netns: &Netns,
        cgroup: &Cgroup,
        bpffs: &BpfFs,
        dir: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        Self::start_program_inside(&binary()?, netns, cgroup, bpffs, dir, arguments)
    }

    /// Like [`Agent::start_inside`], with the agent of another build.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_program_inside(
        program: &Path,
        netns: &Netns,
        cgroup: &Cgroup,
        bpffs: &BpfFs,
        dir: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let mut command = Command::new(program);
        netns.place(&mut command)?;
        Self::launch(command, Some(netns.try_clone()?), cgroup, bpffs, dir, arguments)
    }

    fn launch(
        mut command: Command,
        netns: Option<Netns>,
        cgroup: &Cgroup,
        bpffs: &BpfFs,
        dir: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let ports = netns.as_ref().map_or_else(free_ports, |netns| netns.run(free_ports))?;
        let [health, metrics] = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        command.arg("agent").args(arguments);
        command.arg("--cgroup").arg(cgroup.path());
        command.arg("--pin-dir").arg(bpffs.pins());
        command.arg("--run-dir").arg(dir.join("run"));
        command.arg("--health-address").arg(health.to_string());
        command.arg("--metrics-address").arg(metrics.to_string());
        let process = Process::start("sheave agent", &mut command, dir.join("agent.log"))?;
        Ok(Self { process, netns, health, metrics })
    }

    /// Waits until `/readyz` says that it is ready.
    ///
    /// # Errors
    /// The agent ends or does not become ready within `limit`; with the end of its log.
    pub fn wait_until_ready(&mut self, limit: Duration) -> Result<()> {
        wait_for("the agent is ready", limit, || {
            self.process.check_running()?;
            Ok(self.get(self.health, "/readyz").ok())
        })
        .map(drop)
        .with_context(|| self.process.log_tail())
    }

    /// Whether `/livez` says that it works.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.get(self.health, "/livez").is_ok()
    }

    /// Status and body of `/readyz`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn readiness(&self) -> Result<(u16, String)> {
        self.ask(self.health, "/readyz")
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metrics(&self) -> Result<String> {
        self.get(self.metrics, "/metrics")
    }

    /// Its process id.
    ///
    /// # Errors
    /// The process id does not fit its type.
    pub fn pid(&self) -> Result<i32> {
        Ok(self.process.pid()?.as_raw())
    }

    /// The whole log so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// SIGTERM, as at the end of its pod.
    ///
    /// # Errors
    /// It does not end within `limit`.
    pub fn terminate(self, limit: Duration) -> Result<ExitStatus> {
        self.process.terminate(limit)
    }

    /// The body of an answer with status 200.
    fn get(&self, server: SocketAddr, path: &str) -> Result<String> {
        let (status, body) = self.ask(server, path)?;
        ensure!(status == 200, "{path}: {status}: {body}");
        Ok(body)
    }

    fn ask(&self, server: SocketAddr, path: &str) -> Result<(u16, String)> {
        self.netns.as_ref().map_or_else(|| ask(server, path), |netns| netns.run(|| ask(server, path)))
    }

    /// A command of `sheave` that looks at the same agent or at what it left.
    ///
    /// # Errors
    /// It cannot be run or ends with a failure.
    pub fn command(bpffs: &BpfFs, dir: &Path, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("--run-dir").arg(dir.join("run")).arg("--pin-dir").arg(bpffs.pins());
        let output = command.output()?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// SIGKILL, as when memory runs out.
    pub fn kill(self) {
        self.process.kill();
    }
}

/// `sheave` from the build that the test itself is from.
///
/// # Errors
/// It has not been built.
pub fn binary() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile =
        test.parent().and_then(Path::parent).context("the test program is not in a target folder")?;
    let binary = profile.join("sheave");
    ensure!(binary.exists(), "no {}: run `cargo xtask test`, which builds it", binary.display());
    Ok(binary)
}
