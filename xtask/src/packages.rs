//! Packages of the distribution: whether we may install some, and installing them.
//!
//! Only Debian and Ubuntu as root; everybody else is told what to install.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::process;

/// Programs that the root test classes and the demo call, and the package that brings each.
pub(crate) const TEST_PROGRAMS: Programs =
    &[("ip", "iproute2"), ("nsenter", "util-linux"), ("mount", "mount")];
/// Programs that kube-proxy calls.
pub(crate) const FIREWALL_PROGRAMS: Programs =
    &[("iptables-restore", "iptables"), ("ip6tables-restore", "iptables"), ("nft", "nftables")];
/// CNI plugins that the class `cni` puts its questions to besides ours.
pub(crate) const REFERENCE_PLUGINS: Programs =
    &[("ptp", "containernetworking-plugins"), ("host-local", "containernetworking-plugins")];

/// What a cluster's nodes run and its images are made with.
pub(crate) const CLUSTER_PROGRAMS: Programs = &[
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("debootstrap", "debootstrap"),
    ("conntrack", "conntrack"),
    ("hostname", "hostname"),
    ("tar", "tar"),
];

/// What takes kernels out of their packages and boots them.
pub(crate) const KERNEL_PROGRAMS: Programs = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("kmod", "kmod"),
    ("depmod", "kmod"),
    ("tc", "iproute2"),
    ("strip", "binutils"),
];

/// Where CNI plugins lie, which nobody has in PATH.
const PLUGIN_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Programs and the package that brings each.
type Programs = &'static [(&'static str, &'static str)];

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    Path::new("/proc/self").metadata().is_ok_and(|meta| meta.uid() == 0)
}

/// Whether packages may be installed without asking: root on a system with apt.
pub(crate) fn may_install() -> bool {
    is_root() && process::find_in_path("apt-get").is_some()
}

/// Makes sure that these programs are there.
///
/// # Errors
/// Names the packages when they are missing and may not be installed.
pub(crate) fn ensure(programs: Programs) -> Result<()> {
    let missing: Vec<&str> =
        programs.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !may_install() {
        bail!("please install these packages: {}", missing.join(" "));
    }
    install(&missing)
}

fn is_there(program: &str) -> bool {
    let is_plugin = |folder: &str| process::is_executable(&Path::new(folder).join(program));
    process::find_in_path(program).is_some() || PLUGIN_FOLDERS.iter().any(|folder| is_plugin(folder))
}

/// Whether apt can install the package, after one refresh of its lists.
pub(crate) fn available(package: &str) -> bool {
    refresh();
    let answer = process::probe(Path::new("/usr/bin/apt-cache"), &["policy", package]);
    answer.is_some_and(|text| has_candidate(&text))
}

/// Installs packages with apt.
///
/// # Errors
/// When apt-get fails.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    refresh();
    let mut apt = Command::new("apt-get");
    apt.args(["install", "-y", "-q", "--no-install-recommends"]).args(packages);
    process::run(apt.env("DEBIAN_FRONTEND", "noninteractive"))
        .with_context(|| format!("cannot install {}", packages.join(" ")))
}

/// `apt-get update`, once per run. A failure is only reported: the lists on disk may be good enough, and
/// if they are not, the installation that follows says so.
fn refresh() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        if let Err(error) = process::run(Command::new("apt-get").args(["update", "-q"])) {
            eprintln!("warning: {error:#}");
        }
    });
}

/// Reads the answer of `apt-cache policy`: empty for an unknown package, `(none)` for one not on offer.
fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .any(|line| line.trim().strip_prefix("Candidate:").is_some_and(|version| version.trim() != "(none)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_on_offer_only_with_a_candidate_version() {
        assert!(has_candidate("iproute2:\n  Installed: (none)\n  Candidate: 6.1.0-3\n"));
        assert!(!has_candidate("rustc-web:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }
}
