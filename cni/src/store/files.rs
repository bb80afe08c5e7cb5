//! The files of the store and their lock.
//!
//! `<run_dir>/cni/attachments/` has one file for each attachment: its name says the hash of the id, which addresses it
//! has and whether it has ports, so that a listing of the folder is the index; its text is the record as JSON. One rename
//! makes an attachment, one unlink ends it: whatever a process is killed at, the folder is right.
//! `<run_dir>/cni/addresses` is the pool, `<run_dir>/cni/exhausted` counts requests for which it had nothing,
//! `<run_dir>/cni/boot` is the boot that all of it belongs to. Must not know how an address is chosen.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind},
    net::IpAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{StoreError, pool::Pool, room::Exhaustion};
use crate::{
    facts::CNI_DIR,
    record::{Attachment, AttachmentId, HOST_DEVICE_PREFIX},
};

const ATTACHMENTS: &str = "attachments";
const POOL: &str = "addresses";
const BOOT: &str = "boot";
const EXHAUSTION: &str = "exhausted";
/// Another text after each start of the kernel (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Beside the folder of attachments: who watches that folder sees whole files only.
const FRESH: &str = ".fresh";
/// The part of a hash that is in the name of a device.
const DEVICE: u64 = 0xffff_ffff_ffff;
const PORTS: &str = "ports";
/// Longest wait for the lock: its holders need less than a millisecond each, unless one was stopped.
const PATIENCE: Duration = Duration::from_secs(10);

/// The folders.
#[derive(Debug)]
pub(super) struct Files {
    cni: PathBuf,
    attachments: PathBuf,
}

impl Files {
    /// Makes what is missing; only root may look inside.
    pub(super) fn open(run_dir: &Path) -> Result<Self, StoreError> {
        let cni = run_dir.join(CNI_DIR);
        let attachments = cni.join(ATTACHMENTS);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&attachments);
        made.map_err(|source| StoreError::File { action: "make", path: attachments.clone(), source })?;
        let files = Self { cni, attachments };
        files.end_earlier_boot()?;
        Ok(files)
    }

    /// A run folder that is not on tmpfs outlives a reboot. No pod does, and a network namespace may come to have the
    /// cookie of an earlier one: everything is forgotten.
    fn end_earlier_boot(&self) -> Result<(), StoreError> {
        let Ok(now) = fs::read_to_string(BOOT_ID) else { return Ok(()) };
        let path = self.cni.join(BOOT);
        let known = || fs::read_to_string(&path).ok();
        if known().as_ref() == Some(&now) {
            return Ok(());
        }
        let locked = self.write()?;
        // Another process may have been here first.
        if known().is_some_and(|boot| boot != now) {
            locked.entries()?.iter().try_for_each(|entry| locked.remove(entry))?;
            locked.put_pool(&Pool::default())?;
            locked.put_exhaustion(&Exhaustion::default())?;
        }
        locked.replace(&path, now.as_bytes())
    }

    pub(super) fn attachments(&self) -> &Path {
        &self.attachments
    }

    /// Nobody writes while this lives.
    pub(super) fn read(&self) -> Result<Locked<'_>, StoreError> {
        self.lock(FlockArg::LockSharedNonblock)
    }

    /// Nobody else reads or writes while this lives.
    pub(super) fn write(&self) -> Result<Locked<'_>, StoreError> {
        self.lock(FlockArg::LockExclusiveNonblock)
    }

    /// Locks the folder itself: a file could be removed by whoever tidies, and two would hold a lock. It ends with the
    /// process, and no child inherits it.
    fn lock(&self, how: FlockArg) -> Result<Locked<'_>, StoreError> {
        let path = &self.attachments;
        let failed = |source| StoreError::File { action: "lock", path: path.clone(), source };
        let mut folder = File::open(path).map_err(failed)?;
        let begun = Instant::now();
        loop {
            folder = match Flock::lock(folder, how) {
                Ok(lock) => return Ok(Locked { files: self, _lock: lock }),
                Err((folder, Errno::EWOULDBLOCK | Errno::EINTR)) => folder,
                Err((_, errno)) => return Err(failed(errno.into())),
            };
            let waited = begun.elapsed();
            if waited > PATIENCE {
                return Err(StoreError::Busy { path: path.clone(), waited });
            }
            thread::sleep((waited / 8).clamp(Duration::from_micros(50), Duration::from_millis(5)));
        }
    }
}

/// The files while they are locked.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    files: &'a Files,
    _lock: Flock<File>,
}

impl Locked<'_> {
    /// Every attachment, in no order. Files with other names are not ours.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        self.each_name(|name| entries.extend(Entry::parse(name)))?;
        Ok(entries)
    }

    /// The attachment whose id has this hash.
    pub(super) fn find(&self, hash: u64) -> Result<Option<Entry>, StoreError> {
        let (start, mut found) = (format!("{hash:016x}"), None);
        self.each_name(|name| {
            if name.starts_with(&start) {
                found = Entry::parse(name);
            }
        })?;
        Ok(found)
    }

    fn each_name(&self, mut take: impl FnMut(&str)) -> Result<(), StoreError> {
        let path = &self.files.attachments;
        let failed = |source| StoreError::File { action: "list", path: path.clone(), source };
        for file in fs::read_dir(path).map_err(failed)? {
            if let Some(name) = file.map_err(failed)?.file_name().to_str() {
                take(name);
            }
        }
        Ok(())
    }

    /// The record of an attachment; `Err`: why it cannot be believed.
    pub(super) fn record(&self, entry: &Entry) -> Result<Attachment, String> {
        let text = fs::read(self.path(entry)).map_err(|error| error.to_string())?;
        let record: Attachment = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        if Entry::of(&record) == *entry { Ok(record) } else { Err("its name and its text differ".into()) }
    }

    /// Makes or replaces the file of an attachment.
    pub(super) fn put(&self, record: &Attachment) -> Result<(), StoreError> {
        let path = self.path(&Entry::of(record));
        let text = serde_json::to_vec(record).map_err(io::Error::from);
        let text = text.map_err(|source| StoreError::File { action: "write", path: path.clone(), source })?;
        self.replace(&path, &text)
    }

    /// Removes the file of an attachment.
    pub(super) fn remove(&self, entry: &Entry) -> Result<(), StoreError> {
        let path = self.path(entry);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(StoreError::File { action: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// The pool; `None`: missing or damaged.
    pub(super) fn pool(&self) -> Option<Pool> {
        fs::read_to_string(self.files.cni.join(POOL)).ok()?.parse().ok()
    }

    /// Replaces the pool.
    pub(super) fn put_pool(&self, pool: &Pool) -> Result<(), StoreError> {
        self.replace(&self.files.cni.join(POOL), pool.to_string().as_bytes())
    }

    /// Requests for which there was no address; `None`: missing or damaged.
    pub(super) fn exhaustion(&self) -> Option<Exhaustion> {
        serde_json::from_slice(&fs::read(self.files.cni.join(EXHAUSTION)).ok()?).ok()
    }

    /// Replaces what is known of them.
    pub(super) fn put_exhaustion(&self, exhaustion: &Exhaustion) -> Result<(), StoreError> {
        let path = self.files.cni.join(EXHAUSTION);
        let text = serde_json::to_vec(exhaustion).map_err(io::Error::from);
        let text = text.map_err(|source| StoreError::File { action: "write", path: path.clone(), source })?;
        self.replace(&path, &text)
    }

    /// In one step. What a killed process left behind is overwritten. No fsync: the folder is on tmpfs and should not
    /// outlive the pods.
    fn replace(&self, path: &Path, text: &[u8]) -> Result<(), StoreError> {
        let fresh = self.files.cni.join(FRESH);
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| StoreError::File { action, path, source }
        };
        fs::write(&fresh, text).map_err(failed("write", &fresh))?;
        fs::rename(&fresh, path).map_err(failed("replace", path))
    }

    pub(super) fn path(&self, entry: &Entry) -> PathBuf {
        self.files.attachments.join(&entry.name)
    }
}

/// What the name of an attachment's file says: `<16 hexadecimal digits>[,<address>]...[,ports]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    name: String,
    /// [`AttachmentId::hash`].
    pub(super) hash: u64,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: bool,
}

impl Entry {
    fn of(record: &Attachment) -> Self {
        let (hash, ports) = (record.id.hash(), !record.ports.is_empty());
        let mut name = format!("{hash:016x}");
        for address in &record.addresses {
            name.push(',');
            name.push_str(&address.to_string());
        }
        if ports {
            name.push(',');
            name.push_str(PORTS);
        }
        Self { name, hash, addresses: record.addresses.clone(), ports }
    }

    /// The host's end, see [`AttachmentId::host_device`].
    pub(super) fn host_device(&self) -> String {
        format!("{HOST_DEVICE_PREFIX}{:012x}", self.hash & DEVICE)
    }

    /// Whether this id would have the same host device.
    pub(super) fn shares_device(&self, id: &AttachmentId) -> bool {
        self.hash & DEVICE == id.hash() & DEVICE
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let (hash, rest) = name.split_at_checked(16)?;
        let hash = u64::from_str_radix(hash, 16).ok()?;
        let mut parts = rest.split(',');
        if parts.next() != Some("") {
            return None;
        }
        let (mut addresses, mut ports) = (Vec::with_capacity(2), false);
        for part in parts {
            match part {
                PORTS => ports = true,
                address => addresses.push(address.parse().ok()?),
            }
        }
        Some(Self { name: name.to_owned(), hash, addresses, ports })
    }
}
