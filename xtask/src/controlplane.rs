//! Builds the parts of Kubernetes that `cargo xtask test apiserver` and `cargo xtask test oracle` run.
//!
//! Owns: the build of `tests/controlplane` into `target/controlplane/`, and the decision that an earlier build still fits. Must not know: how the programs are started or what is tested
//! with them (`tests/src/controlplane.rs`).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::go::{self, Go};
use crate::process;

/// The names the one program is linked to; it picks its role from the name it runs under.
const ROLES: [&str; 5] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "service-account-key"];
const SOURCES: [&str; 3] = ["main.go", "go.mod", "go.sum"];
const BUILD: [&str; 4] = ["build", "-trimpath", "-buildvcs=false", "-mod=readonly"];
/// No symbol tables, and the version that the API server tells its clients.
const LINK: &str = "-s -w -X k8s.io/component-base/version.gitVersion=";

/// Builds the control plane unless the one in `root/target/controlplane` was built from the same sources by the
/// same Go. Returns the folder that holds the programs.
///
/// # Errors
/// No Go that can compile it (the message says what to install), a failed build, or a file error.
pub(crate) fn build(root: &Path) -> Result<PathBuf> {
    let sources = root.join("tests/controlplane");
    let out = root.join("target/controlplane");
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let lock = File::create(out.join("lock"))?;
    lock.lock().context("cannot lock target/controlplane")?;
    let go = go::find(&sources)?;
    let stamp = stamp(&sources, &go)?;
    if !is_built(&out, &stamp) {
        compile(&go, &sources, &out)?;
        fs::write(out.join("stamp"), stamp)?;
    }
    Ok(out)
}

/// Everything the program is made of, as text: a build fits if its stamp is the same.
fn stamp(sources: &Path, go: &Go) -> Result<String> {
    let mut stamp = format!("{}\n{BUILD:?} {LINK}\n", go.line);
    for name in SOURCES {
        stamp += &go::read(&sources.join(name))?;
    }
    Ok(stamp)
}

fn is_built(out: &Path, stamp: &str) -> bool {
    let same = fs::read_to_string(out.join("stamp")).is_ok_and(|built| built == stamp);
    same && ROLES.iter().all(|role| process::is_executable(&out.join(role)))
}

fn compile(go: &Go, sources: &Path, out: &Path) -> Result<()> {
    eprintln!("building etcd and the parts of Kubernetes: minutes, but only the first time");
    // Without a stamp a build that is interrupted half-way is started again.
    remove_if_there(&out.join("stamp"))?;
    let mut build = process::compiler_neutral(&go.program);
    build.args(BUILD).arg("-ldflags").arg(format!("{LINK}{}", kubernetes_version(sources)?));
    build.arg("-o").arg(out.join("controlplane")).arg(".");
    process::run(build.current_dir(sources).env("CGO_ENABLED", "0").env_remove("GOFLAGS"))?;
    ROLES.iter().try_for_each(|role| link(out, role))
}

fn link(out: &Path, role: &str) -> Result<()> {
    let name = out.join(role);
    remove_if_there(&name)?;
    std::os::unix::fs::symlink("controlplane", &name)
        .with_context(|| format!("cannot link {}", name.display()))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn kubernetes_version(sources: &Path) -> Result<String> {
    go::mod_word(sources, "k8s.io/kubernetes ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn the_version_of_kubernetes_is_that_of_go_mod() {
        let sources = Workspace::locate().unwrap().root().join("tests/controlplane");
        assert!(kubernetes_version(&sources).unwrap().starts_with("v1."));
    }
}
