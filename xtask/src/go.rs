//! Finding a Go that can compile one of the modules of the tests.
//!
//! Must not know: what is compiled with it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::process;

/// Go's `major.minor`: all that decides whether it can compile a module.
type GoVersion = (u32, u32);

/// A compiler.
pub(crate) struct Go {
    /// Its path.
    pub(crate) program: PathBuf,
    /// The whole line of `go version`: part of what decides whether a build still fits.
    pub(crate) line: String,
}

/// A Go that can compile the module in this folder.
///
/// # Errors
/// There is none; the message says what to install.
pub(crate) fn find(sources: &Path) -> Result<Go> {
    let needed = needed_version(sources)?;
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
        "this needs Go {major}.{minor} or newer. None is in PATH, /usr/local/go or \
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
    let version = mod_word(sources, "go ")?;
    parse_version(&version).with_context(|| format!("go.mod asks for the Go version {version:?}"))
}

/// What follows `start` on the first line of go.mod that begins with it.
pub(crate) fn mod_word(sources: &Path, start: &str) -> Result<String> {
    let path = sources.join("go.mod");
    read(&path)?
        .lines()
        .find_map(|line| line.trim().strip_prefix(start).map(str::to_owned))
        .with_context(|| format!("{} has no line {start:?}", path.display()))
}

/// A file's text.
pub(crate) fn read(path: &Path) -> Result<String> {
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
        assert!(mod_word(&sources, "no such module").is_err());
    }

    #[test]
    fn a_go_that_is_too_old_is_told_from_one_that_will_do() {
        assert!(usable_go((9999, 0)).is_none_or(|go| may_switch(&go.program)));
        assert!(no_go((1, 26), "golang-1.26-go").contains("Go 1.26 or newer"));
    }
}
