//! The shadow follows the kernel: one write at a time.
//!
//! Must not decide what to write.

use proxy_common::ServiceValue;

use super::{BackendOp, MapOp, Planner, ServiceOp, records::Realised};
use crate::{
    desired::Family,
    entries::{RecordKind, canonical},
    ids::Ring,
};

impl Planner {
    /// The write succeeded.
    pub fn commit(&mut self, op: &MapOp) {
        match op {
            MapOp::Backend(op) => self.commit_backend(op),
            MapOp::WriteRing { base, ids } => self.ring.written(*base, ids),
            MapOp::PutSourceRange { service_id, network } => {
                self.ids.range_added(*service_id, canonical(network));
            }
            MapOp::DeleteSourceRange { service_id, network } => {
                if self.ids.range_removed(*service_id, canonical(network)) {
                    self.quarantine.add_service_id(*service_id);
                }
            }
            MapOp::Service(op) => self.commit_record(op),
        }
    }

    fn commit_backend(&mut self, op: &BackendOp) {
        let (family, id) = (op.family(), op.id());
        let table = self.backends.get_mut(family);
        if op.is_clear() {
            table.cleared(id);
            self.quarantine.remove_backend(family, id);
            return;
        }
        table.written(id, op.key());
        // Until a published record refers to it, it is a backend that nobody needs: if its plan is dropped, it goes.
        if !table.is_referenced(id) {
            self.quarantine.add_backend(family, id);
        }
    }

    pub(super) fn commit_record(&mut self, op: &ServiceOp) {
        let (key, now) = (op.key(), self.classify(op));
        if key.kind() == RecordKind::Address {
            return self.records.realise_address(key, now);
        }
        // First take, then let go: a record that only changes its flags keeps its range all the time.
        if let Realised::Whole(value) = now {
            self.take(key.family(), &value);
        }
        if let Realised::Whole(before) = self.records.realise(key, now) {
            self.let_go(key.family(), &before);
        }
    }

    /// Whether readers accept a record, and its range is one that holds backend ids.
    fn classify(&self, op: &ServiceOp) -> Realised {
        let Some(value) = op.value() else { return Realised::Absent };
        let possible = match length(value) {
            Some(0) => true,
            Some(length) => {
                Ring::is_valid(self.capacities.ring, value.ring_base, length)
                    && self.ring.contents(value.ring_base, length).is_some()
            }
            None => false,
        };
        if possible && op.is_whole() { Realised::Whole(*value) } else { Realised::Torn }
    }

    fn take(&mut self, family: Family, value: &ServiceValue) {
        self.ids.record_added(value.service_id, value.generation);
        if length(value) == Some(0) {
            return;
        }
        let table = self.backends.get_mut(family);
        for id in self.ring.reference(family, value.ring_base).unwrap_or_default() {
            table.reference(*id);
            self.quarantine.remove_backend(family, *id);
            self.planned.remove(&(family, *id));
        }
    }

    fn let_go(&mut self, family: Family, value: &ServiceValue) {
        if self.ids.record_removed(value.service_id) {
            self.quarantine.add_service_id(value.service_id);
        }
        if length(value) == Some(0) {
            return;
        }
        let Some(released) = self.ring.dereference(family, value.ring_base) else { return };
        let table = self.backends.get_mut(family);
        for id in released.ids {
            if table.dereference(id) {
                self.quarantine.add_backend(family, id);
            }
        }
        if let Some((base, length)) = released.range {
            self.quarantine.add_range(base, length);
        }
    }
}

/// Positions of the ring that a record refers to; `None` if there cannot be so many.
pub(super) fn length(value: &ServiceValue) -> Option<u32> {
    value.ring_len.checked_add(value.keep_len)
}
