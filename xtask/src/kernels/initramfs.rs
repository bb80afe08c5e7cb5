//! The file system that a kernel under test starts with, as one cpio archive: programs with the libraries they need,
//! at the paths they have here, so that nothing in the tests has to know where it runs.
//!
//! Must not know: which tests there are.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// Folders that the first process mounts something on, or that programs expect.
const FOLDERS: [&str; 8] = ["bin", "dev", "etc", "proc", "run", "sbin", "sys", "tmp"];

/// A folder that becomes the archive.
#[derive(Debug)]
pub(super) struct Initramfs {
    root: PathBuf,
}

impl Initramfs {
    /// An empty one in place of whatever is at `root`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(super) fn new(root: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root).with_context(|| format!("cannot remove {}", root.display()))?;
        }
        for folder in FOLDERS {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(Self { root: root.to_path_buf() })
    }

    /// Puts a program and its libraries at the path it has here.
    ///
    /// # Errors
    /// It is missing, or a copy fails.
    pub(super) fn program(&self, program: &Path) -> Result<()> {
        self.place(program, program)?;
        self.libraries(program)
    }

    /// Like [`Self::program`], without what only a debugger reads: the archive is the machine's memory.
    ///
    /// # Errors
    /// As [`Self::program`], or `strip` fails.
    pub(super) fn stripped(&self, program: &Path) -> Result<()> {
        let target = self.inside(program)?;
        process::run(Command::new("strip").arg("-g").arg("-o").arg(target).arg(program))?;
        self.libraries(program)
    }

    /// Copies a folder with all that is in it, to `target` inside.
    ///
    /// # Errors
    /// It is missing, or a copy fails.
    pub(super) fn folder(&self, folder: &Path, target: &Path) -> Result<()> {
        let inside = self.inside(target)?;
        process::run(Command::new("cp").arg("-aT").arg(folder).arg(inside))
    }

    /// Writes an executable text.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn script(&self, path: &Path, text: &str) -> Result<()> {
        let file = self.inside(path)?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// There is something at the path already.
    pub(super) fn link(&self, path: &Path, target: &Path) -> Result<()> {
        let link = self.inside(path)?;
        symlink(target, &link).with_context(|| format!("cannot make {}", link.display()))
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// `cpio` fails.
    pub(super) fn pack(&self, archive: &Path) -> Result<()> {
        let output =
            fs::File::create(archive).with_context(|| format!("cannot make {}", archive.display()))?;
        let mut find = Command::new("find");
        let mut found = find.arg(".").current_dir(&self.root).stdout(Stdio::piped()).spawn()?;
        let names = found.stdout.take().context("no output of find")?;
        let mut cpio = Command::new("cpio");
        cpio.args(["--create", "--format=newc", "--quiet"]).current_dir(&self.root).stdin(names);
        process::run(cpio.stdout(output))?;
        ensure!(found.wait()?.success(), "find failed in {}", self.root.display());
        Ok(())
    }

    fn libraries(&self, program: &Path) -> Result<()> {
        // It fails for a static program, which needs none.
        let answer = process::probe(Path::new("ldd"), &[&program.to_string_lossy()]).unwrap_or_default();
        libraries(&answer).iter().try_for_each(|library| self.place(library, library))
    }

    /// Copies a file, unless there is one already.
    ///
    /// # Errors
    /// It is missing, or the copy fails.
    pub(super) fn place(&self, from: &Path, target: &Path) -> Result<()> {
        let inside = self.inside(target)?;
        if !inside.exists() {
            fs::copy(from, &inside).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        Ok(())
    }

    /// Where a path of the machine lies here; its folder is there afterwards.
    fn inside(&self, path: &Path) -> Result<PathBuf> {
        let Ok(relative) = path.strip_prefix("/") else { bail!("{} is not absolute", path.display()) };
        let inside = self.root.join(relative);
        let folder = inside.parent().context("no folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(inside)
    }
}

/// The files in the answer of `ldd`.
fn libraries(answer: &str) -> Vec<PathBuf> {
    let words = answer.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_a_program_and_its_interpreter_are_found() {
        let answer =
            "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld-linux.so.2 (0x3)\n";
        assert_eq!(libraries(answer), ["/lib/libc.so.6", "/lib64/ld-linux.so.2"].map(PathBuf::from));
    }
}
