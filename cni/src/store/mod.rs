//! Attachments and addresses on tmpfs, below one short lock.
//!
//! An address is in use exactly while a file names it. Must not know how anything is wired.

mod error;
mod files;
mod pool;
mod ranges;
mod room;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;

pub use self::{
    error::{Holder, StoreError},
    room::{Exhaustion, Room},
};
use self::{
    files::{Entry, Files, Locked},
    pool::Pool,
    ranges::{Family, Ranges},
};
use crate::record::{Attachment, AttachmentId, Ipam, Stage};

/// What [`Store::reserve`] is to find addresses in.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The ranges, one or more of each family, used in this order. The first two addresses of a range and the last one of
    /// an IPv4 range are never given.
    pub ranges: Vec<IpNetwork>,
    /// These addresses and no others, at most one of each family (capability `ips`).
    pub fixed: Vec<IpAddr>,
    /// Never to be given.
    pub reserved: Vec<IpAddr>,
}

/// A file of the store that cannot be believed. Its addresses, known from its name, stay in use; its ports do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// The host's end, if it was wired.
    pub host_device: String,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// What is wrong with it.
    pub reason: String,
    entry: Entry,
}

/// The store in `<run_dir>/cni`.
#[derive(Debug)]
pub struct Store {
    files: Files,
}

impl Store {
    /// Opens it, making what is missing.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn open(run_dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { files: Files::open(run_dir)? })
    }

    /// The folder of attachments: a file comes, changes or goes in it with each of them, by rename or unlink.
    pub fn folder(&self) -> &Path {
        self.files.attachments()
    }

    /// Takes addresses (unless `attachment.ipam` is delegated) and host ports for an attachment, and remembers it as
    /// reserved, in one step. The same id again gets the same addresses if nothing else differs and it was never wired.
    ///
    /// # Errors
    /// Exhausted, taken, out of range, port conflict, attached already: see [`StoreError`].
    pub fn reserve(&self, attachment: Attachment, wish: &Wish) -> Result<Attachment, StoreError> {
        let files = self.files.write()?;
        let entries = files.entries()?;
        if let Some(entry) = entries.iter().find(|entry| entry.shares_device(&attachment.id)) {
            return again(&files, entry, attachment, wish);
        }
        check_ports(&files, &entries, &attachment)?;
        let addresses = match &attachment.ipam {
            Ipam::Own => choose(&files, &entries, wish).inspect_err(|error| {
                if let StoreError::Exhausted { ranges, .. } = error {
                    room::note(&files, ranges);
                }
            })?,
            Ipam::Delegated(_) => attachment.addresses.clone(),
        };
        check_free(&files, &entries, &addresses)?;
        let reserved = Attachment { stage: Stage::Reserved, addresses, ..attachment };
        files.put(&reserved)?;
        Ok(reserved)
    }

    /// Remembers that the attachment is wired.
    ///
    /// # Errors
    /// [`StoreError::Gone`] if it was released meanwhile; [`StoreError::Damaged`].
    pub fn commit(&self, id: &AttachmentId) -> Result<(), StoreError> {
        self.commit_with(id, &[])
    }

    /// As [`Store::commit`]; and which of its addresses leave the pod by rules of their own.
    ///
    /// # Errors
    /// See [`Store::commit`].
    pub fn commit_with(&self, id: &AttachmentId, by_rule: &[IpAddr]) -> Result<(), StoreError> {
        let files = self.files.write()?;
        let Some(entry) = files.find(id.hash())? else { return Err(StoreError::Gone(id.clone())) };
        match files.record(&entry) {
            Ok(record) if record.id == *id => {
                files.put(&Attachment { stage: Stage::Wired, by_rule: by_rule.to_vec(), ..record })
            }
            Ok(_) => Err(StoreError::Gone(id.clone())),
            Err(_) => Err(StoreError::Damaged { id: id.clone(), path: files.path(&entry) }),
        }
    }

    /// What is remembered; a damaged file counts as nothing, see [`Store::damaged`].
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Busy`].
    pub fn get(&self, id: &AttachmentId) -> Result<Option<Attachment>, StoreError> {
        let files = self.files.read()?;
        let entry = files.find(id.hash())?;
        Ok(entry.and_then(|entry| files.record(&entry).ok()).filter(|record| record.id == *id))
    }

    /// Everything that is remembered, in order of ids, without what is damaged.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Busy`].
    pub fn list(&self) -> Result<Vec<Attachment>, StoreError> {
        let files = self.files.read()?;
        let mut records = records(&files, &files.entries()?);
        records.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(records)
    }

    /// Who has which address, by [`AttachmentId::hash`]; of damaged files, too. Reads names only: some microseconds for each
    /// attachment.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Busy`].
    pub fn held(&self) -> Result<BTreeMap<IpAddr, u64>, StoreError> {
        let entries = self.files.read()?.entries()?;
        let held =
            |entry: &Entry| entry.addresses.iter().map(|address| (*address, entry.hash)).collect::<Vec<_>>();
        Ok(entries.iter().flat_map(held).collect())
    }

    /// The addresses of the attachment whose file in [`Store::folder`] has or had this name.
    pub fn addresses_in_name(name: &str) -> Vec<IpAddr> {
        Entry::parse(name).map_or_else(Vec::new, |entry| entry.addresses)
    }

    /// How full these ranges are.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Busy`].
    pub fn room(&self, ranges: &[IpNetwork]) -> Result<Vec<Room>, StoreError> {
        let entries = self.files.read()?.entries()?;
        Ok(ranges.iter().map(|range| room::room(&entries, *range)).collect())
    }

    /// The requests for which there was no address.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Busy`].
    pub fn exhaustion(&self) -> Result<Exhaustion, StoreError> {
        Ok(self.files.read()?.exhaustion().unwrap_or_default())
    }

    /// Files that cannot be believed. Who reports them may [`Store::discard`] them once their device is gone.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Busy`].
    pub fn damaged(&self) -> Result<Vec<Damaged>, StoreError> {
        let files = self.files.read()?;
        let entries = files.entries()?;
        Ok(entries.into_iter().filter_map(|entry| damage(&files, entry)).collect())
    }

    /// Forgets the attachment and gives its addresses and ports back. `None`: there was none, or a damaged one, which is
    /// forgotten too; both are fine.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Busy`].
    pub fn release(&self, id: &AttachmentId) -> Result<Option<Attachment>, StoreError> {
        let files = self.files.write()?;
        let Some(entry) = files.find(id.hash())? else { return Ok(None) };
        let record = files.record(&entry).ok();
        if record.as_ref().is_some_and(|record| record.id != *id) {
            return Ok(None);
        }
        forget(&files, &entry, record.as_ref())?;
        Ok(record)
    }

    /// Forgets an attachment that is still what the caller saw of it: a runtime may have deleted it and added the same
    /// container again meanwhile. `false`: it is not.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Busy`].
    pub fn release_unchanged(&self, seen: &Attachment) -> Result<bool, StoreError> {
        let files = self.files.write()?;
        let Some(entry) = files.find(seen.id.hash())? else { return Ok(false) };
        let same = files.record(&entry).is_ok_and(|record| record == *seen);
        if same {
            forget(&files, &entry, Some(seen))?;
        }
        Ok(same)
    }

    /// Removes a damaged file and gives its addresses back. `false`: it is gone, or whole again.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Busy`].
    pub fn discard(&self, damaged: &Damaged) -> Result<bool, StoreError> {
        let files = self.files.write()?;
        let still = files.entries()?.contains(&damaged.entry) && files.record(&damaged.entry).is_err();
        if still {
            forget(&files, &damaged.entry, None)?;
        }
        Ok(still)
    }
}

/// The same id again: the reservation of an ADD that was killed, if it is asked for the same things.
fn again(
    files: &Locked<'_>,
    entry: &Entry,
    attachment: Attachment,
    wish: &Wish,
) -> Result<Attachment, StoreError> {
    let Ok(found) = files.record(entry) else {
        return Err(StoreError::Damaged { id: attachment.id, path: files.path(entry) });
    };
    let holder = Holder::of(&found);
    if found.id != attachment.id {
        return Err(StoreError::Collision { id: attachment.id, holder });
    }
    let addresses = match attachment.ipam {
        Ipam::Own if serves(wish, &found.addresses) => found.addresses.clone(),
        _ => attachment.addresses.clone(),
    };
    let same = Attachment { stage: Stage::Reserved, since: found.since, addresses, ..attachment };
    if same == found { Ok(found) } else { Err(StoreError::Attached { holder }) }
}

/// Whether these addresses are still what the wish would be given.
fn serves(wish: &Wish, addresses: &[IpAddr]) -> bool {
    let fixed = wish.fixed.is_empty() || wish.fixed == addresses;
    fixed && addresses.iter().all(|address| usable(wish, *address))
}

fn usable(wish: &Wish, address: IpAddr) -> bool {
    Ranges::new(Family::of(address), &wish.ranges).contains(address) && !wish.reserved.contains(&address)
}

fn check_ports(files: &Locked<'_>, entries: &[Entry], wanted: &Attachment) -> Result<(), StoreError> {
    if wanted.ports.is_empty() {
        return Ok(());
    }
    for other in entries.iter().filter(|entry| entry.ports).filter_map(|entry| files.record(entry).ok()) {
        let taken = |mapping: &&_| other.ports.iter().any(|theirs| theirs.collides_with(mapping));
        if let Some(mapping) = wanted.ports.iter().find(taken) {
            return Err(StoreError::PortTaken { mapping: mapping.clone(), holder: Holder::of(&other) });
        }
    }
    Ok(())
}

fn check_free(files: &Locked<'_>, entries: &[Entry], addresses: &[IpAddr]) -> Result<(), StoreError> {
    for address in addresses {
        if let Some(entry) = entries.iter().find(|entry| entry.addresses.contains(address)) {
            return Err(StoreError::Taken { address: *address, holder: holder(files, entry) });
        }
    }
    Ok(())
}

/// Finds addresses and writes the pool: before the attachment, so that a process killed between the two costs a turn of
/// the round and nothing else.
fn choose(files: &Locked<'_>, entries: &[Entry], wish: &Wish) -> Result<Vec<IpAddr>, StoreError> {
    let mut pool = files.pool().unwrap_or_else(|| rebuilt(files, entries));
    let addresses = if wish.fixed.is_empty() {
        next_addresses(files, entries, wish, &mut pool)?
    } else {
        check_fixed(wish)?;
        wish.fixed.iter().for_each(|address| pool.take_fixed(*address));
        wish.fixed.clone()
    };
    files.put_pool(&pool)?;
    Ok(addresses)
}

fn check_fixed(wish: &Wish) -> Result<(), StoreError> {
    if let Some(address) = wish.fixed.iter().find(|address| !usable(wish, **address)) {
        return Err(StoreError::Unusable { address: *address, ranges: wish.ranges.clone() });
    }
    for family in Family::ALL {
        let mut alike = wish.fixed.iter().filter(|address| Family::of(**address) == family);
        if let (Some(first), Some(second)) = (alike.next(), alike.next()) {
            return Err(StoreError::TwoOfAFamily { first: *first, second: *second });
        }
    }
    Ok(())
}

fn next_addresses(
    files: &Locked<'_>,
    entries: &[Entry],
    wish: &Wish,
    pool: &mut Pool,
) -> Result<Vec<IpAddr>, StoreError> {
    let held = entries.iter().flat_map(|entry| &entry.addresses);
    let used: HashSet<IpAddr> = held.chain(&wish.reserved).copied().collect();
    let mut addresses = Vec::new();
    for family in Family::ALL {
        let ranges = Ranges::new(family, &wish.ranges);
        if ranges.is_empty() {
            continue;
        }
        let next = pool.take(family, &ranges, &used);
        addresses.push(next.ok_or_else(|| exhausted(files, entries, family, wish))?);
    }
    if addresses.is_empty() { Err(StoreError::NoRanges) } else { Ok(addresses) }
}

fn exhausted(files: &Locked<'_>, entries: &[Entry], family: Family, wish: &Wish) -> StoreError {
    let ranges = Ranges::new(family, &wish.ranges);
    let inside = |entry: &&Entry| entry.addresses.iter().any(|address| ranges.contains(*address));
    let holders: Vec<Entry> = entries.iter().filter(inside).cloned().collect();
    let mut oldest = records(files, &holders);
    oldest.sort_by_key(|record| record.since);
    oldest.truncate(3);
    StoreError::Exhausted {
        ranges: wish.ranges.iter().filter(|range| Family::of(range.ip()) == family).copied().collect(),
        used: holders.len(),
        oldest: oldest.iter().map(|record| *Holder::of(record)).collect(),
    }
}

/// Where the file is missing or damaged, the round goes on after the youngest attachment; what was freed is forgotten.
fn rebuilt(files: &Locked<'_>, entries: &[Entry]) -> Pool {
    let own = records(files, entries).into_iter().filter(|record| record.ipam == Ipam::Own);
    own.max_by_key(|record| record.since).map_or_else(Pool::default, |record| Pool::after(&record.addresses))
}

/// Writes the pool first, as [`choose`] does. A pool that cannot be written must not keep an address from its release: it
/// only says which one comes later.
fn forget(files: &Locked<'_>, entry: &Entry, record: Option<&Attachment>) -> Result<(), StoreError> {
    let delegated = record.is_some_and(|record| record.ipam != Ipam::Own);
    if !delegated {
        let mut pool = match files.pool() {
            Some(pool) => pool,
            None => rebuilt(files, &files.entries()?),
        };
        entry.addresses.iter().for_each(|address| pool.free(*address));
        drop(files.put_pool(&pool));
    }
    files.remove(entry)
}

fn records(files: &Locked<'_>, entries: &[Entry]) -> Vec<Attachment> {
    entries.iter().filter_map(|entry| files.record(entry).ok()).collect()
}

fn holder(files: &Locked<'_>, entry: &Entry) -> Box<Holder> {
    files.record(entry).map_or_else(|_| Holder::unknown(entry.host_device()), |record| Holder::of(&record))
}

fn damage(files: &Locked<'_>, entry: Entry) -> Option<Damaged> {
    let reason = files.record(&entry).err()?;
    let addresses = entry.addresses.clone();
    Some(Damaged { path: files.path(&entry), host_device: entry.host_device(), addresses, reason, entry })
}
