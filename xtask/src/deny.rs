//! cargo-deny on both dependency trees: licences, sources, bans, and known vulnerabilities.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace::Workspace;

const VERSION: &str = "^0.20";

/// What cargo-deny says when the network is the trouble and not the dependencies.
const UNREACHABLE: &str = "failed to fetch advisory database";

/// Each tree with what to add to the check of its bans: the exceptions in deny.toml are user space's, and one that
/// nobody needs any more is worth a warning only there.
const TREES: [(&str, &[&str]); 2] =
    [("Cargo.toml", &[]), ("proxy-ebpf/Cargo.toml", &["--allow", "unmatched-skip"])];

/// Checks user space and the eBPF crate.
///
/// # Errors
/// On every violation. An advisory database that cannot be fetched is only reported: that says nothing
/// about our dependencies.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let cargo_deny = find_or_install(workspace)?;
    for (manifest, lints) in TREES {
        let deny = || {
            let mut deny = process::compiler_neutral(&cargo_deny);
            deny.current_dir(workspace.root());
            deny.args(["--config", "deny.toml", "--manifest-path", manifest, "check"]);
            deny
        };
        process::run(deny().args(lints).args(["--show-stats", "bans", "licenses", "sources"]))?;
        advisories(deny().arg("advisories"), manifest)?;
    }
    Ok(())
}

fn advisories(command: &mut Command, manifest: &str) -> Result<()> {
    let output = command.output().context("cannot start cargo-deny")?;
    let Output { status, stdout, stderr } = output;
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    match judge(status.success(), &text) {
        Verdict::Clean => eprintln!("{manifest}: no advisory against a dependency"),
        Verdict::NotChecked => eprintln!(
            "WARNING: {manifest}: advisories were NOT CHECKED, the database cannot be fetched from here:\n{text}"
        ),
        Verdict::Vulnerable => bail!("{manifest}: advisories against dependencies:\n{text}"),
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Clean,
    NotChecked,
    Vulnerable,
}

fn judge(success: bool, text: &str) -> Verdict {
    match (success, text.contains(UNREACHABLE)) {
        (true, _) => Verdict::Clean,
        (false, true) => Verdict::NotChecked,
        (false, false) => Verdict::Vulnerable,
    }
}

/// cargo-deny from PATH, or built into `target/tools`: without optimisations, which halves the minutes it takes.
fn find_or_install(workspace: &Workspace) -> Result<PathBuf> {
    let own = workspace.tools().join("bin/cargo-deny");
    if process::is_executable(&own) {
        return Ok(own);
    }
    if let Some(installed) = process::find_in_path("cargo-deny") {
        return Ok(installed);
    }
    let mut cargo = process::cargo();
    cargo.args(["install", "cargo-deny", "--version", VERSION, "--locked", "--debug", "--root"]);
    cargo.arg(workspace.tools()).arg("--target-dir").arg(workspace.tools().join("build"));
    process::run(&mut cargo).context("cannot install cargo-deny")?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unreachable_database_is_forgiven() {
        assert_eq!(judge(true, ""), Verdict::Clean);
        assert_eq!(
            judge(false, "[ERROR] failed to fetch advisory database https://..."),
            Verdict::NotChecked
        );
        assert_eq!(judge(false, "error[vulnerability]: ..."), Verdict::Vulnerable);
    }
}
