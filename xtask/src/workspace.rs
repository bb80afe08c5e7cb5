//! Where things are in the repository, and what cargo says about it.
//!
//! Must not know any verb.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand};

/// The repository: every path that xtask uses starts here.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The repository this xtask was compiled in.
    ///
    /// # Errors
    /// When the folder has moved since.
    pub(crate) fn locate() -> Result<Self> {
        let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest_dir.parent().context("xtask lies in no folder")?;
        let root = root.canonicalize().with_context(|| format!("{} is gone", root.display()))?;
        Ok(Self { root })
    }

    /// A repository somewhere else.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn join(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Programs that xtask installs for itself (`bin` below it).
    pub(crate) fn tools(&self) -> PathBuf {
        self.join("target/tools")
    }

    /// Members, targets and the manifests' dependencies of user space.
    ///
    /// # Errors
    /// When cargo cannot read a manifest.
    pub(crate) fn metadata(&self) -> Result<Metadata> {
        self.metadata_of(&self.join("Cargo.toml"))
    }

    /// The same for the eBPF crate, which is no member.
    ///
    /// # Errors
    /// When cargo cannot read its manifest.
    pub(crate) fn ebpf_metadata(&self) -> Result<Metadata> {
        self.metadata_of(&self.join("proxy-ebpf/Cargo.toml"))
    }

    fn metadata_of(&self, manifest: &Path) -> Result<Metadata> {
        MetadataCommand::new()
            .manifest_path(manifest)
            .current_dir(&self.root)
            .no_deps()
            .exec()
            .with_context(|| format!("cargo metadata of {}", manifest.display()))
    }
}
