//! Sheave as the cluster's pod network and service proxy: installed as a user does it, or, for quick turns while
//! developing, as programs of the machines.
//!
//! Must not know: how machines, kubelet or the control plane are started.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sheave_tests::wait::wait_for;

use crate::control::{ADMIN, Control};
use crate::layout::{Folders, built};
use crate::node::Node;
use crate::place::output;
use crate::spec::{Install, Spec};

const START_LIMIT: Duration = Duration::from_mins(1);

/// Installs Sheave and waits until every node has it.
///
/// # Errors
/// Something has not been built, or does not get ready within a bounded time.
pub(crate) fn install(control: &Control<'_>, spec: &Spec, nodes: &[Node]) -> Result<()> {
    match spec.install {
        Install::Daemonset => install_chart(control, spec, nodes),
        Install::Process => {
            nodes.iter().try_for_each(|node| start_agent(control, spec, node))?;
            nodes.iter().try_for_each(wait_for_agent)
        }
    }
}

/// The image into every node, and what the chart makes of the values that differ from its own.
fn install_chart(control: &Control<'_>, spec: &Spec, nodes: &[Node]) -> Result<()> {
    let archive = control.folders.sheave_image();
    ensure!(archive.exists(), "no {}: run `cargo xtask cluster up`, which makes it", archive.display());
    std::thread::scope(|scope| -> Result<()> {
        let filling: Vec<_> = nodes.iter().map(|node| scope.spawn(|| node.load_image(&archive))).collect();
        for thread in filling {
            thread.join().map_err(|_| anyhow::anyhow!("a thread that fills a node panicked"))??;
        }
        Ok(())
    })?;
    control.apply("sheave", &render(control, spec)?)?;
    let limit = format!("--timeout={}s", START_LIMIT.as_secs());
    let rollout = ["-n", "kube-system", "rollout", "status", "daemonset/sheave", &limit];
    control.kubectl(&rollout).map(drop).context("Sheave does not get ready on every node")
}

fn render(control: &Control<'_>, spec: &Spec) -> Result<String> {
    let values = control.folders.of_run("values.json");
    fs::write(&values, chart_values(spec).to_string())?;
    let mut helm = std::process::Command::new(control.folders.helm());
    helm.args(["template", "sheave", "--namespace", "kube-system", "--values"]).arg(values);
    output(helm.arg(control.folders.chart()))
}

/// No API server is named: the agents find it.
fn chart_values(spec: &Spec) -> serde_json::Value {
    json!({
        "podNetwork": { "routing": spec.routing },
        "socketLB": { "enabled": spec.socket_lb != "off", "hostNamespaceOnly": spec.socket_lb == "host" },
        // Where every machine has its own part of the host's hierarchy.
        "cgroup": { "hostRoot": "/run/cgroup" },
    })
}

fn start_agent(control: &Control<'_>, spec: &Spec, node: &Node) -> Result<()> {
    let mut command = node.place.command(built("sheave")?);
    command.args(["agent", "--node-name", &node.place.name, "--pod-network", "--cgroup", "/run/cgroup"]);
    command.arg("--kubeconfig").arg(control.folders.kubeconfig(ADMIN));
    command.args(["--routing", &spec.routing, "--socket-lb", &spec.socket_lb]);
    node.place.spawn(control.cgroups, "sheave", command)
}

/// Installs the plugin, which waits until the agent can serve pods, and waits for the agent.
fn wait_for_agent(node: &Node) -> Result<()> {
    let sheave = built("sheave")?;
    node.place
        .run(&sheave, &["install-cni", "--timeout", "60"])
        .with_context(|| node.place.log_of("sheave"))?;
    wait_for("the agent is ready", START_LIMIT, || Ok(node.place.run(&sheave, &["status"]).ok()))
        .with_context(|| node.place.log_of("sheave"))?;
    Ok(())
}

impl Folders {
    fn helm(&self) -> std::path::PathBuf {
        self.repository("target/helm/helm")
    }

    fn chart(&self) -> std::path::PathBuf {
        self.repository("deploy/helm/sheave")
    }

    /// What `cargo xtask image` makes of this version.
    fn sheave_image(&self) -> std::path::PathBuf {
        let processor = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        self.repository(&format!("target/image/sheave-{}-{processor}-dev.tar", env!("CARGO_PKG_VERSION")))
    }
}
