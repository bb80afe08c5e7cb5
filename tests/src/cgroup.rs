//! A cgroup of the test's own to attach programs to, so that nothing else on the machine meets them.
//!
//! Must not know: what is attached.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A cgroup (version 2). Dropping it moves this process back to where it came from and removes the group.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    home: PathBuf,
}

impl Cgroup {
    /// Makes a group below the cgroup2 root.
    ///
    /// # Errors
    /// No cgroup2 is mounted, or not root.
    pub fn new() -> Result<Self> {
        let root = root()?;
        let home = root.join(own()?.trim_start_matches('/'));
        let name = format!("sheave-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = root.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, home })
    }

    /// Makes a group below this one that single threads of a process in this one may join.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn threaded(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let group = Self { path, home: self.path.clone() };
        fs::write(group.path.join("cgroup.type"), "threaded")?;
        Ok(group)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves this process into the group: all sockets that it makes from now on meet the group's programs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn join(&self) -> Result<()> {
        move_to(&self.path)
    }

    /// Moves the calling thread into the group, one that [`Self::threaded`] made or its parent.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn join_thread(&self) -> Result<()> {
        let threads = self.path.join("cgroup.threads");
        fs::write(&threads, "0").with_context(|| threads.display().to_string())
    }

    /// Moves this process back to where it came from.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn leave(&self) -> Result<()> {
        move_to(&self.home)
    }

    /// Lets a program start inside the group.
    pub fn place(&self, command: &mut Command) {
        use std::os::unix::process::CommandExt as _;
        let procs = self.path.join("cgroup.procs");
        // SAFETY: between fork and exec only open, write and close are called; "0" stands for the writer itself.
        unsafe {
            command.pre_exec(move || fs::write(&procs, "0"));
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.leave();
        // A killed child may need a moment to leave the group; a shell that somebody opened in it is moved out.
        for _ in 0..100 {
            let left = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
            for pid in left.lines() {
                let _ = fs::write(self.home.join("cgroup.procs"), pid);
            }
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        eprintln!("cannot remove {}", self.path.display());
    }
}

fn move_to(group: &Path) -> Result<()> {
    let procs = group.join("cgroup.procs");
    fs::write(&procs, std::process::id().to_string()).with_context(|| procs.display().to_string())
}

/// The mount point of cgroup2, alone or beside version 1.
fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find_map(|words| match words.as_slice() {
            [_, path, "cgroup2", ..] => Some(PathBuf::from(path)),
            _ => None,
        })
        .context("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

/// The cgroup2 of this process.
fn own() -> Result<String> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    Ok(own.context("this process is in no cgroup2")?.to_owned())
}
