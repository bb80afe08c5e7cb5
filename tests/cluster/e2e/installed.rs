//! What Sheave's installation did on each node without being told: beside Kubernetes' own tests, which need it but do
//! not see it.
//!
//! Must not know: how Sheave was installed.

use anyhow::{Context as _, Result, ensure};

use crate::control::kubectl;
use crate::layout::{CONTROL, Folders, node_name};
use crate::node::KUBECONFIG;
use crate::place::Place;
use crate::spec::{Install, Proxy, Spec};

/// Looks at every node.
///
/// # Errors
/// An agent was told, or does not say, where the API server is; or a node has no bpf file system.
pub(super) fn check(folders: &Folders, spec: &Spec) -> Result<()> {
    if (spec.proxy, spec.install) != (Proxy::Sheave, Install::Daemonset) {
        return Ok(());
    }
    let control = Place::find(folders, CONTROL)?;
    for node in (1..=spec.nodes).map(node_name) {
        let origin = origin(&agent_log(&control, folders, &node)?).with_context(|| node.clone())?;
        let expected = format!("/proc/1/root{KUBECONFIG}");
        ensure!(origin == expected, "{node}: the API server was found by {origin}, not {expected}");
        has_bpffs(&Place::find(folders, &node)?)?;
    }
    println!("every agent found the API server by its node's kubeconfig, and has its node's bpf file system");
    Ok(())
}

fn agent_log(control: &Place, folders: &Folders, node: &str) -> Result<String> {
    let field = format!("spec.nodeName={node}");
    let label = "app.kubernetes.io/name=sheave";
    let namespace = ["-n", "kube-system"];
    let find = ["get", "pods", "-o", "name", "-l", label, "--field-selector", &field];
    let pod = kubectl(control, folders, &[&namespace[..], &find].concat())?;
    kubectl(control, folders, &[&namespace[..], &["logs", pod.trim(), "-c", "agent"]].concat())
}

/// What named the address that is preferred: the first that the agent's log has.
fn origin(log: &str) -> Result<String> {
    let line = log.lines().find(|line| line.contains("an API server answers"));
    let word = line.and_then(|line| line.split("origin=\"").nth(1)).and_then(|rest| rest.split('"').next());
    word.map(str::to_owned).context("the agent's log does not say how it found the API server")
}

/// The machine began without one: the installation has mounted it, where it outlives every pod.
fn has_bpffs(node: &Place) -> Result<()> {
    let kind = node.run("stat", &["--file-system", "--format=%T", "/sys/fs/bpf"])?;
    ensure!(kind.trim() == "bpf_fs", "{}: /sys/fs/bpf is a {}", node.name, kind.trim());
    let pins = node.run("ls", &["/sys/fs/bpf/sheave"])?;
    ensure!(!pins.trim().is_empty(), "{}: nothing is pinned in /sys/fs/bpf/sheave", node.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_that_answered_counts() {
        let log = "INFO setting name=\"x\" origin=default\n\
                   INFO an API server answers server=https://172.30.0.1:6443/ origin=\"/a\"\n\
                   INFO an API server answers server=https://10.96.0.1/ origin=\"the pod's environment\"\n";
        assert_eq!(origin(log).unwrap(), "/a");
        assert!(origin("INFO setting name=\"x\" origin=\"/a\"\n").is_err());
    }
}
