//! The two verbs that show something to a person: `demo` and `bench`. Both only prepare and start a program
//! of the tests package.

use anyhow::{Result, bail};

use crate::packages;
use crate::process;
use crate::user_space::{self, TESTS_PACKAGE};
use crate::workspace::Workspace;

/// Builds, then runs the demonstration.
///
/// # Errors
/// When not root, when something does not build, or when the demonstration fails.
pub(crate) fn demo(workspace: &Workspace, keep: bool) -> Result<()> {
    prepare("demo")?;
    user_space::build_all(workspace, false)?;
    start(workspace, &["--bin", "demo", "--"], keep.then_some("--keep"))
}

/// Builds with optimisations, then runs the benchmarks.
///
/// # Errors
/// When not root, when something does not build, or when a benchmark fails.
pub(crate) fn bench(workspace: &Workspace, name: Option<&str>) -> Result<()> {
    prepare("bench")?;
    if name.is_none_or(|name| ["all", "cni"].contains(&name)) {
        packages::ensure(packages::REFERENCE_PLUGINS)?;
    }
    user_space::build_all(workspace, true)?;
    start(workspace, &["--release", "--bin", "bench", "--"], name)
}

fn prepare(verb: &str) -> Result<()> {
    if !packages::is_root() {
        bail!("`cargo xtask {verb}` makes network namespaces and loads eBPF programs: run it as root");
    }
    packages::ensure(packages::TEST_PROGRAMS)
}

fn start(workspace: &Workspace, selection: &[&str], argument: Option<&str>) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.current_dir(workspace.root()).args(["run", "--quiet", "--package", TESTS_PACKAGE]);
    process::run(cargo.args(selection).args(argument))
}
