//! A running kube-proxy, always inside the network namespace of a test's node.
//!
//! Must not know: which Services there are or how its rules look.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::controlplane::program;
use crate::http::ask;
use crate::netns::Netns;
use crate::process::Process;
use crate::topology::Place;
use crate::topology::addresses::ALL_PODS;
use crate::wait::wait_for;

/// kube-proxy's own default, on the loopback device of the node's namespace.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// When the rules were last written, one line for each family.
const LAST_SYNC: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{";

/// With what it makes its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `iptables-restore`.
    Iptables,
    /// `nft`.
    Nftables,
}

impl Mode {
    /// As `--proxy-mode` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// The process. Dropping it kills it; its rules go with the namespace.
#[derive(Debug)]
pub struct KubeProxy {
    process: Process,
    netns: Netns,
}

impl KubeProxy {
    /// Starts it for the node that `place` is, with defaults but for what would reach beyond the namespace: the sizes and
    /// time-outs of connection tracking are left as they are. Its log is in `dir`.
    ///
    /// # Errors
    /// It has not been built or cannot be started.
    pub fn start(place: &Place, mode: Mode, kubeconfig: &Path, dir: &Path) -> Result<Self> {
        ensure!(place.is_node(), "{} is no node", place.name);
        let mut command = Command::new(program("kube-proxy")?);
        command.arg("--kubeconfig").arg(kubeconfig).args([
            &format!("--proxy-mode={}", mode.name()),
            &format!("--hostname-override={}", place.name),
            &format!("--cluster-cidr={}", ALL_PODS.join(",")),
            &format!("--metrics-bind-address={METRICS}"),
            "--healthz-bind-address=127.0.0.1:10256",
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
            "--oom-score-adj=0",
        ]);
        place.netns.place(&mut command)?;
        let log = dir.join(format!("kube-proxy-{}-{}.log", mode.name(), place.name));
        let process = Process::start("kube-proxy", &mut command, log)?;
        Ok(Self { process, netns: place.netns.try_clone()? })
    }

    /// Waits until it has written the rules of both families for the first time: for everything that was in the API
    /// server when it started.
    ///
    /// # Errors
    /// It ends or does not do so within `limit`; with the end of its log.
    pub fn wait_until_synced(&mut self, limit: Duration) -> Result<()> {
        wait_for("kube-proxy has written its rules", limit, || {
            self.process.check_running()?;
            Ok(self.is_synced().unwrap_or(false).then_some(()))
        })
        .with_context(|| self.process.log_tail())
    }

    fn is_synced(&self) -> Result<bool> {
        let (status, metrics) = self.netns.run(|| ask(METRICS, "/metrics"))?;
        if status != 200 {
            bail!("/metrics: {status}");
        }
        let families = metrics.lines().filter(|line| line.starts_with(LAST_SYNC));
        Ok(families.filter(|line| !line.ends_with(" 0")).count() == 2)
    }
}
