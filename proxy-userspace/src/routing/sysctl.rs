//! The node's switches without which it sends nothing on.
//!
//! Must not know routes.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use proxy_kernel::write_setting;

const ROOT: &str = "/proc/sys/net";
const FORWARD_V4: &str = "ipv4/ip_forward";
const FORWARD_V6: &str = "ipv6/conf/all/forwarding";

/// A switch that cannot be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {} to {value}: {source}; set it on the host", path.display())]
pub(super) struct SysctlError {
    path: PathBuf,
    value: &'static str,
    source: io::Error,
}

/// Lets the node forward packets, both families. Returns what was changed. A kernel without IPv6 has nothing to set.
/// `advertised` are the devices on which a router has advertised routes.
pub(super) fn forward(advertised: &BTreeSet<String>) -> Result<Vec<String>, SysctlError> {
    forward_below(Path::new(ROOT), advertised)
}

fn forward_below(root: &Path, advertised: &BTreeSet<String>) -> Result<Vec<String>, SysctlError> {
    let mut changed = Vec::new();
    set(root, FORWARD_V4, "1", &mut changed)?;
    if root.join(FORWARD_V6).exists() && !is(&root.join(FORWARD_V6), "1") {
        keep_advertised_routes(root, advertised, &mut changed)?;
        set(root, FORWARD_V6, "1", &mut changed)?;
    }
    Ok(changed)
}

/// With forwarding on, a device with `accept_ra` 1 forgets the routes that routers advertised, the node's default route
/// among them, and hears of none any more; with 2 it goes on (Documentation/networking/ip-sysctl.rst). No other device
/// gets 2: from those that lead to containers no router is to be heard (CVE-2020-13401).
fn keep_advertised_routes(
    root: &Path,
    advertised: &BTreeSet<String>,
    changed: &mut Vec<String>,
) -> Result<(), SysctlError> {
    for name in advertised {
        let switch = format!("ipv6/conf/{name}/accept_ra");
        if is(&root.join(&switch), "1") {
            set(root, &switch, "2", changed)?;
        }
    }
    Ok(())
}

fn is(path: &Path, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
}

fn set(root: &Path, name: &str, value: &'static str, changed: &mut Vec<String>) -> Result<(), SysctlError> {
    let path = root.join(name);
    if is(&path, value) {
        return Ok(());
    }
    write_setting(&path, value).map_err(|source| SysctlError { path, value, source })?;
    changed.push(format!("net.{} = {value}", name.replace('/', ".")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, name: &str, value: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).unwrap();
    }

    #[test]
    fn forwarding_is_switched_on_once_and_keeps_the_routes_that_routers_advertise() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        put(root, FORWARD_V4, "0\n");
        put(root, FORWARD_V6, "0\n");
        put(root, "ipv6/conf/eth0/accept_ra", "1\n");
        put(root, "ipv6/conf/eth1/accept_ra", "0\n");
        put(root, "ipv6/conf/docker0/accept_ra", "1\n");
        let advertised = ["eth0", "eth1"].map(str::to_owned).into();
        let mut changed = forward_below(root, &advertised).unwrap();
        changed.sort();
        let wanted = [
            "net.ipv4.ip_forward = 1",
            "net.ipv6.conf.all.forwarding = 1",
            "net.ipv6.conf.eth0.accept_ra = 2",
        ];
        assert_eq!(changed, wanted);
        assert!(forward_below(root, &advertised).unwrap().is_empty());
    }

    #[test]
    fn without_ipv6_there_is_nothing_to_switch_on_and_a_failure_names_the_switch() {
        let folder = tempfile::tempdir().unwrap();
        let error = forward_below(&folder.path().join("none"), &BTreeSet::new()).unwrap_err().to_string();
        assert!(error.contains("ip_forward to 1"), "{error}");
        put(folder.path(), FORWARD_V4, "1\n");
        assert!(forward_below(folder.path(), &BTreeSet::new()).unwrap().is_empty());
    }
}
