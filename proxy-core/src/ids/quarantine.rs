//! Freed things and the grace period they wait for.
//!
//! A program may go on with a record that it copied before the record was replaced. What only that record refers to
//! must stay as it is until every such program has ended. Must not know how a grace period is obtained.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use proxy_common::BackendId;

use crate::desired::Family;

/// A closed batch of freed things. Start a grace period after it was closed; when that has passed, the batch is
/// reusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

/// Things freed in one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Ring ranges: (first position, length).
    pub(crate) ranges: Vec<(u32, u32)>,
    /// Service ids.
    pub(crate) service_ids: Vec<u32>,
    /// Backends.
    pub(crate) backends: BTreeSet<(Family, BackendId)>,
}

/// Everything freed and not yet reusable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quarantine {
    /// The epoch that is being filled.
    current: u64,
    batches: BTreeMap<u64, Batch>,
    /// Which batch a backend is in: it leaves when something refers to it again.
    backends: BTreeMap<(Family, BackendId), u64>,
}

impl Quarantine {
    /// Adds a ring range.
    pub(crate) fn add_range(&mut self, base: u32, length: u32) {
        self.batch().ranges.push((base, length));
    }

    /// Adds a service id.
    pub(crate) fn add_service_id(&mut self, id: u32) {
        self.batch().service_ids.push(id);
    }

    /// Adds a backend to the current epoch, also if it waits in an earlier one.
    pub(crate) fn add_backend(&mut self, family: Family, id: BackendId) {
        self.remove_backend(family, id);
        self.backends.insert((family, id), self.current);
        self.batch().backends.insert((family, id));
    }

    /// Takes a backend out: it is referred to again, or its place was cleared.
    pub(crate) fn remove_backend(&mut self, family: Family, id: BackendId) {
        if let Some(epoch) = self.backends.remove(&(family, id))
            && let Some(batch) = self.batches.get_mut(&epoch)
        {
            batch.backends.remove(&(family, id));
        }
    }

    /// Closes the current epoch; `None` if nothing was freed in it.
    pub(crate) fn seal(&mut self) -> Option<Epoch> {
        let sealed = self.current;
        if self.batches.get(&sealed).is_none_or(|batch| *batch == Batch::default()) {
            return None;
        }
        self.current = self.current.saturating_add(1);
        Some(Epoch(sealed))
    }

    /// Takes out what was freed in `epoch` and before.
    pub(crate) fn passed(&mut self, epoch: Epoch) -> Batch {
        let later = self.batches.split_off(&epoch.0.saturating_add(1));
        let mut passed = Batch::default();
        for batch in mem::replace(&mut self.batches, later).into_values() {
            passed.ranges.extend(batch.ranges);
            passed.service_ids.extend(batch.service_ids);
            passed.backends.extend(batch.backends);
        }
        for backend in &passed.backends {
            self.backends.remove(backend);
        }
        passed
    }

    /// Goes on after `earlier`, whose ring ranges start waiting anew. Its sealed epochs mean nothing now.
    pub(crate) fn follow(&mut self, earlier: &Self, ranges: &[(u32, u32)]) {
        let backends: Vec<_> = mem::take(self).backends.into_keys().collect();
        self.current = earlier.current.saturating_add(1);
        ranges.iter().for_each(|(base, length)| self.add_range(*base, *length));
        backends.into_iter().for_each(|(family, id)| self.add_backend(family, id));
    }

    /// The ring ranges that wait.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u32, u32)> {
        self.batches.values().flat_map(|batch| batch.ranges.iter().copied())
    }

    fn batch(&mut self) -> &mut Batch {
        self.batches.entry(self.current).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_in_which_nothing_was_freed_is_not_sealed() {
        let mut quarantine = Quarantine::default();
        assert_eq!(quarantine.seal(), None);
        quarantine.add_range(5, 2);
        let epoch = quarantine.seal();
        assert!(epoch.is_some());
        assert_eq!(quarantine.seal(), None);
        quarantine.add_service_id(1);
        assert!(quarantine.seal() > epoch);
    }

    #[test]
    fn only_what_was_freed_before_the_seal_passes() {
        let mut quarantine = Quarantine::default();
        quarantine.add_range(5, 2);
        quarantine.add_backend(Family::V4, 3);
        let first = quarantine.seal().unwrap();
        quarantine.add_range(9, 1);
        quarantine.add_backend(Family::V4, 4);
        let passed = quarantine.passed(first);
        assert_eq!((passed.ranges, passed.backends), (vec![(5, 2)], BTreeSet::from([(Family::V4, 3)])));
        assert_eq!(quarantine.passed(first), Batch::default());
        let second = quarantine.seal().unwrap();
        assert_eq!(quarantine.passed(second).ranges, [(9, 1)]);
    }

    #[test]
    fn a_backend_used_again_and_freed_again_waits_anew() {
        let mut quarantine = Quarantine::default();
        quarantine.add_backend(Family::V6, 3);
        let first = quarantine.seal().unwrap();
        quarantine.remove_backend(Family::V6, 3);
        quarantine.add_backend(Family::V6, 3);
        assert!(quarantine.passed(first).backends.is_empty());
        let second = quarantine.seal().unwrap();
        assert_eq!(quarantine.passed(second).backends.len(), 1);
    }

    #[test]
    fn a_backend_freed_twice_waits_from_the_second_time() {
        let mut quarantine = Quarantine::default();
        quarantine.add_backend(Family::V4, 3);
        let first = quarantine.seal().unwrap();
        quarantine.add_backend(Family::V4, 3);
        assert!(quarantine.passed(first).backends.is_empty());
    }

    #[test]
    fn a_batch_whose_backends_are_all_used_again_needs_no_grace_period() {
        let mut quarantine = Quarantine::default();
        quarantine.add_backend(Family::V4, 3);
        quarantine.remove_backend(Family::V4, 3);
        assert_eq!(quarantine.seal(), None);
    }
}
