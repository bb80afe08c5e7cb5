//! Child processes: how commands are printed, run and judged, and which environment they may see.
//!
//! Knows nothing about what the commands are for.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Variables that `cargo run` sets for the program it starts. Left in place they would make a child cargo's
/// fingerprints differ from those of a cargo started by hand, and rebuild crates at every change of hands.
const SET_BY_CARGO_RUN: &[&str] = &[
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_PRIMARY_PACKAGE",
    "OUT_DIR",
];

/// Variables that select or tune a user-space compiler: the eBPF build chooses its own.
const SELECTS_A_COMPILER: &[&str] = &[
    "CARGO_BUILD_",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CARGO_UNSTABLE_",
    "RUSTC",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// A cargo of the toolchain that runs xtask, as if started by hand.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    clear(&mut command, SET_BY_CARGO_RUN);
    command
}

/// `program` with nothing in its environment that selects a compiler or tunes one.
pub(crate) fn compiler_neutral(program: &Path) -> Command {
    let mut command = Command::new(program);
    clear(&mut command, SET_BY_CARGO_RUN);
    clear(&mut command, SELECTS_A_COMPILER);
    command.env_remove("CARGO");
    command
}

fn clear(command: &mut Command, prefixes: &[&str]) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| begins_with_any(name, prefixes)) {
            command.env_remove(name);
        }
    }
    if let Some(path) = env::var_os("LD_LIBRARY_PATH") {
        match env::join_paths(env::split_paths(&path).filter(|entry| !added_by_cargo(entry))) {
            Ok(rest) if !rest.is_empty() => command.env("LD_LIBRARY_PATH", rest),
            _ => command.env_remove("LD_LIBRARY_PATH"),
        };
    }
}

fn begins_with_any(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// `cargo run` puts the build directory and the compiler's own libraries in front of LD_LIBRARY_PATH.
fn added_by_cargo(entry: &Path) -> bool {
    let build_dir = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    build_dir.is_some_and(|dir| entry.starts_with(dir))
        || entry.components().any(|part| part.as_os_str() == "rustlib" || part.as_os_str() == "toolchains")
}

/// Prints the command and runs it with our own standard output and error.
///
/// # Errors
/// When it cannot be started or ends with a failure.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", shown(command));
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// The standard output of a command that must succeed; its standard error is ours.
///
/// # Errors
/// When it cannot be started, fails, or prints something that is not UTF-8.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !done.status.success() {
        bail!("{} failed: {}", shown(command), done.status);
    }
    String::from_utf8(done.stdout).with_context(|| format!("{} printed no UTF-8", shown(command)))
}

/// The standard output of a probe: nothing when the program is absent, fails or prints nonsense.
pub(crate) fn probe(program: &Path, args: &[&str]) -> Option<String> {
    let done = compiler_neutral(program).args(args).stderr(Stdio::null()).output().ok()?;
    done.status.success().then(|| String::from_utf8(done.stdout).ok()).flatten()
}

/// The first executable of that name in PATH.
pub(crate) fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

/// Whether the file exists and somebody may execute it.
pub(crate) fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// PATH with `dir` in front.
///
/// # Errors
/// When `dir` contains a colon.
pub(crate) fn path_with(dir: &Path) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let entries = std::iter::once(dir.to_path_buf()).chain(env::split_paths(&path));
    env::join_paths(entries).with_context(|| format!("{} cannot stand in PATH", dir.display()))
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args()).map(OsStr::to_string_lossy);
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_of_cargo_run_are_recognised_and_the_users_settings_kept() {
        assert!(begins_with_any("CARGO_PKG_VERSION", SET_BY_CARGO_RUN));
        assert!(begins_with_any("CARGO_MANIFEST_DIR", SET_BY_CARGO_RUN));
        assert!(!begins_with_any("CARGO_HOME", SET_BY_CARGO_RUN));
        assert!(!begins_with_any("CARGO_TARGET_DIR", SET_BY_CARGO_RUN));
    }

    #[test]
    fn the_ebpf_build_sees_no_choice_of_compiler_but_still_the_registry_settings() {
        for name in
            ["RUSTC_WRAPPER", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR", "CARGO_BUILD_RUSTFLAGS"]
        {
            assert!(begins_with_any(name, SELECTS_A_COMPILER), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_MINE_INDEX",
            "RUSTUP_HOME",
            "RUST_BACKTRACE",
        ] {
            assert!(!begins_with_any(name, SELECTS_A_COMPILER), "{name}");
        }
    }

    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert!(error.to_string().starts_with("sh -c exit 3 failed"), "{error}");
    }

    #[test]
    fn a_missing_program_is_no_answer_to_a_probe() {
        assert_eq!(probe(Path::new("/nonexistent/program"), &[]), None);
        assert_eq!(probe(Path::new("/bin/false"), &[]), None);
    }
}
