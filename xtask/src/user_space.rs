//! cargo on user space: every call selects the same packages, so that every call finds what the last one built.

use std::process::Command;

use anyhow::Result;

use crate::ebpf;
use crate::process;
use crate::workspace::Workspace;

/// The package that holds the tests, demo and benchmarks that need root.
pub(crate) const TESTS_PACKAGE: &str = "sheave-tests";

/// Builds the eBPF object and everything in user space.
///
/// # Errors
/// When either does not build.
pub(crate) fn build_all(workspace: &Workspace, release: bool) -> Result<()> {
    ebpf::build(workspace)?;
    let mut build = cargo(workspace, "build");
    process::run(if release { build.arg("--release") } else { &mut build })
}

/// `cargo <verb>` for all of user space but xtask itself. A smaller selection would give the dependencies
/// other features and compile them a second time.
pub(crate) fn cargo(workspace: &Workspace, verb: &str) -> Command {
    let mut cargo = process::cargo();
    cargo.current_dir(workspace.root()).args([verb, "--workspace", "--exclude", "xtask"]);
    cargo
}
