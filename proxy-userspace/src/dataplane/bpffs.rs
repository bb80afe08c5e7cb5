//! The bpf file system at its usual place: whether it is there, and mounting it, also onto the host from a container.
//!
//! Must not know what is pinned on it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns},
    sys::statfs::{FsType, statfs},
};

use super::pins::{PinsError, failed};

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPFFS_MAGIC: FsType = FsType(libc::BPF_FS_MAGIC);
/// The one place where mounting a bpffs is nobody else's business.
pub(super) const BPFFS: &str = "/sys/fs/bpf";
/// With the host's process ids, the host's mounts; in any other container our own.
const FIRST: &str = "/proc/1/ns/mnt";
const OWN: &str = "/proc/thread-self/ns/mnt";

/// Makes sure that there is a bpffs on `/sys/fs/bpf`, in the mount namespace of process 1 if there is none in ours.
/// Returns whether one was mounted.
///
/// The calling thread may be in the other namespace afterwards. To go there its process must have no other thread.
///
/// # Errors
/// The namespace cannot be entered, or mounting failed.
pub fn mount_bpffs() -> Result<bool, PinsError> {
    if is_bpffs(Path::new(BPFFS))? {
        return Ok(false);
    }
    enter_first().map_err(PinsError::Enter)?;
    if is_bpffs(Path::new(BPFFS))? {
        return Ok(false);
    }
    mount_here()?;
    Ok(true)
}

fn enter_first() -> io::Result<()> {
    let first = File::open(FIRST)?;
    if is_another(&first.metadata()?)? {
        setns(first, CloneFlags::CLONE_NEWNS)?;
    }
    Ok(())
}

/// Whether a mount namespace is not ours.
fn is_another(namespace: &fs::Metadata) -> io::Result<bool> {
    let own = fs::metadata(OWN)?;
    Ok((namespace.dev(), namespace.ino()) != (own.dev(), own.ino()))
}

/// Mounts one for a process that stays where it is. In a container nobody else would see it, and what is pinned on it
/// would go with the container: refused, as far as can be seen.
///
/// # Errors
/// Our mounts are not those of process 1, or mounting failed.
pub(super) fn mount_for_good() -> Result<(), PinsError> {
    let first = fs::metadata(FIRST);
    if first.and_then(|first| is_another(&first)).unwrap_or(false) {
        return Err(PinsError::Unmounted);
    }
    mount_here()
}

/// Mounts one in our own mount namespace.
fn mount_here() -> Result<(), PinsError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|errno| PinsError::Mount(errno.into()))
}

/// Whether the directory, or the nearest one above it that exists, is on a bpffs.
pub(super) fn is_on_bpffs(directory: &Path) -> Result<bool, PinsError> {
    let Some(existing) = directory.ancestors().find(|path| path.exists()) else {
        return Ok(false);
    };
    is_bpffs(existing)
}

fn is_bpffs(directory: &Path) -> Result<bool, PinsError> {
    let status = statfs(directory).map_err(|errno| failed("examine", directory)(errno.into()))?;
    Ok(status.filesystem_type() == BPFFS_MAGIC)
}
