//! Builds the parts of Kubernetes that `cargo xtask test apiserver` and `cargo xtask test oracle` run.
//!
//! Owns: finding a Go that is new enough, the build of `tests/controlplane` into `target/controlplane/`, and
//! the decision that an earlier build still fits. Must not know: how the programs are started or what is tested
//! with them (`tests/src/controlplane.rs`).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::process;

/// The names the one program is linked to; it picks its role from the name it runs under.
const ROLES: [&str; 5] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "service-account-key"];
const SOURCES: [&str; 3] = ["main.go", "go.mod", "go.sum"];
const BUILD: [&str; 4] = ["build", "-trimpath", "-buildvcs=false", "-mod=readonly"];
/// No symbol tables, and the version that the API server tells its clients.
const LINK: &str = "-s -w -X k8s.io/component-base/version.gitVersion=";

/// Go's `major.minor`: all that decides whether it can compile a module.
type GoVersion = (u32, u32);

struct Go {
    program: PathBuf,
    /// The whole line of `go version`: part of what decides whether a build still fits.
    line: String,
}

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
    let go = find_go(needed_version(&sources)?)?;
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
        stamp += &read(&sources.join(name))?;
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

fn find_go(needed: GoVersion) -> Result<Go> {
    if let Some(go) = usable_go(needed) {
        return Ok(go);
    }
    let package = format!("golang-{}.{}-go", needed.0, needed.1);
    if packages::may_install() && packages::available(&package) {
        packages::install(&[&package])?;
    }
    match usable_go(needed) {
        Some(go) => Ok(go),
        None => bail!(no_go(needed, &package)),
    }
}

fn no_go((major, minor): GoVersion, package: &str) -> String {
    format!(
        "the control plane needs Go {major}.{minor} or newer. None is in PATH, /usr/local/go or \
         /usr/lib/go-{major}.{minor}, and this system has no package {package}.\n\
         Unpack an archive from https://go.dev/dl/ to /usr/local/go. Go 1.21 or newer will do too, if it may \
         fetch the right toolchain: `go env -w GOTOOLCHAIN=auto`."
    )
}

/// The first Go that can compile a module which needs this version.
fn usable_go(needed: GoVersion) -> Option<Go> {
    let debian = format!("/usr/lib/go-{}.{}/bin/go", needed.0, needed.1);
    let candidates = [process::find_in_path("go"), Some("/usr/local/go/bin/go".into()), Some(debian.into())];
    candidates.into_iter().flatten().find_map(|program| {
        let line = process::probe(&program, &["version"])?;
        let found = line.split_whitespace().find_map(|word| parse_version(word.strip_prefix("go")?))?;
        (found >= needed || (found >= (1, 21) && may_switch(&program))).then_some(Go { program, line })
    })
}

/// Whether this Go may fetch and run the toolchain that a module asks for.
fn may_switch(program: &Path) -> bool {
    process::probe(program, &["env", "GOTOOLCHAIN"]).is_some_and(|setting| setting.trim() != "local")
}

/// The version in go.mod's `go` line.
fn needed_version(sources: &Path) -> Result<GoVersion> {
    let version = go_mod_word(sources, "go ")?;
    parse_version(&version).with_context(|| format!("go.mod asks for the Go version {version:?}"))
}

fn kubernetes_version(sources: &Path) -> Result<String> {
    go_mod_word(sources, "k8s.io/kubernetes ")
}

/// What follows `start` on the first line of go.mod that begins with it.
fn go_mod_word(sources: &Path, start: &str) -> Result<String> {
    let path = sources.join("go.mod");
    read(&path)?
        .lines()
        .find_map(|line| line.trim().strip_prefix(start).map(str::to_owned))
        .with_context(|| format!("{} has no line {start:?}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// `1.26.0`, `1.26` and `1.26rc1` are all 1.26.
fn parse_version(text: &str) -> Option<GoVersion> {
    let (major, rest) = text.trim().split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn a_go_version_is_read_with_patch_level_without_and_as_release_candidate() {
        assert_eq!(parse_version("1.26.8"), Some((1, 26)));
        assert_eq!(parse_version("1.27"), Some((1, 27)));
        assert_eq!(parse_version("1.27rc2"), Some((1, 27)));
    }

    #[test]
    fn what_is_no_version_is_not_taken_for_one() {
        assert_eq!(parse_version("toolchain"), None);
        assert_eq!(parse_version("devel.x"), None);
    }

    #[test]
    fn the_versions_are_those_of_go_mod() {
        let sources = Workspace::locate().unwrap().root().join("tests/controlplane");
        assert!(needed_version(&sources).unwrap() >= (1, 26));
        assert!(kubernetes_version(&sources).unwrap().starts_with("v1."));
        assert!(go_mod_word(&sources, "no such module").is_err());
    }

    #[test]
    fn a_go_that_is_too_old_is_told_from_one_that_will_do() {
        assert!(usable_go((9999, 0)).is_none_or(|go| may_switch(&go.program)));
        assert!(no_go((1, 26), "golang-1.26-go").contains("Go 1.26 or newer"));
    }
}
