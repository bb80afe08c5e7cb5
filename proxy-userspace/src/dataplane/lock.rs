//! The locks that keep a second agent away from the same control socket and from the same maps.
//!
//! The lock file beside the control socket holds the agent's process id. The pin directory itself is locked besides: an
//! agent in a container has a run folder of its own and still shares the node's maps. Two agents with pins of their own
//! would still take each other's programs off the same pods and sockets, so there is a lock on the cgroup and on the network
//! namespace, too. Must not know what the agent does with them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    iter,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};
use thiserror::Error;
use tracing::warn;

/// Somebody who only asks who holds the lock has it for a moment: try again before believing in another agent.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);
/// The file of the network namespace is the same for everybody in it, and goes with it.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// Why the lock was not obtained or not read.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another agent has it.
    #[error(
        "another agent ({holder}) holds {path}: stop it first, or give this one its own --run-dir and --pin-dir"
    )]
    Held {
        /// The lock file or the pin directory.
        path: PathBuf,
        /// "pid 123", or that it is unknown.
        holder: String,
    },
    /// Another agent works there, with pins of its own.
    #[error(
        "another agent ({holder}) works on {what}: each would take the other's programs off pods and sockets; stop one of \
         them first"
    )]
    Occupied {
        /// The cgroup or the network namespace.
        what: String,
        /// Process id and what it has locked besides, as far as this process may know.
        holder: String,
    },
    /// The file or directory could not be used.
    #[error("cannot lock {path}")]
    File {
        /// The lock file or the pin directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Held until dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock and leaves this process's id in the file.
    pub(super) fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::File { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        match lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                write_pid(&mut file).map_err(failed)?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                Err(LockError::Held { path: path.to_owned(), holder: describe(read_pid(&mut file)) })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Takes the lock on what `path` leads to, known to people as `what`.
    /// `None`: a process of another user holds it, which can be no agent.
    fn take_place(path: &Path, what: &str) -> Result<Option<Self>, LockError> {
        let failed = |source| LockError::File { path: path.to_owned(), source };
        match lock(File::open(path).map_err(failed)?, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => Ok(Some(Self { _file: locked })),
            Err((place, Errno::EWOULDBLOCK)) => {
                let pid = owner(&place);
                if let Some(pid) = pid.filter(|pid| is_of_another_user(*pid)) {
                    warn!(pid, "a process that is no agent has a lock on {what}; it is ignored");
                    return Ok(None);
                }
                let besides = pid.map(|pid| locked_by(pid, &place)).unwrap_or_default();
                let besides = besides.iter().map(|path| path.display().to_string());
                let holder = iter::once(describe(pid)).chain(besides).collect::<Vec<_>>().join(", ");
                Err(LockError::Occupied { what: what.to_owned(), holder })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Takes the lock on a pin directory, which must exist. Whoever writes there has it, from whatever container.
    pub(super) fn take_directory(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::File { path: path.to_owned(), source };
        let directory = File::open(path).map_err(failed)?;
        let locked = match lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => locked,
            Err((directory, Errno::EWOULDBLOCK)) => {
                let holder = describe(owner(&directory));
                return Err(LockError::Held { path: path.to_owned(), holder });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        // A cleanup may have removed it between the two calls: the lock on what is gone protects nothing.
        let (own, now) = (locked.metadata().map_err(failed)?, fs::metadata(path).map_err(failed)?);
        if (own.dev(), own.ino()) != (now.dev(), now.ino()) {
            return Err(failed(io::Error::other("it was replaced meanwhile")));
        }
        Ok(Self { _file: locked })
    }
}

/// Takes the locks of the one agent that works on a cgroup and on this thread's network namespace.
pub(super) fn take_node(cgroup: &Path) -> Result<Vec<Lock>, LockError> {
    take_places(cgroup, Path::new(OWN_NETNS))
}

fn take_places(cgroup: &Path, netns: &Path) -> Result<Vec<Lock>, LockError> {
    let what = format!("the cgroup {}", cgroup.display());
    let places = [Lock::take_place(cgroup, &what)?, Lock::take_place(netns, "this network namespace")?];
    Ok(places.into_iter().flatten().collect())
}

/// Anybody may lock what anybody may open.
fn is_of_another_user(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() != geteuid().as_raw())
}

/// The process id of the agent that holds the lock; 0 if it left no id.
///
/// # Errors
/// The file exists and cannot be read.
pub fn lock_holder(path: &Path) -> Result<Option<u32>, LockError> {
    let failed = |source| LockError::File { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(None),
        Err((mut file, Errno::EWOULDBLOCK)) => Ok(Some(read_pid(&mut file).unwrap_or(0))),
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

fn lock(mut file: File, how: FlockArg) -> Result<Flock<File>, (File, Errno)> {
    for _ in 1..TRIES {
        match Flock::lock(file, how) {
            Err((returned, Errno::EWOULDBLOCK)) => file = returned,
            result => return result,
        }
        thread::sleep(PAUSE);
    }
    Flock::lock(file, how)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whoever has a directory locked, which holds no process id, as far as this process can see it.
fn owner(directory: &File) -> Option<u32> {
    let metadata = directory.metadata().ok()?;
    owner_in(&fs::read_to_string("/proc/locks").ok()?, metadata.dev(), metadata.ino())
}

/// What else a process has locked: of an agent its lock file and its pin directory.
fn locked_by(pid: u32, place: &File) -> Vec<PathBuf> {
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return Vec::new() };
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let known = place.metadata().map(id).ok();
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = files
        .filter_map(|file| {
            let path = file.ok()?.path();
            let (device, inode) = fs::metadata(&path).map(id).ok().filter(|id| Some(*id) != known)?;
            let name = fs::read_link(&path).ok().filter(|name| name.is_absolute())?;
            (owner_in(&locks, device, inode) == Some(pid)).then_some(name)
        })
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

/// Finds `1: FLOCK  ADVISORY  WRITE 123 00:1f:42 0 EOF` (`proc_locks(5)`): process, then device and inode. A process
/// that this one's namespace does not show is absent or has no positive id.
fn owner_in(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", libc::major(device), libc::minor(device));
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid, locked) = (words.next()?, words.nth(2)?, words.next()?);
        (kind == "FLOCK" && locked == file).then(|| pid.parse().ok()).flatten().filter(|pid| *pid != 0)
    })
}

fn describe(pid: Option<u32>) -> String {
    pid.map_or_else(|| "process id unknown".to_owned(), |pid| format!("pid {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_who_holds_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/agent.lock");
        assert_eq!(lock_holder(&path).unwrap(), None);
        let held = Lock::take(&path).unwrap();
        let error = Lock::take(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(error.contains("--run-dir and --pin-dir"), "{error}");
        assert_eq!(lock_holder(&path).unwrap(), Some(std::process::id()));
        drop(held);
        assert_eq!(lock_holder(&path).unwrap(), None);
        Lock::take(&path).unwrap();
    }

    #[test]
    fn a_directory_is_locked_once_until_it_is_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let held = Lock::take_directory(directory.path()).unwrap();
        let error = Lock::take_directory(directory.path()).unwrap_err();
        assert!(matches!(error, LockError::Held { .. }), "{error}");
        assert!(error.to_string().contains("--pin-dir"), "{error}");
        drop(held);
        Lock::take_directory(directory.path()).unwrap();
    }

    #[test]
    fn a_second_agent_with_pins_of_its_own_is_told_who_works_on_the_cgroup_or_in_the_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let [cgroup, netns, other] = ["cgroup", "netns", "other"].map(place);
        let run = Lock::take(&directory.path().join("run/agent.lock")).unwrap();
        let held = take_places(&cgroup, &netns).unwrap();
        for (cgroup, netns, what) in
            [(&cgroup, &other, "the cgroup /"), (&other, &netns, "this network namespace")]
        {
            let error = take_places(cgroup, netns).unwrap_err().to_string();
            assert!(
                error.contains(what) && error.contains(&format!("pid {}", std::process::id())),
                "{error}"
            );
            assert!(error.contains("run/agent.lock"), "{error}");
        }
        let free = place("free");
        take_places(&other, &free).unwrap();
        drop((held, run));
        take_places(&cgroup, &netns).unwrap();
    }

    #[test]
    fn the_owner_of_a_lock_is_found_by_device_and_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:1f:42 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 00:1f:43 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 00:1f:42 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 14 00:1f:42 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 0 103:02:7 0 EOF\n";
        assert_eq!(owner_in(locks, libc::makedev(0, 0x1f), 42), Some(14));
        assert_eq!(owner_in(locks, libc::makedev(0x103, 2), 7), None, "a process of another namespace");
        assert_eq!(owner_in(locks, libc::makedev(0, 0x1f), 44), None);
        assert_eq!(owner_in("nonsense\n", 0, 0), None);
    }
}
