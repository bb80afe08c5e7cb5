//! Service ids: who has one, the generations seen under it, and the client prefixes admitted for it.
//!
//! Must not know what a Service is.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

/// What an id is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Use {
    /// Found in the kernel; whoever has the frontends of its records may claim it.
    #[default]
    Orphan,
    /// Like that, but several Services name frontends of its records: only who shall not change them may claim it.
    Contested,
    /// A ServicePort's.
    Live,
    /// Nobody's: to be freed when the last record and prefix are gone.
    Retired,
}

/// What is known of an id.
#[derive(Clone, Debug, Default)]
struct State {
    held: Use,
    /// Service records with this id.
    records: u32,
    /// Highest generation seen in such a record.
    generation: u32,
    /// Admitted prefixes in the kernel.
    ranges: BTreeSet<IpNetwork>,
}

/// All service ids in use or in quarantine.
#[derive(Clone, Debug)]
pub(crate) struct ServiceIds {
    states: BTreeMap<u32, State>,
    /// Where the search for a new id begins. It only grows, so that an id is not reused before all others were:
    /// affinity entries and sockets may remember a freed one for long.
    next: u32,
    /// Generations of new ids begin above this, so that none returns under a reused id.
    floor: u32,
    /// Number of prefixes in the kernel.
    range_count: u32,
    /// Retired ids that have prefixes.
    stale: BTreeSet<u32>,
    /// Prefixes that a plan adds ahead of the records that need them, until the first of those is written.
    ahead: BTreeMap<u32, BTreeSet<IpNetwork>>,
}

impl ServiceIds {
    /// No ids.
    pub(crate) fn new() -> Self {
        Self {
            states: BTreeMap::new(),
            next: 1,
            floor: 0,
            range_count: 0,
            stale: BTreeSet::new(),
            ahead: BTreeMap::new(),
        }
    }

    /// Generations of ids that are new from now on begin above `first`, even if higher ones were found. So that at
    /// least as many changes fit above it, only its lower 31 bits count.
    pub(crate) fn start_generations_at(&mut self, first: u32) {
        self.floor = first & (u32::MAX >> 1);
    }

    /// A new id, in use from now on.
    pub(crate) fn allocate(&mut self) -> u32 {
        let mut id = self.next.max(1);
        while self.states.contains_key(&id) {
            id = id.wrapping_add(1).max(1);
        }
        self.next = id.wrapping_add(1).max(1);
        self.states.insert(id, State { held: Use::Live, generation: self.floor, ..State::default() });
        id
    }

    /// Takes an id found in the kernel; false if it is not to be had.
    pub(crate) fn claim(&mut self, id: u32) -> bool {
        let Some(state) = self.states.get_mut(&id).filter(|state| state.held == Use::Orphan) else {
            return false;
        };
        state.held = Use::Live;
        true
    }

    /// Whether an id was found in the kernel and nobody has it yet.
    pub(crate) fn is_unclaimed(&self, id: u32) -> bool {
        self.states.get(&id).is_some_and(|state| state.held == Use::Orphan)
    }

    /// Several Services name frontends of an id found in the kernel.
    pub(crate) fn contest(&mut self, id: u32) {
        if let Some(state) = self.states.get_mut(&id).filter(|state| state.held == Use::Orphan) {
            state.held = Use::Contested;
        }
    }

    /// Like [`ServiceIds::claim`], for a Service whose records are not to change.
    pub(crate) fn claim_contested(&mut self, id: u32) -> bool {
        if let Some(state) = self.states.get_mut(&id).filter(|state| state.held == Use::Contested) {
            state.held = Use::Orphan;
        }
        self.claim(id)
    }

    /// Whether a retired id still has records in the kernel.
    pub(crate) fn is_leaving(&self, id: u32) -> bool {
        self.states.get(&id).is_some_and(|state| state.held == Use::Retired && state.records > 0)
    }

    /// The id's ServicePort is back before its records were gone; false if they are.
    pub(crate) fn revive(&mut self, id: u32) -> bool {
        let Some(state) = self.states.get_mut(&id) else { return false };
        let is_leaving = state.held == Use::Retired && state.records > 0;
        if is_leaving {
            state.held = Use::Live;
            self.stale.remove(&id);
        }
        is_leaving
    }

    /// The id's ServicePort is gone. True if the id can go into quarantine.
    #[must_use]
    pub(crate) fn retire(&mut self, id: u32) -> bool {
        let Some(state) = self.states.get_mut(&id) else { return false };
        state.held = Use::Retired;
        if !state.ranges.is_empty() {
            self.stale.insert(id);
        }
        self.is_unused(id)
    }

    /// Retires every id that nobody claimed; gives those that can go into quarantine.
    #[must_use]
    pub(crate) fn retire_orphans(&mut self) -> Vec<u32> {
        let is_orphan = |state: &State| matches!(state.held, Use::Orphan | Use::Contested);
        let orphans: Vec<u32> =
            self.states.iter().filter(|(_, state)| is_orphan(state)).map(|(id, _)| *id).collect();
        orphans.into_iter().filter(|id| self.retire(*id)).collect()
    }

    /// A record with this id was in the kernel at start: ids and generations go on after it.
    pub(crate) fn found(&mut self, id: u32, generation: u32) {
        self.floor = self.floor.max(generation);
        self.next = self.next.max(id.wrapping_add(1));
    }

    /// A record with this id was written.
    pub(crate) fn record_added(&mut self, id: u32, generation: u32) {
        self.ahead.remove(&id);
        let state = self.states.entry(id).or_default();
        state.records = state.records.saturating_add(1);
        state.generation = state.generation.max(generation);
    }

    /// A record with this id was replaced or deleted. True if the id can go into quarantine.
    #[must_use]
    pub(crate) fn record_removed(&mut self, id: u32) -> bool {
        let Some(state) = self.states.get_mut(&id) else { return false };
        state.records = state.records.saturating_sub(1);
        self.is_unused(id)
    }

    /// Forgets an id whose quarantine is over.
    pub(crate) fn release(&mut self, id: u32) {
        if self.is_unused(id)
            && let Some(state) = self.states.remove(&id)
        {
            self.ahead.remove(&id);
            self.floor = self.floor.max(state.generation);
        }
    }

    /// The highest generation seen under an id; for a new id the one before its first.
    pub(crate) fn generation(&self, id: u32) -> u32 {
        self.states.get(&id).map_or(self.floor, |state| state.generation)
    }

    /// A plan adds these prefixes ahead of records that need them.
    pub(crate) fn ranges_ahead(&mut self, id: u32, networks: impl IntoIterator<Item = IpNetwork>) {
        let networks = networks.into_iter().collect::<BTreeSet<_>>();
        if !networks.is_empty() {
            self.ahead.entry(id).or_default().extend(networks);
        }
    }

    /// Prefixes that are in the kernel and no record needed yet.
    pub(crate) fn unneeded_ranges(&self, id: u32) -> impl Iterator<Item = IpNetwork> {
        let ahead = self.ahead.get(&id).into_iter().flatten().copied();
        ahead.filter(move |network| self.has_range(id, *network))
    }

    /// Admits a prefix.
    pub(crate) fn range_added(&mut self, id: u32, network: IpNetwork) {
        if self.states.entry(id).or_default().ranges.insert(network) {
            self.range_count = self.range_count.saturating_add(1);
        }
    }

    /// Forgets a prefix. True if the id can go into quarantine.
    #[must_use]
    pub(crate) fn range_removed(&mut self, id: u32, network: IpNetwork) -> bool {
        let Some(state) = self.states.get_mut(&id) else { return false };
        if state.ranges.remove(&network) {
            self.range_count = self.range_count.saturating_sub(1);
        }
        if state.ranges.is_empty() {
            self.stale.remove(&id);
        }
        self.is_unused(id)
    }

    /// The prefixes of an id that are in the kernel.
    pub(crate) fn ranges(&self, id: u32) -> impl Iterator<Item = IpNetwork> {
        self.states.get(&id).into_iter().flat_map(|state| state.ranges.iter().copied())
    }

    /// Whether a prefix of an id is in the kernel.
    pub(crate) fn has_range(&self, id: u32, network: IpNetwork) -> bool {
        self.states.get(&id).is_some_and(|state| state.ranges.contains(&network))
    }

    /// How many prefixes there are in the kernel.
    pub(crate) fn range_count(&self) -> u32 {
        self.range_count
    }

    /// Prefixes of retired ids.
    pub(crate) fn stale_ranges(&self) -> impl Iterator<Item = (u32, IpNetwork)> {
        self.stale.iter().flat_map(|id| self.ranges(*id).map(|network| (*id, network)))
    }

    /// Ids in use, those in quarantine included.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        self.states.keys().copied()
    }

    /// Goes on after `earlier`: what it gave out is not given out again.
    pub(crate) fn follow(&mut self, earlier: &Self) {
        self.next = self.next.max(earlier.next);
        self.floor = self.floor.max(earlier.floor);
    }

    fn is_unused(&self, id: u32) -> bool {
        self.states
            .get(&id)
            .is_some_and(|state| state.held == Use::Retired && state.records == 0 && state.ranges.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_start_at_one_and_are_not_reused_at_once() {
        let mut ids = ServiceIds::new();
        assert_eq!([ids.allocate(), ids.allocate()], [1, 2]);
        assert!(ids.retire(1));
        ids.release(1);
        assert_eq!(ids.allocate(), 3);
    }

    #[test]
    fn a_reused_id_goes_on_with_higher_generations() {
        let mut ids = ServiceIds::new();
        let first = ids.allocate();
        ids.record_added(first, 41);
        assert!(!ids.retire(first));
        assert!(ids.record_removed(first));
        ids.release(first);
        ids.next = u32::MAX;
        assert_eq!([ids.allocate(), ids.allocate()], [u32::MAX, 1]);
        assert_eq!(ids.generation(1), 41);
    }

    /// What sockets remember of an id that was used before this process must not match by chance.
    #[test]
    fn new_ids_begin_where_they_are_told_and_known_ones_go_on() {
        let mut ids = ServiceIds::new();
        ids.found(3, 900);
        ids.record_added(3, 900);
        ids.start_generations_at(500);
        let new = ids.allocate();
        assert_eq!([ids.generation(3), ids.generation(new)], [900, 500]);
        ids.start_generations_at(u32::MAX);
        let new = ids.allocate();
        assert_eq!(ids.generation(new), u32::MAX / 2);
    }

    #[test]
    fn an_id_is_free_only_without_records_and_prefixes() {
        let network = "192.0.2.0/24".parse().unwrap();
        let mut ids = ServiceIds::new();
        let id = ids.allocate();
        ids.record_added(id, 1);
        ids.range_added(id, network);
        assert!(!ids.retire(id));
        assert!(!ids.record_removed(id));
        ids.release(id);
        assert_eq!(ids.stale_ranges().collect::<Vec<_>>(), [(id, network)]);
        assert!(ids.range_removed(id, network));
        assert_eq!((ids.stale_ranges().count(), ids.range_count()), (0, 0));
        ids.release(id);
        assert_eq!(ids.iter().count(), 0);
    }

    #[test]
    fn a_prefix_is_unneeded_until_a_record_is_written() {
        let network = "192.0.2.0/24".parse().unwrap();
        let mut ids = ServiceIds::new();
        let id = ids.allocate();
        ids.ranges_ahead(id, [network]);
        assert_eq!(ids.unneeded_ranges(id).count(), 0);
        ids.range_added(id, network);
        assert_eq!(ids.unneeded_ranges(id).collect::<Vec<_>>(), [network]);
        ids.record_added(id, 1);
        assert_eq!(ids.unneeded_ranges(id).count(), 0);
    }

    #[test]
    fn a_contested_id_is_claimed_only_by_who_does_not_change_its_records() {
        let mut ids = ServiceIds::new();
        for id in [5, 6] {
            ids.record_added(id, 1);
            ids.contest(id);
            assert!(!ids.claim(id));
        }
        assert!(ids.claim_contested(5) && !ids.claim_contested(5));
        assert!(ids.retire_orphans().is_empty());
        assert!(ids.is_leaving(6) && !ids.claim_contested(6));
    }

    #[test]
    fn a_retired_id_returns_only_while_it_has_records() {
        let network = "192.0.2.0/24".parse().unwrap();
        let mut ids = ServiceIds::new();
        let id = ids.allocate();
        ids.record_added(id, 1);
        ids.range_added(id, network);
        assert!(!ids.is_leaving(id) && !ids.revive(id));
        assert!(!ids.retire(id));
        assert!(ids.is_leaving(id) && ids.revive(id));
        assert_eq!(ids.stale_ranges().count(), 0);
        assert!(!ids.record_removed(id) && !ids.retire(id));
        assert!(!ids.is_leaving(id) && !ids.revive(id));
    }

    #[test]
    fn an_id_found_in_the_kernel_is_claimed_once_or_retired() {
        let mut ids = ServiceIds::new();
        for (id, generation) in [(5, 2), (8, 1)] {
            ids.found(id, generation);
            ids.record_added(id, generation);
        }
        assert!(ids.claim(5));
        assert!(!ids.claim(5));
        assert_eq!(ids.allocate(), 9);
        assert_eq!(ids.generation(9), 2);
        assert!(ids.retire_orphans().is_empty());
        assert!(ids.record_removed(8));
        assert!(!ids.claim(8));
    }
}
