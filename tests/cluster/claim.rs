//! Who may change the cluster, and whose it is: there is one on a machine, whichever checkout made it.
//!
//! A lock on a file outside of every checkout, with the holder's words in it; it goes with the process that holds it.
//! Must not know: what a cluster consists of.

use std::fs::{self, File, TryLockError};
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::layout::Folders;

/// On a file system that a restart of the machine empties, as it does the cgroups; only root writes there.
const FILE: &str = "/run/sheave-cluster.lock";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The checkout whose cluster is up, or was left half-way.
    owner: Option<PathBuf>,
    /// Who holds the lock, or held it last.
    holder: String,
}

/// The right to change the cluster, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    file: File,
    record: Record,
    own: PathBuf,
}

impl Claim {
    /// Takes it for `verb`.
    ///
    /// # Errors
    /// Somebody else has it: who, and for what.
    pub(crate) fn take(folders: &Folders, verb: &str) -> Result<Self> {
        // Where a time limit ends xtask alone, nobody waits for this any more, and the next run must not have to.
        set_pdeathsig(Signal::SIGTERM)?;
        Self::take_at(Path::new(FILE), folders.root(), verb)
    }

    fn take_at(path: &Path, own: &Path, verb: &str) -> Result<Self> {
        let open = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = open.with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("{} holds {}: wait until it has ended", read(path).holder, path.display())
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let process = std::process::id();
        let holder = format!("`cargo xtask cluster {verb}` of {} (process {process})", own.display());
        let record = Record { holder, ..read(path) };
        let mut claim = Self { file, record, own: own.to_owned() };
        claim.write()?;
        Ok(claim)
    }

    /// The checkout whose cluster is up, or was left half-way, if it is known.
    pub(crate) fn owner(&self) -> Option<&Path> {
        self.record.owner.as_deref()
    }

    /// The owner, if that is not the checkout of this program.
    pub(crate) fn stranger(&self) -> Option<&Path> {
        self.owner().filter(|owner| *owner != self.own)
    }

    /// Makes the cluster that of the checkout of this program.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn own(&mut self) -> Result<()> {
        self.record.owner = Some(self.own.clone());
        self.write()
    }

    /// There is no cluster any more.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn disown(&mut self) -> Result<()> {
        self.record.owner = None;
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        let text = serde_json::to_vec(&self.record)?;
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(&text).context("cannot write who has the cluster")
    }
}

/// What to do where no cluster of this checkout is found.
pub(crate) fn advice(folders: &Folders) -> String {
    match read(Path::new(FILE)).owner {
        Some(owner) if owner != folders.root() => {
            format!("the cluster that is up is that of {}", owner.display())
        }
        _ => "cargo xtask cluster up".to_owned(),
    }
}

/// What is half written just now, or was written by another version, says nothing.
fn read(path: &Path) -> Record {
    let text = fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text)
        .unwrap_or_else(|_| Record { owner: None, holder: "another process".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_one_works_on_the_cluster_another_is_told_who_and_for_what() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Claim::take_at(&path, Path::new("/a"), "up").unwrap();
        for (own, verb) in [("/a", "up"), ("/b", "up"), ("/b", "down")] {
            let error = Claim::take_at(&path, Path::new(own), verb).unwrap_err().to_string();
            assert!(error.contains("cluster up` of /a (process"), "{error}");
        }
        drop(first);
        Claim::take_at(&path, Path::new("/b"), "down").unwrap();
    }

    #[test]
    fn a_cluster_is_its_checkout_s_until_it_is_taken_down() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let take = |own: &str| Claim::take_at(&path, Path::new(own), "up").unwrap();
        let mut first = take("/a");
        assert_eq!(first.owner(), None);
        first.own().unwrap();
        drop(first);
        let again = take("/a");
        assert_eq!((again.owner(), again.stranger()), (Some(Path::new("/a")), None));
        drop(again);
        let mut second = take("/b");
        assert_eq!(second.stranger(), Some(Path::new("/a")));
        second.disown().unwrap();
        drop(second);
        assert_eq!(take("/a").owner(), None);
    }

    #[test]
    fn what_another_version_wrote_hinders_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        fs::write(
            &path,
            "something else that is much longer than a record would be ............................",
        )
        .unwrap();
        drop(Claim::take_at(&path, Path::new("/a"), "up").unwrap());
        assert!(read(&path).holder.contains("of /a"));
    }
}
