//! The places of one backends array: which are used, by what, and how often they are referred to.
//!
//! Must not know which lists a backend is in.

use std::collections::BTreeMap;

use proxy_common::{BackendId, names::PROBE_SLOT};

use super::ranges::FreeRanges;
use crate::entries::BackendKey;

/// A place that is in use in the kernel.
#[derive(Clone, Debug, Default)]
struct Place {
    /// What it holds; `None` if that is no whole record.
    key: Option<BackendKey>,
    /// Number of published ring extents that name it.
    references: u32,
}

/// The backends of one family.
#[derive(Clone, Debug)]
pub(crate) struct BackendTable {
    capacity: u32,
    free: FreeRanges,
    /// By id: ids are dense.
    places: Vec<Option<Place>>,
    by_key: BTreeMap<BackendKey, BackendId>,
    /// Allocated by a plan whose write was not committed yet.
    tentative: BTreeMap<BackendId, BackendKey>,
}

impl BackendTable {
    /// An empty array.
    pub(crate) fn new(capacity: u32) -> Self {
        let free = FreeRanges::new(PROBE_SLOT.saturating_add(1)..capacity);
        Self { capacity, free, places: Vec::new(), by_key: BTreeMap::new(), tentative: BTreeMap::new() }
    }

    /// How many places are free.
    pub(crate) fn available(&self) -> u32 {
        self.free.total()
    }

    /// How many places are not free, those in quarantine included.
    pub(crate) fn taken(&self) -> u32 {
        self.capacity.saturating_sub(1).saturating_sub(self.free.total())
    }

    /// The id of a backend, written or allocated.
    pub(crate) fn id(&self, key: &BackendKey) -> Option<BackendId> {
        self.by_key.get(key).copied()
    }

    /// The backend in a place; `None` if that holds no whole record.
    pub(crate) fn key(&self, id: BackendId) -> Option<BackendKey> {
        self.places.get(id as usize)?.as_ref()?.key
    }

    /// Gives a new backend the lowest free id. It is a promise only, until [`Self::written`].
    pub(crate) fn allocate(&mut self, key: BackendKey) -> Option<BackendId> {
        let id = self.free.take_lowest()?;
        self.tentative.insert(id, key);
        self.by_key.insert(key, id);
        Some(id)
    }

    /// Takes a promise back.
    pub(crate) fn withdraw(&mut self, id: BackendId) {
        if let Some(key) = self.tentative.remove(&id) {
            self.by_key.remove(&key);
            self.free.release(id, 1);
        }
    }

    /// Takes every promise back.
    pub(crate) fn withdraw_all(&mut self) {
        let ids: Vec<BackendId> = self.tentative.keys().copied().collect();
        ids.into_iter().for_each(|id| self.withdraw(id));
    }

    /// The kernel holds this at `id` now; `None` is something that is no whole record.
    pub(crate) fn written(&mut self, id: BackendId, key: Option<BackendKey>) {
        if !self.is_allocatable(id) {
            return;
        }
        self.tentative.remove(&id);
        self.free.carve(id, 1);
        if let Some(place) = self.place(id) {
            place.get_or_insert_default().key = key;
        }
        if let Some(key) = key {
            self.by_key.entry(key).or_insert(id);
        }
    }

    /// The kernel holds nothing at `id` now, and nothing refers to it.
    pub(crate) fn cleared(&mut self, id: BackendId) {
        if !self.is_allocatable(id) {
            return;
        }
        self.retract(id);
        if self.place(id).and_then(Option::take).is_some() {
            self.free.release(id, 1);
        }
    }

    /// No plan may choose this place any more: it is about to be cleared.
    pub(crate) fn retract(&mut self, id: BackendId) {
        if let Some(key) = self.used(id).and_then(|place| place.key)
            && self.by_key.get(&key) == Some(&id)
        {
            self.by_key.remove(&key);
        }
    }

    /// A published extent names `id`.
    pub(crate) fn reference(&mut self, id: BackendId) {
        if self.is_allocatable(id) {
            self.free.carve(id, 1);
            if let Some(place) = self.place(id).map(Option::get_or_insert_default) {
                place.references = place.references.saturating_add(1);
            }
        }
    }

    /// A published extent that named `id` is gone; true if it was the last one.
    pub(crate) fn dereference(&mut self, id: BackendId) -> bool {
        let Some(Some(place)) = self.places.get_mut(id as usize) else { return false };
        let referenced = place.references > 0;
        place.references = place.references.saturating_sub(1);
        referenced && place.references == 0
    }

    /// Whether a published extent names `id`.
    pub(crate) fn is_referenced(&self, id: BackendId) -> bool {
        self.used(id).is_some_and(|place| place.references > 0)
    }

    /// The used places to which nothing refers.
    pub(crate) fn unreferenced(&self) -> impl Iterator<Item = BackendId> {
        self.iter().filter(|(_, place)| place.references == 0).map(|(id, _)| id)
    }

    /// After a restore: of several places with the same backend, the lowest that is referred to counts.
    pub(crate) fn prefer_referenced(&mut self) {
        let places = self.iter().filter(|(_, place)| place.references > 0);
        let mut by_key: Vec<_> = places.filter_map(|(id, place)| Some((place.key?, id))).collect();
        by_key.reverse();
        self.by_key.extend(by_key);
    }

    fn iter(&self) -> impl Iterator<Item = (BackendId, &Place)> {
        (0..).zip(&self.places).filter_map(|(id, place)| Some((id, place.as_ref()?)))
    }

    fn used(&self, id: BackendId) -> Option<&Place> {
        self.places.get(id as usize)?.as_ref()
    }

    /// The place of an id, used or not; the list grows by little, as it stays for long.
    fn place(&mut self, id: BackendId) -> Option<&mut Option<Place>> {
        let length = id as usize + 1;
        if length > self.places.len() {
            if length > self.places.capacity() {
                self.places.reserve_exact(length - self.places.len() + length / 16);
            }
            self.places.resize_with(length, || None);
        }
        self.places.get_mut(id as usize)
    }

    fn is_allocatable(&self, id: BackendId) -> bool {
        id != PROBE_SLOT && id < self.capacity
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::BackendFlags;

    use super::*;

    fn key(last: u8) -> BackendKey {
        let address = [10, 244, 0, last].into();
        BackendKey { address, port: 8080, protocol: 6, flags: BackendFlags::default() }
    }

    #[test]
    fn ids_are_dense_and_start_after_the_probe() {
        let mut table = BackendTable::new(4);
        let ids: Vec<_> = (1..=4).map(|last| table.allocate(key(last))).collect();
        assert_eq!(ids, [Some(1), Some(2), Some(3), None]);
        table.withdraw(2);
        assert_eq!((table.allocate(key(9)), table.id(&key(9)), table.id(&key(2))), (Some(2), Some(2), None));
    }

    #[test]
    fn a_promise_that_was_not_kept_is_free_again() {
        let mut table = BackendTable::new(4);
        table.allocate(key(1));
        table.allocate(key(2));
        table.written(2, Some(key(2)));
        table.withdraw_all();
        assert_eq!((table.id(&key(1)), table.id(&key(2)), table.available()), (None, Some(2), 2));
    }

    #[test]
    fn an_id_is_reusable_only_after_its_place_was_cleared() {
        let mut table = BackendTable::new(3);
        table.allocate(key(1));
        table.written(1, Some(key(1)));
        table.reference(1);
        table.reference(1);
        assert!(!table.dereference(1));
        assert!(table.dereference(1));
        assert!(!table.dereference(1));
        assert_eq!(table.allocate(key(2)), Some(2));
        assert_eq!(table.allocate(key(3)), None);
        table.cleared(1);
        assert_eq!(table.allocate(key(3)), Some(1));
    }

    #[test]
    fn of_equal_backends_the_lowest_in_use_counts() {
        let mut table = BackendTable::new(9);
        for id in [2, 4, 6] {
            table.written(id, Some(key(1)));
        }
        [4, 6].into_iter().for_each(|id| table.reference(id));
        table.prefer_referenced();
        assert_eq!(table.id(&key(1)), Some(4));
        assert_eq!(table.unreferenced().collect::<Vec<_>>(), [2]);
        table.cleared(2);
        assert_eq!(table.id(&key(1)), Some(4));
    }

    #[test]
    fn the_probe_and_places_outside_the_array_are_nobodys() {
        let mut table = BackendTable::new(3);
        for id in [0, 3, u32::MAX] {
            table.reference(id);
            table.written(id, Some(key(1)));
        }
        assert_eq!((table.id(&key(1)), table.available(), table.taken()), (None, 2, 0));
    }

    #[test]
    fn a_place_with_a_torn_record_is_used_while_something_names_it() {
        let mut table = BackendTable::new(3);
        table.reference(1);
        table.written(1, None);
        assert_eq!((table.allocate(key(1)), table.allocate(key(2))), (Some(2), None));
        assert!(table.is_referenced(1) && !table.is_referenced(2));
    }
}
