//! A bpf file system of the test's own, for pins.
//!
//! Must not know: what is pinned.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mounted bpf file system in a temporary folder. Dropping it unmounts it: all pins are gone then.
#[derive(Debug)]
pub struct BpfFs {
    folder: tempfile::TempDir,
}

impl BpfFs {
    /// Mounts one.
    ///
    /// # Errors
    /// Not root.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sheave-bpf-").tempdir()?;
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("cannot mount bpf")?;
        Ok(Self { folder })
    }

    /// A folder in it.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.folder.path().join("sheave")
    }

    /// Its root.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.folder.path(), MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.folder.path().display());
        }
    }
}
