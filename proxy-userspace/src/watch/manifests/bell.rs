//! Rings when something happens in a folder: inotify(7), awaited.
//!
//! Must not know what happened: whoever hears it has to look.

use std::{
    ffi::OsString,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::{Path, PathBuf},
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// Everything that can change what a reader of the folder's files finds.
const EVENTS: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// The bell of one folder.
pub(crate) struct Bell {
    folder: PathBuf,
    /// `None`: the system gives no inotify instance; it never rings.
    inotify: Option<AsyncFd<Instance>>,
}

struct Instance(Inotify);

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Bell {
    /// For the folder `path`, or the folder of the file `path`.
    pub(crate) fn new(path: &Path) -> Self {
        let folder = match path.parent() {
            _ if path.is_dir() => path.to_owned(),
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => path.to_owned(),
        };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(std::io::Error::from)
            .and_then(|inotify| {
                // SAFETY: the descriptor is owned by the instance, always the same, and closed only with it.
                Ok(unsafe { AsyncFd::register(Instance(inotify)) }?)
            })
            .inspect_err(|error| tracing::warn!(%error, "no inotify: changes are noticed by looking only"))
            .ok();
        let bell = Self { folder, inotify };
        bell.renew();
        bell
    }

    /// Hangs the bell up again: the folder may be another one than before. Does nothing if it is not.
    pub(crate) fn renew(&self) {
        if let Some(inotify) = &self.inotify
            && let Err(error) = inotify.get_ref().0.add_watch(&self.folder, EVENTS)
        {
            tracing::debug!(folder = %self.folder.display(), %error, "cannot watch the folder now");
        }
    }

    /// Returns after something happened since the last time. Cancel by dropping it.
    pub(crate) async fn rings(&self) {
        self.removals().await;
    }

    /// Like [`Bell::rings`], with the names of the files that were removed. Some are missing if more happened at once than
    /// the system remembers.
    pub(crate) async fn removals(&self) -> Vec<OsString> {
        let Some(inotify) = &self.inotify else { return std::future::pending().await };
        let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
        let mut removed = Vec::new();
        while let Ok(events) = ready.get_inner().0.read_events() {
            let of_removals = events.into_iter().filter(|it| it.mask.contains(AddWatchFlags::IN_DELETE));
            removed.extend(of_removals.filter_map(|event| event.name));
        }
        ready.clear_ready();
        removed
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(2);
    const QUIET: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn it_rings_for_a_write_a_rename_and_a_removal_and_not_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let bell = Bell::new(folder.path());
        timeout(QUIET, bell.rings()).await.unwrap_err();
        fs::write(&a, "x").unwrap();
        timeout(SOON, bell.rings()).await.unwrap();
        fs::rename(&a, &b).unwrap();
        assert!(timeout(SOON, bell.removals()).await.unwrap().is_empty());
        fs::remove_file(&b).unwrap();
        fs::write(&b, "another").unwrap();
        assert_eq!(timeout(SOON, bell.removals()).await.unwrap(), ["b"]);
        timeout(QUIET, bell.rings()).await.unwrap_err();
    }

    #[tokio::test]
    async fn renewed_it_rings_for_a_folder_that_replaced_the_first() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("manifests");
        fs::create_dir(&folder).unwrap();
        let bell = Bell::new(&folder);
        fs::remove_dir(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        timeout(SOON, bell.rings()).await.unwrap();
        bell.renew();
        fs::write(folder.join("a"), "x").unwrap();
        timeout(SOON, bell.rings()).await.unwrap();
    }
}
