//! The test class `kernels`: tests that need root inside the kernels that distributions ship, under QEMU's software
//! emulation. The processor's own virtualisation is not needed, and not used: CI machines often have none.
//!
//! Must not know: what the tests look at.

mod guest;
mod initramfs;
mod release;

use std::fs;
use std::iter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Message, Metadata};

use crate::fuzz::FIXTURES_TARGET;
use crate::kernels::initramfs::Initramfs;
use crate::kernels::release::{KERNELS, Kernel, Release};
use crate::packages;
use crate::process;
use crate::user_space;
use crate::workspace::Workspace;

/// The test targets that are put into the machine, and the part of their tests that emulation leaves time for: one for
/// each kind of program, of attachment and of netlink request that may differ between kernels. Those without a part run
/// only when the user chooses.
const PARTS: &[(&str, &[&str])] = &[
    ("maps", &["the_agent_guards_a_pod_with_a_record"]),
    ("datapath", &["an_edit_of_the_manifests_reaches_the_traffic"]),
    ("routing", &["pods_reach_each_other_through_the_tunnel_alone"]),
    ("packet", &[]),
    ("cni", &[]),
    // Last: it waits until the kernel has run for two minutes.
    (FIXTURES_TARGET, &["every_case_comes_out_the_same_in_the_kernel"]),
];

/// Programs that the tests call, with all the options that those of busybox lack.
const CALLED_BY_TESTS: [&str; 8] = ["ip", "tc", "nsenter", "unshare", "mount", "umount", "stat", SHELL.0];

/// Folders of the tests that are read when they run.
const READ_BY_TESTS: [&str; 4] =
    ["tests/fixtures/cases", "tests/packet/scenarios", "tests/packet/own-pods", "target/bpf"];

/// What interprets `init.sh`, and where that looks for it.
const SHELL: (&str, &str) = ("busybox", "/bin/busybox");

/// Programs of user space that the tests start.
const STARTED_BY_TESTS: [&str; 2] = ["sheave", "sheave-cni"];

/// Boots every kernel and runs the tests in it, all kernels even when one fails. `harness` chooses other tests: words
/// for the test programs.
///
/// # Errors
/// When something is missing, a kernel does not come up in time, or a test fails.
pub(crate) fn run(workspace: &Workspace, metadata: &Metadata, harness: &[String]) -> Result<()> {
    packages::ensure(packages::KERNEL_PROGRAMS)?;
    let tests = build_tests(workspace)?;
    let folder = workspace.join("target/kernels");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut failed = Vec::new();
    for release in KERNELS {
        eprintln!("\n== kernel {}", release.version);
        if let Err(error) = boot(workspace, metadata, &folder, release, &tests, harness) {
            failed.push(format!("kernel {}: {error:#}", release.version));
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!(failed.join("\n")) }
}

/// One kernel, from its package to its verdict.
fn boot(
    workspace: &Workspace,
    metadata: &Metadata,
    folder: &Path,
    release: &Release,
    tests: &[Test],
    harness: &[String],
) -> Result<()> {
    let kernel = release.fetch(folder)?;
    let root = Initramfs::new(&folder.join("root"))?;
    for program in CALLED_BY_TESTS {
        let path = process::find_in_path(program).with_context(|| format!("{program} is not in PATH"))?;
        root.program(&path)?;
        if program == SHELL.0 {
            root.place(&path, Path::new(SHELL.1))?;
        }
    }
    let built = metadata.target_directory.join("debug").into_std_path_buf();
    for program in STARTED_BY_TESTS {
        root.stripped(&built.join(program))?;
    }
    for test in tests {
        root.stripped(&test.program)?;
    }
    for read in READ_BY_TESTS {
        root.folder(&workspace.join(read), &workspace.join(read))?;
    }
    let archive = folder.join("initramfs.cpio");
    add_modules(&root, &kernel)?;
    root.script(Path::new("/init"), &script(tests, harness))?;
    root.pack(&archive)?;
    guest::boot(&kernel, &archive)
}

/// The kernel asks for its modules itself, as on a node.
fn add_modules(root: &Initramfs, kernel: &Kernel) -> Result<()> {
    root.folder(&kernel.modules, &Path::new("/lib/modules").join(&kernel.name))?;
    let kmod = process::find_in_path("kmod").context("kmod is not in PATH")?;
    root.program(&kmod)?;
    root.link(Path::new("/sbin/modprobe"), &kmod)
}

/// The first process: what is common to all runs, and a line for each test program.
fn script(tests: &[Test], harness: &[String]) -> String {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let call = |test: &Test| {
        let part = test.part.iter().map(|word| quoted(word));
        let words: Vec<String> = if harness.is_empty() {
            part.collect()
        } else {
            harness.iter().map(|word| quoted(word)).collect()
        };
        format!("run {} {}", quoted(&test.program.to_string_lossy()), words.join(" "))
    };
    let chosen = tests.iter().filter(|test| !harness.is_empty() || !test.part.is_empty());
    let lines = iter::once(include_str!("init.sh").to_owned()).chain(chosen.map(call));
    lines.chain(["finish\n".to_owned()]).collect::<Vec<_>>().join("\n")
}

/// A test program and the tests in it that run when nobody chooses.
#[derive(Debug)]
struct Test {
    program: PathBuf,
    part: &'static [&'static str],
}

/// Builds the test programs and says where they are.
fn build_tests(workspace: &Workspace) -> Result<Vec<Test>> {
    let mut cargo = user_space::cargo(workspace, "test");
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]);
    for (target, _) in PARTS {
        cargo.args(["--test", target]);
    }
    let messages = process::output(&mut cargo)?;
    PARTS.iter().map(|(target, part)| Ok(Test { program: test_program(&messages, target)?, part })).collect()
}

/// The program of a test target among cargo's JSON messages.
fn test_program(messages: &str, target: &str) -> Result<PathBuf> {
    let found = Message::parse_stream(messages.as_bytes()).find_map(|message| match message.ok()? {
        Message::CompilerArtifact(artifact)
            if artifact.target.is_test() && artifact.target.name == target =>
        {
            artifact.executable
        }
        _ => None,
    });
    Ok(found.with_context(|| format!("cargo built no test program {target}"))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(part: &'static [&'static str]) -> Test {
        Test { program: PathBuf::from("/target/maps"), part }
    }

    #[test]
    fn each_program_runs_its_part_and_the_verdict_comes_last() {
        let text = script(&[test(&["guard::"])], &[]);
        assert!(text.ends_with("\nrun '/target/maps' 'guard::'\nfinish\n"), "{text}");
    }

    #[test]
    fn the_users_words_replace_the_part_and_stay_words() {
        let text = script(&[test(&["guard::"])], &["it's".to_owned(), "--exact".to_owned()]);
        assert!(text.contains(r"run '/target/maps' 'it'\''s' '--exact'"), "{text}");
    }

    #[test]
    fn a_program_without_a_part_runs_only_when_the_user_chooses() {
        assert!(!script(&[test(&[])], &[]).contains("/target/maps"));
        assert!(script(&[test(&[])], &["guard".to_owned()]).contains("run '/target/maps' 'guard'"));
    }

    #[test]
    fn every_part_belongs_to_a_test_target() {
        let metadata = Workspace::locate().unwrap().metadata().unwrap();
        for (target, _) in PARTS {
            let packages = metadata.workspace_packages();
            let mut targets = packages.iter().flat_map(|package| &package.targets);
            assert!(targets.any(|it| it.is_test() && it.name == *target), "{target}");
        }
    }
}
