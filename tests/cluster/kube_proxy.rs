//! The real kube-proxy with the reference CNI plugins and static routes: the baseline.
//!
//! Must not know: how machines, kubelet or the control plane are started.

use anyhow::Result;
use serde_json::json;

use crate::cgroups::Cgroups;
use crate::control::{ADMIN, Control};
use crate::layout::{Folders, POD_RANGES, machine};
use crate::node::{Node, plugin_folder};

/// Starts kube-proxy in `mode` on a node, gives it plugins and routes to the other nodes' pods.
///
/// # Errors
/// The plugins are not installed, or a program fails.
pub(crate) fn start(control: &Control<'_>, node: &Node, nodes: &[Node], mode: &str) -> Result<()> {
    install_plugins(control, node)?;
    for other in nodes.iter().filter(|other| other.number != node.number) {
        let [v4, v6] = machine(other.number);
        for range in control.pod_ranges(&other.place.name)? {
            let gateway = if range.contains(':') { v6 } else { v4 };
            node.place.ip(&format!("route add {range} via {gateway}"))?;
        }
    }
    start_proxy(node, control.folders, control.cgroups, mode)
}

fn install_plugins(control: &Control<'_>, node: &Node) -> Result<()> {
    let plugins = plugin_folder()?.display().to_string();
    node.place.run("mount", &["--bind", &plugins, "/opt/cni/bin"])?;
    let ranges = control.pod_ranges(&node.place.name)?;
    let ranges: Vec<_> = ranges.into_iter().map(|range| json!([{ "subnet": range }])).collect();
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "reference",
        "plugins": [
            { "type": "ptp", "ipMasq": false, "ipam": {
                "type": "host-local", "ranges": ranges, "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    // Under another name first: containerd reads whatever has the right ending, also half of it.
    let script =
        "printf %s \"$1\" > /etc/cni/net.d/new && mv /etc/cni/net.d/new /etc/cni/net.d/10-reference.conflist";
    node.place.run("sh", &["-c", script, "sh", &config.to_string()]).map(drop)
}

/// Defaults, but for what would reach beyond the namespace: the sizes and time-outs of connection tracking stay.
fn start_proxy(node: &Node, folders: &Folders, cgroups: &Cgroups, mode: &str) -> Result<()> {
    let mut command = node.place.command(folders.program("kube-proxy"));
    command.arg("--kubeconfig").arg(folders.kubeconfig(ADMIN)).args([
        &format!("--proxy-mode={mode}"),
        &format!("--hostname-override={}", node.place.name),
        &format!("--cluster-cidr={}", POD_RANGES.join(",")),
        "--conntrack-max-per-core=0",
        "--conntrack-min=0",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
        "--oom-score-adj=0",
    ]);
    node.place.spawn(cgroups, "kube-proxy", command)
}
