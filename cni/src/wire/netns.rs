//! Network namespaces of pods: whose is it, and work inside it.
//!
//! The thread that asks goes in and comes back: one made for the purpose would cost the plugin two changes of thread for
//! each visit, milliseconds on a busy node. Must not know what the work is.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::{FsType, fstatfs},
};
use proxy_kernel::netns_cookie;

use super::WireError;
use crate::record::NetnsId;

/// `NSFS_MAGIC` (linux/magic.h): what namespace files are made of.
const NSFS_MAGIC: u32 = 0x6e73_6673;
/// The namespace of the thread that opens it.
const OWN: &str = "/proc/thread-self/ns/net";
/// Pause between attempts to come back.
const RETRY: Duration = Duration::from_millis(1);

/// A namespace that was opened, so that it lives on, whatever becomes of its path.
#[derive(Debug)]
pub(super) struct Namespace {
    path: PathBuf,
    file: File,
    /// Which one it is.
    pub(super) id: NetnsId,
}

impl Namespace {
    /// Opens the one at this path. `None`: nothing, or something that is no network namespace, such as the plain file
    /// that an unmounted namespace leaves behind.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, WireError> {
        let cannot = |source| WireError::Enter { path: path.to_owned(), source };
        let Some(file) = open(path).map_err(cannot)? else { return Ok(None) };
        match inside(&file, netns_cookie) {
            Ok(cookie) => {
                let metadata = file.metadata().map_err(cannot)?;
                let id = NetnsId {
                    device: metadata.dev(),
                    inode: metadata.ino(),
                    cookie: cookie.map_err(cannot)?,
                };
                Ok(Some(Self { path: path.to_owned(), file, id }))
            }
            // A namespace of another kind.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            Err(error) => Err(cannot(error)),
        }
    }
}

impl Namespace {
    /// Works inside it.
    pub(super) fn inside<T>(&self, work: impl FnOnce() -> T) -> Result<T, WireError> {
        inside(&self.file, work).map_err(|source| WireError::Enter { path: self.path.clone(), source })
    }

    /// For messages that name it.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What was removed is `None`, and so is what is no namespace at all.
fn open(path: &Path) -> io::Result<Option<File>> {
    // Whatever a wrong path leads to, opening it must not wait.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let kind = fstatfs(&file)?.filesystem_type();
    Ok((kind == FsType(NSFS_MAGIC.into())).then_some(file))
}

/// `ESRCH`: a namespace of a process that ended, by its path below `/proc`.
fn is_gone(error: &io::Error) -> bool {
    let numbers = [libc::ENOENT, libc::ENOTDIR, libc::ESRCH, libc::ENXIO, libc::ELOOP];
    error.raw_os_error().is_some_and(|number| numbers.contains(&number))
}

/// Works inside a namespace; the thread is back in its own when this returns.
///
/// # Errors
/// It cannot be entered.
pub(super) fn inside<T>(namespace: &File, work: impl FnOnce() -> T) -> io::Result<T> {
    let back = Back(File::open(OWN)?);
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
    let result = work();
    drop(back);
    Ok(result)
}

/// The way back, also when the work breaks down.
struct Back(File);

impl Drop for Back {
    /// Refused only for want of memory, as the thread came from there: it waits, because whatever it did next it would
    /// do to the pod.
    fn drop(&mut self) {
        while setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).is_err() {
            thread::sleep(RETRY);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic;

    use nix::sched::unshare;

    use super::*;

    #[test]
    fn what_is_no_network_namespace_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain");
        File::create(&plain).unwrap();
        for path in [plain.join("below"), plain, folder.path().join("nothing"), folder.path().to_owned()] {
            assert!(open(&path).unwrap().is_none(), "{}", path.display());
        }
        assert!(open(Path::new("/proc/self/ns/net")).unwrap().is_some());
    }

    #[test]
    #[ignore = "needs root: enters namespaces"]
    fn a_thread_comes_back_also_when_the_work_breaks_down() {
        let entered = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open(OWN).unwrap()
        };
        let other = thread::spawn(entered).join().unwrap();
        let own = netns_cookie().unwrap();
        assert_ne!(inside(&other, || netns_cookie().unwrap()).unwrap(), own);
        assert_eq!(netns_cookie().unwrap(), own);
        let broken = panic::catch_unwind(|| inside(&other, || panic!("broken")));
        assert!(broken.is_err());
        assert_eq!(netns_cookie().unwrap(), own);
    }

    #[test]
    #[ignore = "needs root: enters namespaces"]
    fn a_namespace_of_another_kind_is_none_and_ones_own_is_known() {
        assert!(Namespace::open(Path::new("/proc/self/ns/uts")).unwrap().is_none());
        let own = Namespace::open(Path::new("/proc/self/ns/net")).unwrap().unwrap();
        assert_eq!(own.id.cookie, netns_cookie().unwrap());
    }
}
