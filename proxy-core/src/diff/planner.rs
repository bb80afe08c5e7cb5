//! The planner: what is wanted and what the kernel holds, to an ordered list of writes.
//!
//! Must not perform a write or know when a grace period has passed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proxy_common::BackendId;

use super::{
    BackendOp, Capacities, MapOp, Refusal,
    draft::Draft,
    holding::{Holding, Leaving},
    records::Records,
};
use crate::{
    desired::{DesiredService, Family},
    ids::{BackendTable, Epoch, PerFamily, Quarantine, Ring, ServiceIds},
    model::ObjectName,
};

/// Writes to do, in order, and the Services that do not fit.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// The writes, in an order of which every prefix is safe.
    pub ops: Vec<MapOp>,
    /// Services that keep what they have, because the new version does not fit.
    pub refused: Vec<Refusal>,
}

/// Places of the maps that are not free: in use, or waiting for a grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Records of `services4`.
    pub services4: u32,
    /// Records of `services6`.
    pub services6: u32,
    /// Positions of `ring`.
    pub ring: u32,
    /// Places of `backends4`.
    pub backends4: u32,
    /// Places of `backends6`.
    pub backends6: u32,
    /// Prefixes of `source_ranges`.
    pub source_ranges: u32,
}

/// The shadow of the kernel maps, and the only one who decides what is written to them.
///
/// Perform the writes of a plan, or of [`Planner::grace_passed`], one by one and [`Planner::commit`] each that
/// succeeded, before asking for more. When one fails, drop the rest and plan the same Services again later: the shadow
/// holds what was really written, and promises of the dropped rest are taken back.
#[derive(Clone, Debug)]
pub struct Planner {
    pub(super) capacities: Capacities,
    pub(super) records: Records,
    pub(super) services: BTreeMap<Arc<ObjectName>, Holding>,
    pub(super) leaving: BTreeMap<Arc<ObjectName>, Leaving>,
    pub(super) backends: PerFamily<BackendTable>,
    pub(super) ring: Ring,
    pub(super) ids: ServiceIds,
    pub(super) quarantine: Quarantine,
    /// Backends that the last plan counts on and no published record refers to: not to be cleared meanwhile.
    pub(super) planned: BTreeSet<(Family, BackendId)>,
}

impl Planner {
    /// Plans the Services that changed; `None` is a Service that is gone. No two Services may want the same frontend.
    ///
    /// Cost is proportional to these Services. What an earlier plan left to delete is in the plan as well.
    pub fn plan(&mut self, changed: &BTreeMap<ObjectName, Option<DesiredService>>) -> Plan {
        let mut draft = self.begin();
        for (name, desired) in changed {
            match desired {
                Some(desired) => self.admit(name, desired, &mut draft),
                None => self.forget(name, &mut draft),
            }
        }
        let refused = self.keep_refused(&mut draft, |name| changed.get(name)?.as_ref());
        self.finish(draft, refused)
    }

    /// Plans all Services: what the kernel holds and none of them wants is removed. Only for a complete list.
    pub fn plan_full(&mut self, wanted: &BTreeMap<ObjectName, DesiredService>) -> Plan {
        let mut draft = self.begin();
        let gone: Vec<Arc<ObjectName>> =
            self.services.keys().filter(|name| !wanted.contains_key(&***name)).cloned().collect();
        gone.iter().for_each(|name| self.forget(name, &mut draft));
        self.recognise(wanted);
        for (name, desired) in wanted {
            self.admit(name, desired, &mut draft);
        }
        let refused = self.keep_refused(&mut draft, |name| wanted.get(name));
        self.records.unwant_orphans();
        self.ids.retire_orphans().into_iter().for_each(|id| self.quarantine.add_service_id(id));
        self.finish(draft, refused)
    }

    /// Closes the current batch of freed things; `None` if nothing was freed since the last one. Call it after the
    /// writes of a plan, then obtain a grace period, then call [`Planner::grace_passed`].
    pub fn seal_epoch(&mut self) -> Option<Epoch> {
        self.quarantine.seal()
    }

    /// Makes what was freed in `epoch` and before reusable. The writes clear the freed backends; their ids are
    /// reusable when those are committed. A write that fails is offered again after a later epoch.
    pub fn grace_passed(&mut self, epoch: Epoch) -> Vec<MapOp> {
        let batch = self.quarantine.passed(epoch);
        batch.ranges.into_iter().for_each(|(base, length)| self.ring.release(base, length));
        batch.service_ids.into_iter().for_each(|id| self.ids.release(id));
        let mut ops = Vec::with_capacity(batch.backends.len());
        for (family, id) in batch.backends {
            self.quarantine.add_backend(family, id);
            if !self.planned.contains(&(family, id)) {
                self.backends.get_mut(family).retract(id);
                ops.push(MapOp::Backend(BackendOp::clear(family, id)));
            }
        }
        ops
    }

    /// Places that are not free.
    pub fn usage(&self) -> Usage {
        Usage {
            services4: self.records.used(Family::V4),
            services6: self.records.used(Family::V6),
            ring: self.ring.taken(),
            backends4: self.backends.get(Family::V4).taken(),
            backends6: self.backends.get(Family::V6).taken(),
            source_ranges: self.ids.range_count(),
        }
    }

    /// Service ids in use or in quarantine. After a restart, affinity entries of any other id are of Services that
    /// are gone and must be removed, as a new Service may get their id.
    pub fn service_ids(&self) -> impl Iterator<Item = u32> {
        self.ids.iter()
    }

    /// Takes back what the last plan was promised and did not write.
    fn begin(&mut self) -> Draft {
        self.ring.withdraw_all();
        self.backends.get_mut(Family::V4).withdraw_all();
        self.backends.get_mut(Family::V6).withdraw_all();
        self.planned.clear();
        self.prune_leaving();
        self.undo_take_overs();
        Draft::default()
    }

    /// What refused Services keep is known only when all others have said what they want.
    fn keep_refused<'a>(
        &mut self,
        draft: &mut Draft,
        desired: impl Fn(&ObjectName) -> Option<&'a DesiredService>,
    ) -> Vec<Refusal> {
        let refused = std::mem::take(&mut draft.refused);
        for (refusal, ids) in &refused {
            if let Some(desired) = desired(&refusal.service) {
                self.keep(&refusal.service, desired, ids, draft);
            }
        }
        refused.into_iter().map(|(refusal, _)| refusal).collect()
    }

    fn finish(&mut self, mut draft: Draft, refused: Vec<Refusal>) -> Plan {
        draft.dismissed.extend(self.ids.stale_ranges());
        let addresses = self.records.unsettled();
        Plan { ops: draft.into_ops(self.records.doomed(), &addresses), refused }
    }
}
