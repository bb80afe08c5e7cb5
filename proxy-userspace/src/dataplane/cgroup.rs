//! The cgroup that the programs are attached to: finding it, and whether this process is inside.
//!
//! Must not know what is attached.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Component, Path, PathBuf},
};

use nix::sys::statfs::{FsType, fstatfs};
use thiserror::Error;

/// `CGROUP2_SUPER_MAGIC` (linux/magic.h).
const CGROUP2_MAGIC: FsType = FsType(libc::CGROUP2_SUPER_MAGIC);
const MOUNTS: &str = "/proc/self/mountinfo";
const MEMBERSHIP: &str = "/proc/self/cgroup";

/// Why there is no cgroup to attach to.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// None is mounted.
    #[error(
        "no cgroup2 file system is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified) or name its \
         directory with --cgroup"
    )]
    NotMounted,
    /// The directory named is of another file system.
    #[error("{path} is not in a cgroup2 file system: name the cgroup2 root with --cgroup")]
    NotCgroup2 {
        /// The directory.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An open cgroup directory.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    directory: File,
    id: u64,
}

impl Cgroup {
    /// Opens the configured directory, or the root that is mounted.
    pub(super) fn open(configured: Option<&Path>) -> Result<Self, CgroupError> {
        let path = match configured {
            Some(path) => path.to_owned(),
            None => find_root(&read(Path::new(MOUNTS))?).ok_or(CgroupError::NotMounted)?,
        };
        let failed = |source| CgroupError::Read { path: path.clone(), source };
        let directory = File::open(&path).map_err(failed)?;
        let kind = fstatfs(&directory).map_err(|errno| failed(errno.into()))?;
        if kind.filesystem_type() != CGROUP2_MAGIC {
            return Err(CgroupError::NotCgroup2 { path });
        }
        // The inode number of a cgroup directory is the cgroup's id (kernfs, 64-bit kernels).
        let id = directory.metadata().map_err(failed)?.ino();
        Ok(Self { path, directory, id })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel's id of it.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Whether this process is in it or below it. "No" when that cannot be told.
    pub(super) fn contains_self(&self) -> Result<bool, CgroupError> {
        let mounts = read(Path::new(MOUNTS))?;
        let membership = read(Path::new(MEMBERSHIP))?;
        let inside = own_path(&membership).zip(namespace_path(&mounts, &self.path));
        Ok(inside.is_some_and(|(own, attached)| is_below(&own, &attached)))
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::Read { path: path.to_owned(), source })
}

/// One cgroup2 line of mountinfo: what is mounted, as this process's cgroup namespace names it, and where.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    root: PathBuf,
    point: PathBuf,
}

/// The cgroup2 mounts (proc_pid_mountinfo(5): fields 4 and 5, then optional fields up to "-", then the type).
fn cgroup2_mounts(mountinfo: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let mount = Mount { root: unescape(fields.next()?), point: unescape(fields.next()?) };
        (after.split(' ').next()? == "cgroup2").then_some(mount)
    };
    mountinfo.lines().filter_map(parse).collect()
}

/// mountinfo writes blank, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut text = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => text.push(char::from(code)),
            None => text.push('\\'),
        }
        rest = if code.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    text.push_str(rest);
    text.into()
}

/// The mount that shows the highest cgroup: the whole tree, or everything above this namespace (`/..`), rather than
/// some part of it that a container sees. Among equals the shortest path.
fn find_root(mountinfo: &str) -> Option<PathBuf> {
    cgroup2_mounts(mountinfo).into_iter().min_by_key(rank).map(|mount| mount.point)
}

/// Least for the best: each `..` goes one up, each name one down.
fn rank(mount: &Mount) -> (isize, usize) {
    let step = |part: Component<'_>| match part {
        Component::ParentDir => -1,
        Component::Normal(_) => 1,
        Component::RootDir | Component::CurDir | Component::Prefix(_) => 0,
    };
    (mount.root.components().map(step).sum(), mount.point.components().count())
}

/// Whether a cgroup path relative to our namespace only goes up, so that we are in it.
fn is_ancestor(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::RootDir | Component::ParentDir))
}

/// Our own cgroup: the line of hierarchy 0 (on hybrid systems there are others).
fn own_path(membership: &str) -> Option<PathBuf> {
    membership.lines().find_map(|line| line.strip_prefix("0::")).map(PathBuf::from)
}

/// The path of a cgroup directory as our cgroup namespace names it.
fn namespace_path(mountinfo: &str, directory: &Path) -> Option<PathBuf> {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let below = |mount: Mount| Some(mount.root.join(directory.strip_prefix(&mount.point).ok()?));
    let mut mounts = cgroup2_mounts(mountinfo);
    mounts.sort_by_key(|mount| std::cmp::Reverse(mount.point.components().count()));
    mounts.into_iter().find_map(below)
}

fn is_below(own: &Path, attached: &Path) -> bool {
    is_ancestor(attached) || own.starts_with(attached)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:7 master:2 - cgroup2 cgroup2 rw
";
    const CONTAINER: &str = "\
700 600 0:25 /../../.. /run/host/cgroup\\040root rw - cgroup2 cgroup2 rw
701 600 0:25 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate
702 600 0:25 /kubepods/pod1 /mnt ro - cgroup2 cgroup rw
";

    #[test]
    fn the_unified_mount_of_a_hybrid_system_is_found() {
        assert_eq!(find_root(HYBRID), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_root("1 0 0:1 / / rw - ext4 /dev/a rw\nnonsense\n"), None);
    }

    #[test]
    fn escaped_mount_points_are_read() {
        let mounts = cgroup2_mounts(CONTAINER);
        assert_eq!(mounts[0].point, Path::new("/run/host/cgroup root"));
        assert_eq!(unescape("a\\134b\\q\\"), Path::new("a\\b\\q\\"));
    }

    #[test]
    fn a_part_of_the_tree_is_not_taken_for_the_root() {
        assert_eq!(find_root(CONTAINER), Some("/run/host/cgroup root".into()));
        let without_host: String = CONTAINER.lines().skip(1).collect::<Vec<_>>().join("\n");
        assert_eq!(find_root(&without_host), Some("/sys/fs/cgroup".into()));
        let only_part = "702 600 0:25 /kubepods/pod1 /mnt ro - cgroup2 cgroup rw\n";
        assert_eq!(find_root(only_part), Some("/mnt".into()));
    }

    #[test]
    fn membership_is_told_across_namespaces() {
        let own = own_path("9:name=systemd:/x\n4:memory:/other\n0::/kubepods/pod1/agent\n").unwrap();
        assert_eq!(own, Path::new("/kubepods/pod1/agent"));
        let attached = |directory: &str| namespace_path(CONTAINER, Path::new(directory)).unwrap();
        assert!(is_below(&own, &attached("/run/host/cgroup root")));
        assert!(is_below(&own, &attached("/sys/fs/cgroup")));
        assert!(is_below(&own, &attached("/mnt")));
        assert!(!is_below(&own, &attached("/mnt/child")));
        assert!(!is_below(&own, &attached("/run/host/cgroup root/kubepods")), "cannot be told: no");
    }
}
