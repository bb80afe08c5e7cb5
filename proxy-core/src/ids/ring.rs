//! The ring: which ranges are free, and what the used ones hold.
//!
//! Must not know what a position means to a reader.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::{BackendId, names::PROBE_SLOT};

use super::{PerFamily, per_family::FAMILIES, ranges::FreeRanges};
use crate::desired::Family;

/// A range of the ring that is in use.
#[derive(Clone, Debug)]
struct Extent {
    ids: Box<[BackendId]>,
    /// Number of service records of each family that lie in it.
    references: PerFamily<u32>,
}

/// What the last reference to an extent leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Released {
    /// The ids that this family's records named.
    pub(crate) ids: Box<[BackendId]>,
    /// The range (first position, length), if no record of the other family lies in it.
    pub(crate) range: Option<(u32, u32)>,
}

/// The ring.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    capacity: u32,
    free: FreeRanges,
    /// By first position; they do not overlap.
    extents: BTreeMap<u32, Extent>,
    /// Promised to a plan: first position to length.
    tentative: BTreeMap<u32, u32>,
    /// Written, but no record has ever referred to them.
    unpublished: BTreeSet<u32>,
}

impl Ring {
    /// An empty ring.
    pub(crate) fn new(capacity: u32) -> Self {
        let free = FreeRanges::new(PROBE_SLOT.saturating_add(1)..capacity);
        Self {
            capacity,
            free,
            extents: BTreeMap::new(),
            tentative: BTreeMap::new(),
            unpublished: BTreeSet::new(),
        }
    }

    /// A ring in which the ranges `spans` (first position, length) are in use. Overlapping ones become one extent.
    pub(crate) fn restore(capacity: u32, contents: &[BackendId], mut spans: Vec<(u32, u32)>) -> Self {
        let mut ring = Self::new(capacity);
        spans.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (base, length) in spans {
            let end = base.saturating_add(length);
            match merged.last_mut() {
                Some((_, last_end)) if base < *last_end => *last_end = end.max(*last_end),
                _ => merged.push((base, end)),
            }
        }
        for (base, end) in merged {
            if let Some(ids) = contents.get(base as usize..end as usize) {
                ring.written(base, ids);
            }
        }
        ring.unpublished.clear();
        ring
    }

    /// Whether a record may refer to this range: not empty, not the probe's, inside the ring.
    pub(crate) fn is_valid(capacity: u32, base: u32, length: u32) -> bool {
        length > 0 && base > PROBE_SLOT && base.checked_add(length).is_some_and(|end| end <= capacity)
    }

    /// Length of the longest free range.
    pub(crate) fn longest(&self) -> u32 {
        self.free.longest()
    }

    /// How many positions are not free, those in quarantine included.
    pub(crate) fn taken(&self) -> u32 {
        self.capacity.saturating_sub(1).saturating_sub(self.free.total())
    }

    /// Promises a free range, until [`Self::written`].
    pub(crate) fn allocate(&mut self, length: u32) -> Option<u32> {
        let base = self.free.take_best_fit(length)?;
        self.tentative.insert(base, length);
        Some(base)
    }

    /// Takes a promise back.
    pub(crate) fn withdraw(&mut self, base: u32) {
        if let Some(length) = self.tentative.remove(&base) {
            self.free.release(base, length);
        }
    }

    /// Takes every promise back, and frees what was written but never published: no reader knows of it.
    pub(crate) fn withdraw_all(&mut self) {
        let promised: Vec<u32> = self.tentative.keys().copied().collect();
        promised.into_iter().for_each(|base| self.withdraw(base));
        while let Some(base) = self.unpublished.pop_first() {
            if let Some(extent) = self.extents.remove(&base) {
                self.free.release(base, length_of(&extent.ids));
            }
        }
    }

    /// The kernel holds these ids from `base` on.
    pub(crate) fn written(&mut self, base: u32, ids: &[BackendId]) {
        self.tentative.remove(&base);
        self.free.carve(base, length_of(ids));
        self.extents.insert(base, Extent { ids: ids.into(), references: PerFamily::default() });
        self.unpublished.insert(base);
    }

    /// The ids in a range that lies in one extent; an empty range is everywhere.
    pub(crate) fn contents(&self, base: u32, length: u32) -> Option<&[BackendId]> {
        if length == 0 {
            return Some(&[]);
        }
        let (start, extent) = self.extent(base)?;
        let from = base.checked_sub(start)? as usize;
        extent.ids.get(from..from.checked_add(length as usize)?)
    }

    /// A record of `family` lies in the extent at `base`. Gives the extent's ids if it is the family's first.
    pub(crate) fn reference(&mut self, family: Family, base: u32) -> Option<&[BackendId]> {
        let (start, extent) = self.extents.range_mut(..=base).next_back()?;
        self.unpublished.remove(start);
        let references = extent.references.get_mut(family);
        *references = references.saturating_add(1);
        (*references == 1).then_some(&extent.ids)
    }

    /// A record of `family` no longer lies in the extent at `base`. The range is not free before [`Self::release`].
    pub(crate) fn dereference(&mut self, family: Family, base: u32) -> Option<Released> {
        let (start, extent) = self.extents.range_mut(..=base).next_back()?;
        let start = *start;
        let references = extent.references.get_mut(family);
        *references = references.saturating_sub(1);
        if *references > 0 {
            return None;
        }
        let ids = extent.ids.clone();
        let gone = FAMILIES.iter().all(|family| *extent.references.get(*family) == 0);
        if gone {
            self.extents.remove(&start);
        }
        let range = gone.then_some((start, length_of(&ids)));
        Some(Released { ids, range })
    }

    /// Makes a range reusable after its grace period.
    pub(crate) fn release(&mut self, base: u32, length: u32) {
        self.free.release(base, length);
    }

    /// Keeps a range from being used.
    pub(crate) fn reserve(&mut self, base: u32, length: u32) {
        self.free.carve(base, length);
    }

    /// Whether an extent lies in this range.
    pub(crate) fn is_used(&self, base: u32, length: u32) -> bool {
        let before = self.extents.range(..base.saturating_add(length)).next_back();
        before.is_some_and(|(start, extent)| start.saturating_add(length_of(&extent.ids)) > base)
    }

    fn extent(&self, base: u32) -> Option<(u32, &Extent)> {
        self.extents.range(..=base).next_back().map(|(start, extent)| (*start, extent))
    }
}

/// Lengths of the ring fit a position: its capacity does.
fn length_of(ids: &[BackendId]) -> u32 {
    u32::try_from(ids.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_free_only_when_released_after_its_last_reference() {
        let mut ring = Ring::new(6);
        assert_eq!(ring.allocate(5), Some(1));
        ring.written(1, &[7, 8, 9, 7, 7]);
        assert_eq!(ring.reference(Family::V4, 1), Some([7, 8, 9, 7, 7].as_slice()));
        assert_eq!(ring.reference(Family::V4, 1), None);
        assert_eq!(ring.dereference(Family::V4, 1), None);
        let released = ring.dereference(Family::V4, 1).unwrap();
        assert_eq!((released.range, released.ids.len()), (Some((1, 5)), 5));
        assert_eq!(ring.allocate(1), None);
        ring.release(1, 5);
        assert_eq!(ring.allocate(5), Some(1));
    }

    #[test]
    fn what_was_never_published_is_free_at_once() {
        let mut ring = Ring::new(8);
        let (promised, written) = (ring.allocate(2).unwrap(), ring.allocate(3).unwrap());
        ring.written(written, &[1, 2, 3]);
        assert_eq!(ring.contents(written, 3), Some([1, 2, 3].as_slice()));
        ring.withdraw_all();
        assert_eq!((promised, ring.longest(), ring.contents(written, 3)), (1, 7, None));
    }

    #[test]
    fn overlapping_ranges_of_a_predecessor_are_one_extent() {
        let contents = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        let mut ring = Ring::restore(10, &contents, vec![(4, 3), (2, 3), (7, 1), (2, 3)]);
        assert_eq!(ring.contents(4, 3), Some([4, 5, 6].as_slice()));
        assert_eq!(ring.contents(6, 2), None);
        assert_eq!(ring.taken(), 6);
        ring.reference(Family::V4, 2);
        ring.reference(Family::V6, 4);
        assert_eq!(ring.dereference(Family::V4, 2).unwrap().range, None);
        assert_eq!(ring.dereference(Family::V6, 4).unwrap().range, Some((2, 5)));
        assert!(ring.is_used(7, 1) && ring.is_used(1, 9) && !ring.is_used(8, 2) && !ring.is_used(1, 6));
    }

    #[test]
    fn only_ranges_inside_the_ring_and_after_the_probe_are_valid() {
        let cases =
            [(1, 1, true), (0, 2, false), (1, 0, false), (7, 1, true), (7, 2, false), (u32::MAX, 2, false)];
        for (base, length, valid) in cases {
            assert_eq!(Ring::is_valid(8, base, length), valid, "{base}+{length}");
        }
    }
}
