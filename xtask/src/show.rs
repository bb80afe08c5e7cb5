//! The verbs that show something to a person: `demo`, `cluster` and `bench`. They only prepare and start a program of
//! the tests package.

use std::process::Command;

use anyhow::{Result, bail};

use crate::chart;
use crate::controlplane;
use crate::image;
use crate::kubernetes;
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

/// What the program that keeps a cluster does without one: it reads and writes files of the repository.
const PAPERWORK: [&str; 2] = ["record", "compatibility"];

/// Hands the words to the program that keeps a cluster; `up` builds everything before.
///
/// # Errors
/// When not root, when something does not build, or when the program fails.
pub(crate) fn cluster(workspace: &Workspace, words: &[String]) -> Result<()> {
    let verb = words.first().map_or("", String::as_str);
    if !PAPERWORK.contains(&verb) {
        prepare("cluster")?;
    }
    if verb == "up" {
        prepare_cluster(workspace)?;
    }
    process::run(cluster_program(workspace).args(words))
}

/// The call of that program; what is appended are its words.
pub(crate) fn cluster_program(workspace: &Workspace) -> Command {
    let mut cargo = process::cargo();
    cargo.current_dir(workspace.root()).args(["run", "--quiet", "--package", TESTS_PACKAGE]);
    cargo.args(["--bin", "cluster", "--"]);
    cargo
}

/// Packages, programs of Kubernetes, and our own.
///
/// # Errors
/// When something is missing or does not build.
pub(crate) fn prepare_cluster(workspace: &Workspace) -> Result<()> {
    packages::ensure(packages::CLUSTER_PROGRAMS)?;
    packages::ensure(packages::REFERENCE_PLUGINS)?;
    packages::ensure(packages::FIREWALL_PROGRAMS)?;
    controlplane::build(workspace.root())?;
    kubernetes::build(workspace.root())?;
    chart::build_helm(workspace.root())?;
    image::build(workspace, &image::Settings::quick())?;
    user_space::build_all(workspace, false)
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
