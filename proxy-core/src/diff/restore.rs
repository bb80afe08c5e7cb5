//! The shadow at start: from what a predecessor left in the kernel, wherever it was when it ended.
//!
//! Must not know what is wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use super::{
    Capacities, Planner, RealisedDump, ServiceOp,
    commit::length,
    holding::Holding,
    records::{Realised, Records},
};
use crate::{
    desired::Family,
    entries::{BackendKey, RecordKind, canonical},
    ids::{BackendTable, PerFamily, Quarantine, Ring, ServiceIds},
    model::ObjectName,
};

impl Planner {
    /// The shadow of what the maps hold. Nothing has an owner yet: start with [`Planner::plan_full`].
    ///
    /// Torn records are rewritten or removed by that plan, backends without a reference go into quarantine, ranges of
    /// the ring without one are free. A reader may still be at work with a record that the predecessor replaced last:
    /// let a grace period pass between its end and the first write.
    pub fn restore(dump: &RealisedDump, capacities: Capacities) -> Self {
        let records = records(dump);
        let ring_len = u32::try_from(dump.ring.len()).unwrap_or(u32::MAX).min(capacities.ring);
        let mut planner = Self {
            capacities,
            records: Records::default(),
            services: BTreeMap::new(),
            leaving: BTreeMap::new(),
            backends: backends(dump, capacities.backends),
            ring: Ring::restore(capacities.ring, &dump.ring, spans(&records, ring_len)),
            ids: ServiceIds::new(),
            quarantine: Quarantine::default(),
            planned: BTreeSet::new(),
        };
        for (id, network) in &dump.source_ranges {
            planner.ids.range_added(*id, canonical(network));
        }
        for record in &records {
            if let Some(value) = record.value().filter(|_| record.key().kind() == RecordKind::Frontend) {
                planner.ids.found(value.service_id, value.generation);
            }
            planner.commit_record(record);
        }
        planner.quarantine_unreferenced();
        planner
    }

    /// Generations of service ids that are new from now on begin after `first` (its lower 31 bits). Call it after
    /// [`Planner::restore`] with a number drawn at random: sockets outlive the maps and may remember an id that is given
    /// out anew, and take its record for the one they knew if the generation is the same.
    pub fn start_generations_at(&mut self, first: u32) {
        self.ids.start_generations_at(first);
    }

    /// Replaces the shadow by what the maps really hold, for an audit while running. What waits for a grace period
    /// starts waiting anew; epochs sealed before mean nothing now. Plan all Services next.
    pub fn reload(&mut self, dump: &RealisedDump) {
        let mut earlier = mem::replace(self, Self::restore(dump, self.capacities));
        self.ids.follow(&earlier.ids);
        let ranges = earlier.quarantine.ranges().filter(|(base, length)| !self.ring.is_used(*base, *length));
        let ranges: Vec<(u32, u32)> = ranges.collect();
        ranges.iter().for_each(|(base, length)| self.ring.reserve(*base, *length));
        self.quarantine.follow(&earlier.quarantine, &ranges);
        // Whoever lost something in a plan that was dropped still has it.
        earlier.prune_leaving();
        earlier.undo_take_overs();
        for (owner, holding) in mem::take(&mut earlier.services) {
            self.inherit(owner, holding, &earlier.records);
        }
        for (owner, left) in mem::take(&mut earlier.leaving) {
            self.take_back(owner, left);
        }
    }

    /// A Service keeps what the shadow knew to be its own, as far as it is in the kernel.
    fn inherit(&mut self, owner: Arc<ObjectName>, mut holding: Holding, earlier: &Records) {
        holding.keys.retain(|key| self.records.realised(key) != Realised::Absent);
        holding.ports.retain(|port| self.ids.claim(port.id));
        for key in &holding.keys {
            self.records.want(*key, &owner, earlier.owns_address(key));
        }
        if !holding.is_empty() {
            self.services.insert(owner, holding);
        }
    }

    fn quarantine_unreferenced(&mut self) {
        for family in [Family::V4, Family::V6] {
            let table = self.backends.get_mut(family);
            table.prefer_referenced();
            table.unreferenced().for_each(|id| self.quarantine.add_backend(family, id));
        }
    }
}

fn records(dump: &RealisedDump) -> Vec<ServiceOp> {
    let v4 = dump.services4.iter().map(|(key, value)| ServiceOp::V4(*key, Some(*value)));
    let v6 = dump.services6.iter().map(|(key, value)| ServiceOp::V6(*key, Some(*value)));
    v4.chain(v6).collect()
}

/// The ranges of the ring that whole service records refer to.
fn spans(records: &[ServiceOp], ring_len: u32) -> Vec<(u32, u32)> {
    let whole = records.iter().filter(|op| op.is_whole() && op.key().kind() == RecordKind::Frontend);
    let spans = whole.filter_map(|op| op.value().and_then(|value| Some((value.ring_base, length(value)?))));
    spans.filter(|(base, length)| Ring::is_valid(ring_len, *base, *length)).collect()
}

fn backends(dump: &RealisedDump, capacity: u32) -> PerFamily<BackendTable> {
    let mut backends = PerFamily::from_fn(|_| BackendTable::new(capacity));
    for (id, value) in &dump.backends4 {
        backends.get_mut(Family::V4).written(*id, BackendKey::of_v4(*id, value));
    }
    for (id, value) in &dump.backends6 {
        backends.get_mut(Family::V6).written(*id, BackendKey::of_v6(*id, value));
    }
    backends
}
