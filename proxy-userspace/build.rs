//! Puts the compiled eBPF object where the crate embeds it from. Must not compile it: that is `cargo xtask build`'s.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

const OVERRIDE: &str = "SHEAVE_EBPF_OBJECT";

fn main() -> ExitCode {
    let object = object();
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    println!("cargo::rerun-if-changed={}", object.display());
    match copy(&object) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("cargo::error={reason}");
            ExitCode::FAILURE
        }
    }
}

/// `target/bpf/sheave-ebpf.o` of this repository, whatever the target directory of user space is.
fn object() -> PathBuf {
    // Of this run, not of the compilation of this script: cargo may have kept it from another checkout.
    let manifest = || env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    env::var_os(OVERRIDE).map_or_else(|| manifest().join("../target/bpf/sheave-ebpf.o"), PathBuf::from)
}

fn copy(object: &Path) -> Result<(), String> {
    let directory = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?;
    let target = Path::new(&directory).join("sheave-ebpf.o");
    match fs::copy(object, target) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "no eBPF object at {} ({error}): run `cargo xtask build`, or set {OVERRIDE} to a compiled one",
            object.display()
        )),
    }
}
