//! GC: removes what belongs to nobody. What is not proved to be dead stays.
//!
//! Must not know how a thing is removed.

use std::collections::BTreeSet;

use super::{Task, ipam};
use crate::{
    record::{Attachment, AttachmentId},
    spec::{Error, Verb},
};

/// An attachment younger than this, seconds, may be one that its runtime does not know of yet: the list is made before
/// the call, and another runtime may share the store.
const GRACE: u64 = 60;

/// Removes, and goes on where it cannot.
pub(super) fn gc(task: &Task<'_>) -> Result<(), Error> {
    // No list is not an empty list: who does not know what is in use cannot say what is not.
    let Some(valid) = task.network.valid_attachments()? else { return Ok(()) };
    let valid: BTreeSet<AttachmentId> = valid.into_iter().collect();
    let mut errors: Vec<Error> = ipam::forward(task, Verb::Gc).err().into_iter().collect();
    match task.world.list() {
        Ok(records) => {
            let listed = |record: &&Attachment| is_candidate(task, &valid, record);
            errors.extend(records.iter().filter(listed).filter_map(|record| collect(task, record).err()));
        }
        Err(error) => errors.push(error),
    }
    joined(errors)
}

/// Whether it is of this network, in no list and old enough. The list is of one network, the store of all.
fn is_candidate(task: &Task<'_>, valid: &BTreeSet<AttachmentId>, record: &Attachment) -> bool {
    let age = task.world.now().saturating_sub(record.since);
    record.network == task.network.name && !valid.contains(&record.id) && age >= GRACE
}

/// Removes it if its namespace is gone: a list may be wrong, a namespace that is there has somebody in it.
fn collect(task: &Task<'_>, record: &Attachment) -> Result<(), Error> {
    let world = task.world;
    let there = world.identify(&record.netns_path)?;
    let alive = there.is_some_and(|netns| netns.cookie == record.netns.cookie);
    let unchanged = world.get(&record.id)?.as_ref() == Some(record);
    if alive || !unchanged {
        return Ok(());
    }
    let facts = world.facts().ok();
    world.disconnect(record, facts.as_ref().map(|facts| &facts.pins))?;
    if !world.release_unchanged(record)? {
        return Ok(());
    }
    let address = record.addresses.first().map(ToString::to_string).unwrap_or_default();
    world.log(&format!("removed {} ({address}): it is in no list and its namespace is gone", record.id));
    Ok(())
}

fn joined(errors: Vec<Error>) -> Result<(), Error> {
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else { return Ok(()) };
    let sentences: Vec<_> =
        [first.sentence()].into_iter().chain(errors.map(|error| error.sentence())).collect();
    Err(Error { code: first.code, msg: sentences.join("; "), details: String::new() })
}
