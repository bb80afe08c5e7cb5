//! One Service: all of its new version, or nothing of it.
//!
//! Allocates backend ids and ring ranges as promises, compares with the records in the kernel, and when all fits
//! hands the writes to the draft. Must not know the write order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proxy_common::{BackendId, ServiceValue, names};

use super::{
    BackendOp, Planner, Refusal,
    demand::{WantedList, count, frontends, lists},
    draft::Draft,
    holding::{Holding, PortHolding},
    records::Realised,
};
use crate::{
    desired::{DesiredService, DesiredServicePort, Family, Frontend, ListKind},
    entries::{RecordKey, RingSlice, masked_ranges, record},
    model::ObjectName,
};

/// The new version of a Service.
#[derive(Debug, Default)]
struct ServiceDraft<'a> {
    ports: Vec<PortDraft<'a>>,
    backends: Vec<BackendOp>,
    rings: Vec<(u32, Vec<BackendId>)>,
}

/// The new version of a ServicePort in a family.
#[derive(Debug)]
struct PortDraft<'a> {
    port: &'a DesiredServicePort,
    id: Option<u32>,
    lists: Vec<ListDraft>,
    /// Frontends whose record must be put.
    changed: Vec<&'a Frontend>,
}

/// A list with its place in the ring.
#[derive(Debug)]
struct ListDraft {
    kinds: Vec<ListKind>,
    ids: Vec<BackendId>,
    selectable: u32,
    /// A record of this ServicePort in the kernel that has exactly this list.
    published: Option<ServiceValue>,
    /// A frontend's record changes, rather than being added to others with the same list.
    changes: bool,
    base: u32,
}

impl Planner {
    /// Drafts the new version of a Service; if it does not fit, notes that it is refused.
    pub(super) fn admit(&mut self, name: &ObjectName, desired: &DesiredService, draft: &mut Draft) {
        let ids: Vec<Option<u32>> = desired.ports.iter().map(|port| self.known_id(name, port)).collect();
        let room = self.check_room(name, desired, &ids, draft.admitted.len());
        match room.and_then(|()| self.draft_service(name, desired, &ids)) {
            Ok(service) => self.accept(name, service, draft),
            Err(refusal) => draft.refused.push((refusal, ids)),
        }
    }

    /// A Service wants nothing any more.
    pub(super) fn forget(&mut self, name: &ObjectName, draft: &mut Draft) {
        if self.services.contains_key(name) {
            self.accept(name, ServiceDraft::default(), draft);
        }
    }

    fn draft_service<'a>(
        &mut self,
        name: &ObjectName,
        desired: &'a DesiredService,
        ids: &[Option<u32>],
    ) -> Result<ServiceDraft<'a>, Refusal> {
        let mut service = ServiceDraft::default();
        for (port, id) in desired.ports.iter().zip(ids) {
            if let Err(needed) = self.draft_port(port, *id, &mut service) {
                let refusal = Refusal {
                    service: name.clone(),
                    map: names::RING,
                    needed,
                    available: self.ring.longest(),
                    capacity: self.capacities.ring,
                };
                self.withdraw(&service);
                return Err(refusal);
            }
        }
        Ok(service)
    }

    fn withdraw(&mut self, service: &ServiceDraft<'_>) {
        service.backends.iter().for_each(|op| self.backends.get_mut(op.family()).withdraw(op.id()));
        service.rings.iter().for_each(|(base, _)| self.ring.withdraw(*base));
    }

    /// Drafts one port. Error: the length of a ring range that was not found.
    fn draft_port<'a>(
        &mut self,
        port: &'a DesiredServicePort,
        id: Option<u32>,
        service: &mut ServiceDraft<'a>,
    ) -> Result<(), u32> {
        let mut drafts = Vec::new();
        for wanted in lists(port) {
            let ids = self.backend_ids(port.family, &wanted, service)?;
            let selectable = count(wanted.selectable);
            let mut list =
                ListDraft { kinds: wanted.kinds, ids, selectable, published: None, changes: false, base: 0 };
            list.published = self.published(port, id, &list);
            drafts.push(list);
        }
        let mut changed = Vec::new();
        for list in &mut drafts {
            let of_list = || frontends(port).filter(|frontend| list.kinds.contains(&frontend.list));
            let before = changed.len();
            changed.extend(of_list().filter(|frontend| !self.is_current(port, id, frontend, list)));
            let rewritten = changed.get(before..).unwrap_or_default();
            list.changes = rewritten.iter().any(|frontend| self.record_of(id, frontend).is_some());
            list.base = self.place(list, !rewritten.is_empty(), service)?;
        }
        service.ports.push(PortDraft { port, id, lists: drafts, changed });
        Ok(())
    }

    /// The ids of a list's backends; new backends get one.
    fn backend_ids(
        &mut self,
        family: Family,
        wanted: &WantedList,
        service: &mut ServiceDraft<'_>,
    ) -> Result<Vec<BackendId>, u32> {
        let table = self.backends.get_mut(family);
        let mut ids = Vec::with_capacity(wanted.backends.len());
        for key in &wanted.backends {
            let id = match table.id(key) {
                Some(id) => id,
                None => {
                    // There is room: that was checked for the whole Service.
                    let id = table.allocate(*key).ok_or(1_u32)?;
                    service.backends.push(key.put(id));
                    id
                }
            };
            ids.push(id);
        }
        Ok(ids)
    }

    /// Where the list is in the ring, or a new place if a record needs one.
    fn place(&mut self, list: &ListDraft, needed: bool, service: &mut ServiceDraft<'_>) -> Result<u32, u32> {
        if let Some(value) = list.published {
            return Ok(value.ring_base);
        }
        if list.ids.is_empty() || !needed {
            return Ok(0);
        }
        let length = count(list.ids.len());
        let base = self.ring.allocate(length).ok_or(length)?;
        service.rings.push((base, list.ids.clone()));
        Ok(base)
    }

    /// The record of a frontend in the kernel, if it belongs to this service id.
    fn record_of(&self, id: Option<u32>, frontend: &Frontend) -> Option<ServiceValue> {
        match self.records.realised(&RecordKey::from(&frontend.key)) {
            Realised::Whole(value) if Some(value.service_id) == id => Some(value),
            _ => None,
        }
    }

    /// Whether a record in the kernel has exactly this list.
    fn has_list(&self, value: &ServiceValue, list: &ListDraft) -> bool {
        let length = value.ring_len.saturating_add(value.keep_len);
        value.ring_len == list.selectable
            && self.ring.contents(value.ring_base, length) == Some(list.ids.as_slice())
    }

    /// The newest record that has exactly this list and goes on having it: its range stays where it is, whatever the
    /// order of the writes.
    fn published(
        &self,
        port: &DesiredServicePort,
        id: Option<u32>,
        list: &ListDraft,
    ) -> Option<ServiceValue> {
        let of_list = frontends(port).filter(|frontend| list.kinds.contains(&frontend.list));
        let records = of_list.filter_map(|frontend| self.record_of(id, frontend));
        records.filter(|value| self.has_list(value, list)).max_by_key(|value| value.generation)
    }

    /// Whether a frontend's record in the kernel is as it should be, wherever in the ring its list is.
    fn is_current(
        &self,
        port: &DesiredServicePort,
        id: Option<u32>,
        frontend: &Frontend,
        list: &ListDraft,
    ) -> bool {
        self.record_of(id, frontend).is_some_and(|value| {
            let slice = list.slice(value.service_id, value.generation, value.ring_base);
            let wanted = record(port, frontend, slice);
            wanted == ServiceValue { check: 0, ..value } && self.has_list(&value, list)
        })
    }

    /// Makes the draft of a Service part of the plan.
    fn accept(&mut self, name: &ObjectName, service: ServiceDraft<'_>, draft: &mut Draft) {
        let (owner, before) = match self.services.remove_entry(name) {
            Some(held) => held,
            None => (Arc::new(name.clone()), Holding::default()),
        };
        let mut now = Holding::default();
        for port in service.ports.iter().filter(|port| frontends(port.port).next().is_some()) {
            let id = port.id.unwrap_or_else(|| self.ids.allocate());
            now.ports.push(PortHolding::new(port.port, id));
            now.keys.extend(frontends(port.port).map(|frontend| RecordKey::from(&frontend.key)));
            self.publish(port, id, draft);
        }
        draft.backends.extend(service.backends);
        draft.rings.extend(service.rings);
        let wanted: BTreeMap<RecordKey, bool> =
            service.ports.iter().flat_map(PortDraft::addresses_owned).collect();
        self.hand_over(&owner, before, &now, &wanted);
        if !now.keys.is_empty() {
            now.keys.shrink_to_fit();
            now.ports.shrink_to_fit();
            self.services.insert(owner, now);
        }
    }

    /// Records and source ranges of one port.
    fn publish(&mut self, port: &PortDraft<'_>, id: u32, draft: &mut Draft) {
        let mut newest = self.ids.generation(id);
        for list in &port.lists {
            let generation = list.published.filter(|_| !list.changes).map(|value| value.generation);
            let generation = generation.unwrap_or_else(|| {
                newest = newest.wrapping_add(1);
                newest
            });
            let slice = list.slice(id, generation, list.base);
            let of_list = port.changed.iter().filter(|frontend| list.kinds.contains(&frontend.list));
            let put =
                |frontend: &&Frontend| (RecordKey::from(&frontend.key), record(port.port, frontend, slice));
            draft.records.extend(of_list.map(put));
            let table = self.backends.get(port.port.family);
            let idle = list.ids.iter().filter(|backend| !table.is_referenced(**backend));
            self.planned.extend(idle.map(|backend| (port.port.family, *backend)));
        }
        let wanted = masked_ranges(port.port);
        let realised: BTreeSet<_> = self.ids.ranges(id).collect();
        let new: Vec<_> = wanted.difference(&realised).copied().collect();
        draft.admitted.extend(new.iter().map(|network| (id, *network)));
        if !port.changed.is_empty() {
            self.ids.ranges_ahead(id, new);
        }
        draft.dismissed.extend(realised.difference(&wanted).map(|network| (id, *network)));
    }
}

impl PortDraft<'_> {
    /// The frontends, each with whether its kind owns its address.
    fn addresses_owned(&self) -> impl Iterator<Item = (RecordKey, bool)> {
        frontends(self.port).map(|frontend| (RecordKey::from(&frontend.key), frontend.owns_address))
    }
}

impl ListDraft {
    fn slice(&self, service_id: u32, generation: u32, base: u32) -> RingSlice {
        let keep = count(self.ids.len()).saturating_sub(self.selectable);
        RingSlice { service_id, generation, base, selectable: self.selectable, keep }
    }
}
