//! bpf-linker: which copies there are, which LLVM each contains, and building one.
//!
//! It reads the bitcode that rustc writes, so its LLVM must not be older than rustc's.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::packages;
use crate::process;
use crate::workspace::Workspace;

/// The versions of bpf-linker that the recipe below is known to build.
const VERSION: &str = "^0.13";

/// One bpf-linker on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    /// Major version of the LLVM it was built with; unknown when the file does not tell.
    pub(crate) llvm: Option<u32>,
}

impl Linker {
    /// Whether it can read bitcode of that LLVM. A file that does not tell gets the benefit of the doubt.
    pub(crate) fn reads(&self, rustc_llvm: u32) -> bool {
        self.llvm.is_none_or(|llvm| llvm >= rustc_llvm)
    }
}

/// Every bpf-linker we would use, best first: our own, then those in PATH, then cargo's.
pub(crate) fn survey(workspace: &Workspace) -> Vec<Linker> {
    let own = workspace.tools().join("bin/bpf-linker");
    let in_path = process::find_in_path("bpf-linker");
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let of_cargo = cargo_home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let mut found: Vec<Linker> = Vec::new();
    for path in [Some(own), in_path, of_cargo.map(|dir| dir.join("bin/bpf-linker"))].into_iter().flatten() {
        if process::is_executable(&path) && !found.iter().any(|linker| linker.path == path) {
            let llvm = fs::read(&path).ok().and_then(|bytes| llvm_major(&bytes));
            found.push(Linker { path, llvm });
        }
    }
    found
}

/// The LLVM inside a program: by the name of the shared library it needs (`libLLVM.so.22.1`), else by the
/// identification that LLVM's bitcode writer carries (`LLVM22.1.8`) when linked statically.
fn llvm_major(program: &[u8]) -> Option<u32> {
    number_after(program, b"libLLVM.so.")
        .or_else(|| number_after(program, b"libLLVM-"))
        .or_else(|| number_after(program, b"LLVM"))
}

/// The number that follows the first `prefix` which is followed by one and then by a dot.
fn number_after(haystack: &[u8], prefix: &[u8]) -> Option<u32> {
    haystack.windows(prefix.len() + 3).filter(|window| window.starts_with(prefix)).find_map(|window| {
        let tail = std::str::from_utf8(window.get(prefix.len()..)?).ok()?;
        tail.strip_suffix('.')?.parse().ok()
    })
}

/// The distribution's packages that building bpf-linker with that LLVM needs.
pub(crate) fn build_packages(llvm: u32) -> [String; 3] {
    [format!("llvm-{llvm}-dev"), format!("libclang-{llvm}-dev"), format!("libpolly-{llvm}-dev")]
}

/// Installs what bpf-linker needs and builds it into `target/tools`.
///
/// # Errors
/// When apt or cargo fails.
pub(crate) fn install(workspace: &Workspace, llvm: u32) -> Result<()> {
    let needed = build_packages(llvm);
    packages::install(&needed.each_ref().map(String::as_str))?;
    let mut cargo = process::cargo();
    for (name, value) in build_environment(llvm) {
        cargo.env(name, value);
    }
    cargo.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-default-features"]);
    cargo.args(["--features", &format!("llvm-{llvm}")]);
    cargo.arg("--root").arg(workspace.tools()).arg("--target-dir").arg(workspace.tools().join("build"));
    process::run(&mut cargo).context("cannot build bpf-linker")
}

/// LLVM_PREFIX matters too: another llvm-config may come first in PATH.
fn build_environment(llvm: u32) -> [(String, PathBuf); 2] {
    let prefix = Path::new("/usr/lib").join(format!("llvm-{llvm}"));
    [("LLVM_PREFIX".to_owned(), prefix.clone()), (format!("LLVM_SYS_{llvm}1_PREFIX"), prefix)]
}

/// The command a person would type to build bpf-linker with that LLVM.
pub(crate) fn install_command(llvm: u32) -> String {
    let environment = build_environment(llvm).map(|(name, value)| format!("{name}={}", value.display()));
    format!(
        "{} cargo install bpf-linker --version '{VERSION}' --locked --no-default-features --features llvm-{llvm}",
        environment.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_linker_is_read_from_its_bytes() {
        assert_eq!(llvm_major(b"\0libc.so.6\0libLLVM.so.22.1\0LLVM99.1.1"), Some(22));
        assert_eq!(llvm_major(b"\0libLLVM-19.so.1\0"), Some(19));
        assert_eq!(llvm_major(b"LLVM version \0LLVM21.1.8\0"), Some(21));
        assert_eq!(llvm_major(b"nothing here"), None);
    }

    #[test]
    fn a_linker_reads_bitcode_of_its_own_llvm_and_of_older_ones_only() {
        let linker = |llvm| Linker { path: PathBuf::new(), llvm };
        assert!(linker(Some(22)).reads(22));
        assert!(linker(Some(22)).reads(21));
        assert!(!linker(Some(22)).reads(23));
        assert!(linker(None).reads(23));
    }

    #[test]
    fn the_printed_command_names_the_same_llvm_everywhere() {
        let command = install_command(22);
        assert!(
            command.starts_with(
                "LLVM_PREFIX=/usr/lib/llvm-22 LLVM_SYS_221_PREFIX=/usr/lib/llvm-22 cargo install"
            )
        );
        assert!(command.ends_with("--features llvm-22"));
    }
}
