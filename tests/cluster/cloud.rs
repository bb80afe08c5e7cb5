//! What stands for a cloud: addresses for Services of type `LoadBalancer`, and the ways from the world outside, which is
//! the control plane's machine, to the nodes.
//!
//! Must not know: who serves Services on the nodes. What is decided there is in `tests/controlplane/cluster/cloud.go`.

use anyhow::Result;

use crate::control::{ADMIN, Control};
use crate::layout::{LOAD_BALANCER_RANGES, OUTSIDE};

/// Starts it: addresses are given and routed from now on.
///
/// # Errors
/// `ip` fails, or the program cannot be started.
pub(crate) fn start(control: &Control<'_>) -> Result<()> {
    for (range, outside) in LOAD_BALANCER_RANGES.into_iter().zip(OUTSIDE) {
        // What no node serves must not be looked for anywhere else.
        control.place.ip(&format!("route add unreachable {range}"))?;
        control.place.ip(&format!("address add {outside} dev lo"))?;
    }
    // By ports, as a load balancer spreads connections, and not by addresses alone.
    for family in ["ipv4", "ipv6"] {
        control.place.sysctl(&format!("{family}/fib_multipath_hash_policy"), "1")?;
    }
    let mut command = control.place.command(control.folders.program("cloud"));
    command.arg("--kubeconfig").arg(control.folders.kubeconfig(ADMIN));
    command.arg("--ranges").arg(LOAD_BALANCER_RANGES.join(","));
    command.arg("--clients").arg(OUTSIDE.join(","));
    control.place.spawn(control.cgroups, "cloud", command)
}
