//! The static programs of the image: which C library they are linked with, and that they need nothing at run time.
//!
//! Must not know images.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use object::{Object as _, ObjectSection as _};

use super::Arch;
use crate::process;
use crate::toolchain;
use crate::workspace::Workspace;

/// The packages that have a program in the image; the first is the agent's.
pub(super) const PACKAGES: [&str; 2] = ["proxy-userspace", "cni"];
/// Their programs, in the same order.
const NAMES: [&str; 2] = ["sheave", "sheave-cni"];

/// What was built.
pub(super) struct Programs {
    /// The compiler's name of what it was built for.
    pub(super) target: String,
    /// Name and bytes.
    pub(super) files: Vec<(String, Vec<u8>)>,
}

/// Builds them with cargo's `profile`.
///
/// # Errors
/// There is no toolchain for `arch`, the build fails, or a program is not static.
pub(super) fn build(workspace: &Workspace, arch: Arch, profile: &str) -> Result<Programs> {
    let target = target(arch)?;
    let mut cargo = process::cargo();
    cargo.current_dir(workspace.root()).args([
        "build",
        "--locked",
        "--profile",
        profile,
        "--target",
        &target,
    ]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    cargo.arg("--bins").env("CARGO_ENCODED_RUSTFLAGS", flags(workspace).join("\x1f"));
    let folder = workspace.join("target/static");
    process::run(cargo.arg("--target-dir").arg(&folder))?;
    let built = folder.join(&target).join(if profile == "dev" { "debug" } else { profile });
    let files = NAMES.iter().map(|name| Ok(((*name).to_owned(), read_static(&built.join(name))?)));
    Ok(Programs { target, files: files.collect::<Result<_>>()? })
}

/// musl's target where the toolchain has it; else, for this machine's own processor, glibc's, linked statically.
fn target(arch: Arch) -> Result<String> {
    let musl = format!("{}-unknown-linux-musl", arch.rust());
    if has_library(&musl) {
        return Ok(musl);
    }
    let advice = format!("install it: rustup target add {musl}");
    if arch != Arch::host() {
        bail!("the toolchain has no standard library for {musl}; {advice}, and a linker for it");
    }
    let gnu = format!("{}-unknown-linux-gnu", arch.rust());
    ensure!(has_library(&gnu), "the toolchain has no standard library for {musl}; {advice}");
    eprintln!(
        "warning: no standard library for {musl}: linking with this system's glibc instead. For an image to hand on, {advice}"
    );
    Ok(gnu)
}

/// Whether the compiler beside cargo comes with a standard library for the target.
fn has_library(target: &str) -> bool {
    let rustc = std::env::var_os("CARGO").map(|cargo| Path::new(&cargo).with_file_name("rustc"));
    let rustc = rustc.filter(|rustc| rustc.exists()).unwrap_or_else(|| PathBuf::from("rustc"));
    let folder = process::probe(&rustc, &["--print", "target-libdir", "--target", target]);
    folder.is_some_and(|folder| Path::new(folder.trim()).exists())
}

/// No path of this machine gets into a program, nor a table of symbols.
fn flags(workspace: &Workspace) -> Vec<String> {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags: Vec<String> =
        ["-C", "target-feature=+crt-static", "-C", "strip=symbols"].map(str::to_owned).into();
    flags.push(remap(workspace.root(), "sheave"));
    flags.extend(toolchain::cargo_home().map(|home| remap(&home, "cargo")));
    flags
}

fn read_static(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let interpreter = interpreter(&bytes).with_context(|| format!("cannot examine {}", path.display()))?;
    ensure!(interpreter.is_none(), "{} is not static: it asks for {interpreter:?}", path.display());
    Ok(bytes)
}

/// The dynamic linker that a program asks for.
fn interpreter(program: &[u8]) -> Result<Option<String>> {
    let file = object::File::parse(program)?;
    let Some(section) = file.section_by_name(".interp") else { return Ok(None) };
    Ok(Some(String::from_utf8_lossy(section.data()?).trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_a_dynamic_linker_is_found_out() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(interpreter(&own).unwrap().is_some_and(|it| it.contains("ld-")), "tests are not static");
        assert!(interpreter(b"no program").is_err());
    }

    #[test]
    fn the_own_processor_has_a_toolchain_and_an_unknown_target_has_none() {
        assert!(target(Arch::host()).is_ok());
        assert!(!has_library("pdp11-unknown-linux-musl"));
    }

    #[test]
    fn no_path_of_this_machine_gets_into_a_program() {
        let flags = flags(&Workspace::at(Path::new("/srv/my sheave")));
        assert!(flags.contains(&"--remap-path-prefix=/srv/my sheave=sheave".to_owned()));
    }
}
