//! Formatting, clippy and documentation: for user space with the stable toolchain, for the packet path with
//! the toolchain and for the target that it is really compiled with.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::ebpf;
use crate::packages;
use crate::process;
use crate::toolchain::{self, DEBIAN_CLIPPY, Origin, Toolchain};
use crate::workspace::Workspace;

/// Checks everything, quickest first, and goes on after a complaint.
///
/// # Errors
/// Names every check that complained.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let checks: [fn(&Workspace) -> Result<()>; 4] = [format, packet_path, user_space, documentation];
    // proxy-userspace embeds the object and does not compile without it.
    ebpf::build(workspace)?;
    let failures: Vec<String> =
        checks.iter().filter_map(|check| check(workspace).err().map(|error| format!("{error:#}"))).collect();
    if failures.is_empty() { Ok(()) } else { bail!(failures.join("\n")) }
}

fn format(workspace: &Workspace) -> Result<()> {
    let user_space = process::run(at_root(workspace).args(["fmt", "--all", "--check"]));
    let packet_path = ["fmt", "--check", "--manifest-path", "proxy-ebpf/Cargo.toml"];
    user_space.and(process::run(at_root(workspace).args(packet_path)))
}

fn user_space(workspace: &Workspace) -> Result<()> {
    process::run(at_root(workspace).args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// Links in documentation comments that lead nowhere are errors.
fn documentation(workspace: &Workspace) -> Result<()> {
    let mut doc = at_root(workspace);
    doc.args(["doc", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings");
    process::run(&mut doc)
}

fn at_root(workspace: &Workspace) -> Command {
    let mut cargo = process::cargo();
    cargo.current_dir(workspace.root());
    cargo
}

/// Clippy for the programs as the kernel gets them.
fn packet_path(workspace: &Workspace) -> Result<()> {
    let toolchain = toolchain::find_or_install(workspace)?;
    // Called by its path: through `cargo clippy` a rustup proxy earlier in PATH would answer.
    let mut clippy = ebpf::driver(workspace, &toolchain, &clippy_of(&toolchain)?)?;
    clippy.env("CARGO", &toolchain.compiler.cargo);
    clippy.args(["clippy", "--release", "--bins"]);
    ebpf::target_arguments(&mut clippy, workspace);
    process::run(clippy.args(["--", "-D", "warnings"]))
}

/// The cargo-clippy that belongs to the eBPF compiler.
fn clippy_of(toolchain: &Toolchain) -> Result<PathBuf> {
    let folder = toolchain.compiler.cargo.parent().context("cargo lies in no folder")?;
    let clippy = folder.join("cargo-clippy");
    let ready = || process::is_executable(&clippy) && process::is_executable(&folder.join("clippy-driver"));
    if ready() {
        return Ok(clippy);
    }
    match toolchain.compiler.origin {
        Origin::RustupNightly => bail!("clippy is missing: rustup component add clippy --toolchain nightly"),
        Origin::Distribution if packages::may_install() => packages::install(&[DEBIAN_CLIPPY])?,
        Origin::Distribution => {}
    }
    if ready() { Ok(clippy) } else { bail!("clippy is missing: apt-get install {DEBIAN_CLIPPY}") }
}
