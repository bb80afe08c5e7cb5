//! Attachments and addresses on tmpfs, below one short lock.
//!
//! Must not know how anything is wired.

use std::{net::IpAddr, path::Path};

use ipnetwork::IpNetwork;
use thiserror::Error;

use crate::record::{Attachment, AttachmentId};

/// What [`Store::reserve`] is to find addresses in.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The ranges, one or more of each family.
    pub ranges: Vec<IpNetwork>,
    /// These addresses and no others, at most one of each family (capability `ips`).
    pub fixed: Vec<IpAddr>,
    /// Never to be given.
    pub reserved: Vec<IpAddr>,
}

/// Why the store could not do it.
#[derive(Debug, Error)]
pub enum StoreError {
    /// To be replaced.
    #[error("the store is not built yet")]
    Nothing,
}

/// The store in `<run_dir>/cni`.
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// Opens it, making what is missing.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(_run_dir: &Path) -> Result<Self, StoreError> {
        Err(StoreError::Nothing)
    }

    /// Takes addresses (unless `attachment.ipam` is delegated) and host ports for an attachment, and remembers it as
    /// reserved, in one step. The same id again gets the same addresses if nothing else differs and it was never wired.
    ///
    /// # Errors
    /// Exhausted, taken, out of range, port conflict, attached already: see [`StoreError`].
    pub fn reserve(&self, _attachment: Attachment, _wish: &Wish) -> Result<Attachment, StoreError> {
        Err(StoreError::Nothing)
    }

    /// Remembers that the attachment is wired.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn commit(&self, _id: &AttachmentId) -> Result<(), StoreError> {
        Err(StoreError::Nothing)
    }

    /// What is remembered.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn get(&self, _id: &AttachmentId) -> Result<Option<Attachment>, StoreError> {
        Err(StoreError::Nothing)
    }

    /// Everything that is remembered, in order of ids.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn list(&self) -> Result<Vec<Attachment>, StoreError> {
        Err(StoreError::Nothing)
    }

    /// Forgets the attachment and gives its addresses and ports back. `None`: there was none, which is fine.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn release(&self, _id: &AttachmentId) -> Result<Option<Attachment>, StoreError> {
        Err(StoreError::Nothing)
    }
}
