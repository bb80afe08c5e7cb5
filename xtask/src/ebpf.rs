//! The eBPF object: compiled with its own toolchain, left at `target/bpf/sheave-ebpf.o`.
//!
//! The file is replaced only when its bytes change, so that user space, which embeds it, is rebuilt only then.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cargo_metadata::Message;

use crate::process;
use crate::toolchain::{self, BOOTSTRAP, Toolchain};
use crate::workspace::Workspace;

/// Little-endian, as every machine we support is.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Where user space looks for the object.
const OBJECT: &str = "target/bpf/sheave-ebpf.o";

/// Builds the object and returns where it is.
///
/// # Errors
/// When no toolchain serves, the code does not compile, or the file cannot be written.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    let toolchain = toolchain::find_or_install(workspace)?;
    let mut cargo = driver(workspace, &toolchain, &toolchain.compiler.cargo)?;
    cargo.args(["build", "--release", "--bins", "--message-format=json-render-diagnostics"]);
    let messages = process::output(target_arguments(&mut cargo, workspace))?;
    let built = executable(&messages)?;
    let object = workspace.join(OBJECT);
    if replace_if_different(&built, &object)? {
        eprintln!("eBPF object: {} (new)", object.display());
    }
    Ok(object)
}

/// A program of the eBPF toolchain (its cargo, its clippy) in the crate's folder, with the environment that every
/// eBPF compilation shares.
///
/// # Errors
/// When the linker's folder cannot stand in PATH.
pub(crate) fn driver(workspace: &Workspace, toolchain: &Toolchain, program: &Path) -> Result<Command> {
    let mut driver = process::compiler_neutral(program);
    let linker_dir = toolchain.linker.path.parent().context("bpf-linker lies in no folder")?;
    driver.current_dir(workspace.join("proxy-ebpf"));
    driver.env("RUSTC", &toolchain.compiler.rustc).env(BOOTSTRAP.0, BOOTSTRAP.1);
    driver.env("PATH", process::path_with(linker_dir)?);
    // 0x1f separates the flags, so that a path may contain a blank.
    driver.env("CARGO_ENCODED_RUSTFLAGS", flags(workspace).join("\x1f"));
    Ok(driver)
}

/// Adds what selects the target; cargo wants it after the verb.
pub(crate) fn target_arguments<'a>(cargo: &'a mut Command, workspace: &Workspace) -> &'a mut Command {
    cargo.args(["-Z", "build-std=core", "--target", TARGET]);
    cargo.arg("--target-dir").arg(workspace.join("target/ebpf"))
}

/// Debug information becomes BTF and line numbers in the verifier's log; its paths must not depend on
/// whose machine compiled the object.
fn flags(workspace: &Workspace) -> Vec<String> {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags: Vec<String> = ["-C", "debuginfo=2", "-C", "link-arg=--btf"].map(str::to_owned).into();
    flags.push(remap(workspace.root(), "sheave"));
    flags.extend(toolchain::cargo_home().map(|home| remap(&home, "cargo")));
    flags
}

/// The one program among cargo's JSON messages.
fn executable(messages: &str) -> Result<PathBuf> {
    let mut programs =
        Message::parse_stream(messages.as_bytes()).filter_map(|message| match message.ok()? {
            Message::CompilerArtifact(artifact) if artifact.target.is_bin() => {
                artifact.filenames.first().cloned()
            }
            _ => None,
        });
    match (programs.next(), programs.next()) {
        (Some(program), None) => Ok(program.into()),
        (None, _) => bail!("proxy-ebpf built no program: it needs one [[bin]]"),
        (Some(_), Some(_)) => bail!("proxy-ebpf built several programs: it must have one [[bin]]"),
    }
}

/// Copies the file unless the target has the same content already, and says whether it did. The target appears
/// at once: a build that reads it meanwhile sees the old or the new one.
fn replace_if_different(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    let folder = to.parent().context("no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let beside = to.with_extension(format!("o.{}", std::process::id()));
    fs::write(&beside, new).with_context(|| format!("cannot write {}", beside.display()))?;
    fs::rename(&beside, to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(kind: &str, file: &str) -> String {
        let profile = r#"{"opt_level":"3","debug_assertions":false,"overflow_checks":false,"test":false}"#;
        let target =
            format!(r#"{{"name":"x","kind":["{kind}"],"crate_types":["{kind}"],"src_path":"/x.rs"}}"#);
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"x","target":{target},"profile":{profile},"features":[],"filenames":["{file}"],"executable":null,"fresh":true}}"#
        )
    }

    #[test]
    fn the_one_program_is_found_among_cargos_messages() {
        let (library, program) = (artifact("lib", "/t/lib.rlib"), artifact("bin", "/t/sheave-ebpf"));
        let messages =
            format!("{library}\nnot json\n{program}\n{{\"reason\":\"build-finished\",\"success\":true}}");
        assert_eq!(executable(&messages).unwrap(), PathBuf::from("/t/sheave-ebpf"));
    }

    #[test]
    fn no_program_and_two_programs_are_errors() {
        let program = artifact("bin", "/t/sheave-ebpf");
        assert!(executable(&artifact("lib", "/t/lib.rlib")).is_err());
        assert!(executable(&format!("{program}\n{program}")).is_err());
    }

    #[test]
    fn an_equal_object_is_left_alone_and_a_different_one_replaced() {
        let folder = std::env::temp_dir().join(format!("xtask-object-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (from, to) = (folder.join("built"), folder.join("deep/er/object.o"));
        fs::write(&from, b"one").unwrap();
        assert!(replace_if_different(&from, &to).unwrap());
        let first = fs::metadata(&to).unwrap().modified().unwrap();
        assert!(!replace_if_different(&from, &to).unwrap());
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), first);
        fs::write(&from, b"two").unwrap();
        assert!(replace_if_different(&from, &to).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"two");
        assert_eq!(fs::read_dir(to.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_objects_debug_paths_do_not_name_the_folder_it_was_built_in() {
        let flags = flags(&Workspace::at(Path::new("/srv/my sheave")));
        assert!(flags.contains(&"--remap-path-prefix=/srv/my sheave=sheave".to_owned()));
    }
}
