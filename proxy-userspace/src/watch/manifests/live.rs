//! The source "manifests": reads a folder again whenever it changes.
//!
//! inotify tells of changes at once; looking at the files' stamps every two seconds finds what it cannot see (the
//! target of a link, another machine's write to a network file system) and replaces it where it is not to be had.
//! Must not know what is in a manifest.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use proxy_core::{
    model::{Event, Source},
    nodes::Nodes,
};
use tokio::{sync::mpsc, task, time::sleep};

use super::{
    Content, Manifests, Problem,
    bell::Bell,
    files::{self, Stamp, Stamps},
};
use crate::watch::{NodesSender, WatchError, WatchStatus};

/// Files must have stayed the same for this time before they are read.
const SETTLE: Duration = Duration::from_millis(20);
/// Files that do not settle, or stay empty, are taken as they are after so many attempts: half a second.
const SETTLE_ATTEMPTS: u32 = 25;
/// How often to look without being told.
const POLL: Duration = Duration::from_secs(2);
/// All three come from the same files.
const SOURCES: [Source; 3] = [Source::Services, Source::Slices, Source::Node];

/// Who is told.
pub(in crate::watch) struct Listeners {
    /// The agent's own Node.
    pub(in crate::watch) node_name: String,
    /// Gets everything but other Nodes.
    pub(in crate::watch) tx: mpsc::Sender<Event>,
    /// Gets all Nodes.
    pub(in crate::watch) nodes: Option<NodesSender>,
}

/// See [`crate::watch::run`]. A file with a mistake keeps the content it had before; a file that is gone takes its
/// objects with it; while the folder itself cannot be read everything stays as it was. A file with a mistake that had no
/// content before, because it was broken from the start, gives what can be read of it, unless something is `inherited`:
/// then the folder waits for it.
pub(in crate::watch) async fn run(
    path: PathBuf,
    inherited: bool,
    listeners: Listeners,
    status: Arc<WatchStatus>,
) -> Result<(), WatchError> {
    let stamps =
        files::stamps(&path).map_err(|source| WatchError::Manifests { path: path.clone(), source })?;
    let bell = Bell::new(&path);
    let mut folder = Folder { path, files: BTreeMap::new(), incomplete: inherited };
    let mut teller =
        Teller { listeners, status, told: [const { None }; 3], reported: Vec::new(), complaint: None };
    folder.read(stamps).await;
    loop {
        let manifests = folder.manifests();
        if folder.waits() {
            teller.wait(manifests.problems);
        } else if teller.tell(manifests).await.is_err() {
            return Ok(());
        }
        loop {
            bell.renew();
            tokio::select! {
                () = teller.listeners.tx.closed() => return Ok(()),
                () = bell.rings() => {}
                () = sleep(POLL) => {}
            }
            match folder.changed().await {
                Ok(None) => teller.current(),
                Ok(Some(stamps)) => {
                    folder.read(stamps).await;
                    break;
                }
                Err(error) => teller.complain(&folder.path, &error),
            }
        }
    }
}

/// The folder as it was read last.
struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// Objects that are served already may be in files that could not be read yet.
    incomplete: bool,
}

struct File {
    stamp: Option<Stamp>,
    /// It was read without a mistake once.
    whole: bool,
    /// The problems of the file as it is, and the objects of the last time it had none.
    content: Content,
}

impl Folder {
    /// The stamps of the files once they have settled, if they are not those that were read.
    async fn changed(&self) -> io::Result<Option<Stamps>> {
        let mut stamps = self.stamps().await?;
        for _ in 0..SETTLE_ATTEMPTS {
            sleep(SETTLE).await;
            let again = self.stamps().await?;
            let settled = again == stamps && !self.is_emptied(&again);
            stamps = again;
            if settled {
                break;
            }
        }
        let known = self.files.iter().map(|(path, file)| (path, &file.stamp));
        Ok(if stamps.iter().eq(known) { None } else { Some(stamps) })
    }

    async fn stamps(&self) -> io::Result<Stamps> {
        let path = self.path.clone();
        blocking(move || files::stamps(&path)).await?
    }

    /// A file that had something in it has nothing now: most likely somebody is about to write it.
    fn is_emptied(&self, stamps: &Stamps) -> bool {
        let empty = |stamp: &Option<Stamp>| stamp.is_some_and(|stamp| stamp.is_empty());
        stamps
            .iter()
            .filter(|(_, stamp)| empty(stamp))
            .any(|(path, _)| self.files.get(path).is_some_and(|file| !empty(&file.stamp)))
    }

    /// Reads the files whose stamps differ.
    async fn read(&mut self, stamps: Stamps) {
        self.files.retain(|path, _| stamps.contains_key(path));
        for (path, stamp) in stamps {
            if self.files.get(&path).is_some_and(|file| file.stamp == stamp) {
                continue;
            }
            let file = path.clone();
            // Without a runtime to read on, the stamp stays old and the next look comes back to it.
            let Ok(content) = blocking(move || files::read(&file)).await else { continue };
            self.take(path, stamp, content);
        }
    }

    fn take(&mut self, path: PathBuf, stamp: Option<Stamp>, content: Content) {
        match self.files.get_mut(&path) {
            Some(file) if content.is_broken() && file.whole => {
                tracing::warn!(file = %path.display(), "keeping the last good content of this file");
                file.stamp = stamp;
                file.content.problems = content.problems;
            }
            _ => drop(self.files.insert(path, File { stamp, whole: !content.is_broken(), content })),
        }
    }

    /// Whether what is inherited must stay as it is; never again after it need not.
    fn waits(&mut self) -> bool {
        self.incomplete &= self.files.values().any(|file| !file.whole);
        self.incomplete
    }

    fn manifests(&self) -> Manifests {
        let names: Vec<_> = self.files.keys().map(|path| path.display().to_string()).collect();
        let contents = self.files.values().map(|file| &file.content);
        Manifests::merge(names.iter().map(String::as_str).zip(contents))
    }
}

/// Logs the problems that are new.
fn report(problems: &[Problem], before: &[Problem]) {
    for problem in problems.iter().filter(|problem| !before.contains(problem)) {
        if problem.broken {
            tracing::error!("{problem}");
        } else {
            tracing::warn!("{problem}");
        }
    }
}

/// Tells the core what is new, and the status how it goes.
struct Teller {
    listeners: Listeners,
    status: Arc<WatchStatus>,
    told: [Option<Event>; 3],
    reported: Vec<Problem>,
    /// What was said last about the folder itself.
    complaint: Option<String>,
}

impl Teller {
    async fn tell(&mut self, manifests: Manifests) -> Result<(), mpsc::error::SendError<Event>> {
        report(&manifests.problems, &self.reported);
        for (event, told) in manifests.events(&self.listeners.node_name).into_iter().zip(&mut self.told) {
            if told.as_ref() != Some(&event) {
                *told = Some(event.clone());
                self.listeners.tx.send(event).await?;
            }
        }
        self.tell_nodes(manifests.nodes);
        self.reported = manifests.problems;
        SOURCES.iter().for_each(|source| self.status.listed(*source));
        self.current();
        Ok(())
    }

    fn tell_nodes(&self, nodes: Nodes) {
        let Some(sender) = &self.listeners.nodes else { return };
        if sender.borrow().as_deref() != Some(&nodes) {
            sender.send_replace(Some(Arc::new(nodes)));
        }
    }

    /// Nothing is told because of these problems.
    fn wait(&mut self, problems: Vec<Problem>) {
        report(&problems, &self.reported);
        if problems != self.reported {
            tracing::error!(
                "what an earlier agent left stays as it is, not ready, until every manifest can be read: Services in \
                 the broken ones would be removed otherwise; mend these files or take them away"
            );
        }
        self.reported = problems;
        self.current();
    }

    /// What was told is what the folder holds.
    fn current(&mut self) {
        self.complaint = None;
        let mut broken = self.reported.iter().filter(|problem| problem.broken);
        let error = broken.next().map(|first| match broken.count() {
            0 => first.to_string(),
            more => format!("{first} (and {more} more)"),
        });
        for source in SOURCES {
            self.status.alive(source);
            match &error {
                None => self.status.clear_error(source),
                Some(error) => self.status.set_error(source, error.clone()),
            }
        }
    }

    /// The folder itself cannot be read.
    fn complain(&mut self, path: &Path, error: &io::Error) {
        let text = format!("cannot read manifests in {}: {error}", path.display());
        if self.complaint.as_ref() != Some(&text) {
            tracing::error!("{text}; what was read last stays in force");
        }
        for source in SOURCES {
            self.status.set_error(source, text.clone());
            self.status.restarted(source);
        }
        self.complaint = Some(text);
    }
}

/// Runs `work` where it may wait for a disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    task::spawn_blocking(work).await.map_err(io::Error::other)
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
