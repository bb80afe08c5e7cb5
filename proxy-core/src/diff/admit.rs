//! One Service: all of its new version, or nothing of it.
//!
//! Allocates backend ids and ring ranges as promises, compares with the records in the kernel, and when all fits
//! hands the writes to the draft. Must not know the write order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proxy_common::{BackendId, Protocol, ServiceValue, names};

use super::{
    BackendOp, Planner, Refusal,
    demand::{WantedList, count, frontends, lists},
    draft::Draft,
    records::Realised,
};
use crate::{
    desired::{DesiredService, DesiredServicePort, Family, Frontend, ListKind},
    entries::{RecordKey, RingSlice, masked_ranges, record},
    model::ObjectName,
};

/// What a Service has.
#[derive(Clone, Debug, Default)]
pub(super) struct Holding {
    /// Frontends that it wants and nobody took from it.
    pub(super) keys: Vec<RecordKey>,
    /// Its ServicePorts.
    pub(super) ports: Vec<PortHolding>,
}

/// The service id of one ServicePort in one family.
#[derive(Clone, Debug)]
pub(super) struct PortHolding {
    name: Box<str>,
    protocol: Protocol,
    family: Family,
    pub(super) id: u32,
}

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

impl PortHolding {
    fn new(port: &DesiredServicePort, id: u32) -> Self {
        let name = port.name.port_name.as_str().into();
        Self { name, protocol: port.name.protocol, family: port.family, id }
    }

    fn is_of(&self, port: &DesiredServicePort) -> bool {
        *self.name == *port.name.port_name
            && self.protocol == port.name.protocol
            && self.family == port.family
    }
}

impl Planner {
    /// Drafts the new version of a Service. If it does not fit, the Service keeps what it has.
    pub(super) fn admit(
        &mut self,
        name: &ObjectName,
        desired: &DesiredService,
        draft: &mut Draft,
    ) -> Result<(), Refusal> {
        let ids: Vec<Option<u32>> = desired.ports.iter().map(|port| self.known_id(name, port)).collect();
        let room = self.check_room(name, desired, &ids, draft.admitted.len());
        match room.and_then(|()| self.draft_service(name, desired, &ids)) {
            Ok(service) => {
                self.accept(name, service, draft);
                Ok(())
            }
            Err(refusal) => {
                self.adopt(name, desired, &ids);
                Err(refusal)
            }
        }
    }

    /// A Service wants nothing any more.
    pub(super) fn forget(&mut self, name: &ObjectName, draft: &mut Draft) {
        if self.services.contains_key(name) {
            self.accept(name, ServiceDraft::default(), draft);
        }
    }

    /// The id that a ServicePort has, or that the kernel's records of its frontends show it had before a restart.
    fn known_id(&mut self, service: &ObjectName, port: &DesiredServicePort) -> Option<u32> {
        self.held_id(service, port).or_else(|| self.claim_id(frontends(port)))
    }

    fn held_id(&self, service: &ObjectName, port: &DesiredServicePort) -> Option<u32> {
        let held = self.services.get(service)?.ports.iter().find(|held| held.is_of(port))?;
        Some(held.id)
    }

    fn claim_id<'a>(&mut self, mut frontends: impl Iterator<Item = &'a Frontend>) -> Option<u32> {
        frontends.find_map(|frontend| {
            let key = RecordKey::from(&frontend.key);
            let Realised::Whole(value) = self.records.realised(&key) else { return None };
            (value.service_id != 0 && self.ids.claim(value.service_id)).then_some(value.service_id)
        })
    }

    /// After a restart, ids go first to the ServicePorts that have them at an address of their own: a frontend at a
    /// shared address may have changed hands meanwhile, and is no proof of identity.
    pub(super) fn recognise(&mut self, wanted: &BTreeMap<ObjectName, DesiredService>) {
        for (name, desired) in wanted {
            for port in &desired.ports {
                if self.held_id(name, port).is_some() {
                    continue;
                }
                if let Some(id) = self.claim_id(frontends(port).filter(|frontend| frontend.owns_address)) {
                    let holding = match self.services.get_mut(name) {
                        Some(holding) => holding,
                        None => self.services.entry(Arc::new(name.clone())).or_default(),
                    };
                    holding.ports.push(PortHolding::new(port, id));
                }
            }
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
        self.hand_over(&owner, before, &now, &service.ports);
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
        draft.admitted.extend(wanted.difference(&realised).map(|network| (id, *network)));
        draft.dismissed.extend(realised.difference(&wanted).map(|network| (id, *network)));
    }

    /// Registers what a Service wants now, and lets go of what it no longer wants.
    fn hand_over(
        &mut self,
        owner: &Arc<ObjectName>,
        before: Holding,
        now: &Holding,
        ports: &[PortDraft<'_>],
    ) {
        let kept: BTreeSet<RecordKey> = now.keys.iter().copied().collect();
        before.keys.into_iter().filter(|key| !kept.contains(key)).for_each(|key| self.records.unwant(key));
        let ids: BTreeSet<u32> = now.ports.iter().map(|port| port.id).collect();
        let gone = before.ports.into_iter().map(|port| port.id).filter(|id| !ids.contains(id));
        gone.for_each(|id| self.retire(id));
        for frontend in ports.iter().flat_map(|port| frontends(port.port)) {
            self.want(RecordKey::from(&frontend.key), owner, frontend.owns_address);
        }
    }

    pub(super) fn want(&mut self, key: RecordKey, owner: &Arc<ObjectName>, owns_address: bool) {
        let loser = self.records.want(key, owner, owns_address);
        if let Some(holding) = loser.and_then(|loser| self.services.get_mut(&*loser)) {
            holding.keys.retain(|held| *held != key);
        }
    }

    /// The ServicePort of this id is gone.
    pub(super) fn retire(&mut self, id: u32) {
        if self.ids.retire(id) {
            self.quarantine.add_service_id(id);
        }
    }

    /// After a restart, a refused Service keeps the records that it had before: those of its frontends that nobody
    /// else wants.
    fn adopt(&mut self, name: &ObjectName, desired: &DesiredService, ids: &[Option<u32>]) {
        let held = self.services.remove_entry(name);
        let (owner, mut holding) = held.unwrap_or_else(|| (Arc::new(name.clone()), Holding::default()));
        for (port, id) in desired.ports.iter().zip(ids) {
            let known = holding.ports.iter().any(|held| held.is_of(port));
            holding.ports.extend(id.filter(|_| !known).map(|id| PortHolding::new(port, id)));
            for frontend in frontends(port) {
                let key = RecordKey::from(&frontend.key);
                if self.records.is_orphan(&key) {
                    self.want(key, &owner, frontend.owns_address);
                    holding.keys.push(key);
                }
            }
        }
        if !holding.keys.is_empty() || !holding.ports.is_empty() {
            self.services.insert(owner, holding);
        }
    }
}

impl ListDraft {
    fn slice(&self, service_id: u32, generation: u32, base: u32) -> RingSlice {
        let keep = count(self.ids.len()).saturating_sub(self.selectable);
        RingSlice { service_id, generation, base, selectable: self.selectable, keep }
    }
}
