//! Who has what: the frontends and service ids of each Service, how they are recognised after a restart, and what a
//! refused Service keeps.
//!
//! Must not know backends or the ring.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proxy_common::Protocol;

use super::{
    Planner,
    demand::frontends,
    draft::Draft,
    records::{Realised, Records},
};
use crate::{
    desired::{DesiredService, DesiredServicePort, Family},
    entries::RecordKey,
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

/// What a Service is about to lose, as far as the kernel still has it. It is the Service's again if that does not come
/// to pass.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving {
    /// Its frontends that it no longer wants or that others want now, each with whether it owned the address.
    keys: BTreeMap<RecordKey, bool>,
    /// ServicePorts that are gone.
    ports: Vec<PortHolding>,
}

/// The service id of one ServicePort in one family.
#[derive(Clone, Debug)]
pub(super) struct PortHolding {
    name: Box<str>,
    protocol: Protocol,
    family: Family,
    pub(super) id: u32,
}

impl Holding {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ports.is_empty()
    }

    fn add(&mut self, port: &DesiredServicePort, id: Option<u32>) {
        let new = id.filter(|id| self.ports.iter().all(|held| held.id != *id));
        self.ports.extend(new.map(|id| PortHolding::new(port, id)));
    }
}

impl PortHolding {
    pub(super) fn new(port: &DesiredServicePort, id: u32) -> Self {
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
    /// The id that a ServicePort has, or had until just now, or had before a restart, as the kernel's records of its
    /// frontends show. A port without frontends has none.
    pub(super) fn known_id(&mut self, service: &ObjectName, port: &DesiredServicePort) -> Option<u32> {
        frontends(port).next()?;
        let known = self.held_id(service, port).or_else(|| self.revive_id(service, port));
        known.or_else(|| self.claim_id(frontends(port).map(|frontend| RecordKey::from(&frontend.key))))
    }

    fn held_id(&self, service: &ObjectName, port: &DesiredServicePort) -> Option<u32> {
        let held = self.services.get(service)?.ports.iter().find(|held| held.is_of(port))?;
        Some(held.id)
    }

    fn revive_id(&mut self, service: &ObjectName, port: &DesiredServicePort) -> Option<u32> {
        let mut left =
            self.leaving.get(service)?.ports.iter().filter(|left| left.is_of(port)).map(|left| left.id);
        left.find(|id| self.ids.revive(*id))
    }

    fn claim_id(&mut self, mut keys: impl Iterator<Item = RecordKey>) -> Option<u32> {
        keys.find_map(|key| self.records.service_id(&key).filter(|id| self.ids.claim(*id)))
    }

    /// After a restart, ids go to the ServicePorts that prove best that they have them. A frontend at an address that
    /// several Services use may have changed hands meanwhile. A record that owned its address was a
    /// ClusterIP's, which does not change hands; next best is any other, unless several Services name frontends of its id.
    pub(super) fn recognise(&mut self, wanted: &BTreeMap<ObjectName, DesiredService>) {
        for is_certain in [true, false] {
            for (name, desired) in wanted {
                for port in &desired.ports {
                    self.recognise_port(name, port, is_certain);
                }
            }
            self.contest(wanted);
        }
    }

    /// Of the ids that nobody has, finds those whose frontends several Services name.
    fn contest(&mut self, wanted: &BTreeMap<ObjectName, DesiredService>) {
        let mut first: BTreeMap<u32, &ObjectName> = BTreeMap::new();
        for (name, desired) in wanted {
            for frontend in desired.ports.iter().flat_map(frontends) {
                let key = RecordKey::from(&frontend.key);
                let id = self.records.service_id(&key).filter(|id| self.ids.is_unclaimed(*id));
                if id.is_some_and(|id| *first.entry(id).or_insert(name) != name) {
                    id.into_iter().for_each(|id| self.ids.contest(id));
                }
            }
        }
    }

    fn recognise_port(&mut self, name: &ObjectName, port: &DesiredServicePort, is_certain: bool) {
        if self.held_id(name, port).is_some() {
            return;
        }
        let own = frontends(port).filter(|frontend| frontend.owns_address);
        let mut keys: Vec<RecordKey> = own.map(|frontend| RecordKey::from(&frontend.key)).collect();
        let named: BTreeSet<RecordKey> =
            frontends(port).map(|frontend| RecordKey::from(&frontend.key)).collect();
        let was_own = |key: &RecordKey| {
            let was_guest = self.records.outside(key).is_some_and(|outside| !named.contains(&outside));
            self.records.was_owned(key) && !was_guest
        };
        keys.retain(|key| !is_certain || was_own(key));
        let Some(id) = self.claim_id(keys.into_iter()) else { return };
        let holding = match self.services.get_mut(name) {
            Some(holding) => holding,
            None => self.services.entry(Arc::new(name.clone())).or_default(),
        };
        holding.ports.push(PortHolding::new(port, id));
    }

    /// Registers what a Service wants now, each with whether it owns its address, and lets go of the rest.
    pub(super) fn hand_over(
        &mut self,
        owner: &Arc<ObjectName>,
        before: Holding,
        now: &Holding,
        wanted: &BTreeMap<RecordKey, bool>,
    ) {
        let mut left = before;
        left.keys.retain(|key| !wanted.contains_key(key));
        left.ports.retain(|port| now.ports.iter().all(|kept| kept.id != port.id));
        if !left.is_empty() {
            let leaving = self.leaving.entry(Arc::clone(owner)).or_default();
            leaving.keys.extend(left.keys.iter().map(|key| (*key, self.records.owns_address(key))));
            leaving.ports.extend(left.ports.iter().cloned());
        }
        left.keys.iter().for_each(|key| self.records.unwant(*key));
        left.ports.iter().for_each(|port| self.retire(port.id));
        for (key, owns_address) in wanted {
            self.want(*key, owner, *owns_address);
        }
    }

    /// Forgets what was leaving and is gone from the kernel by now.
    pub(super) fn prune_leaving(&mut self) {
        let Self { leaving, services, records, ids, .. } = self;
        leaving.retain(|owner, left| {
            left.ports.retain(|port| ids.is_leaving(port.id));
            let held = services.get(owner).into_iter().flat_map(|holding| &holding.ports);
            let own: BTreeSet<u32> = held.chain(&left.ports).map(|port| port.id).collect();
            left.keys.retain(|key, _| is_under(records, key, &own));
            !left.keys.is_empty() || !left.ports.is_empty()
        });
    }

    /// Takes back the take-overs that were not written: the frontends are still those of the Services that are about to
    /// lose them. Whoever wants them says so again.
    pub(super) fn undo_take_overs(&mut self) {
        let Self { leaving, services, records, .. } = self;
        for (loser, left) in leaving {
            for key in left.keys.keys() {
                let Some(taker) = records.wanted_by(key).filter(|taker| *taker != *loser) else { continue };
                if let Some(holding) = services.get_mut(&*taker) {
                    holding.keys.retain(|held| held != key);
                }
                records.unwant(*key);
            }
        }
    }

    /// What a Service was about to lose is its own again, as far as the kernel has it.
    pub(super) fn take_back(&mut self, owner: Arc<ObjectName>, left: Leaving) {
        let mut holding = self.services.remove(&owner).unwrap_or_default();
        holding.ports.extend(left.ports.into_iter().filter(|port| self.ids.claim(port.id)));
        let own: BTreeSet<u32> = holding.ports.iter().map(|port| port.id).collect();
        for (key, owns_address) in left.keys {
            if !self.records.is_wanted(&key) && is_under(&self.records, &key, &own) {
                self.records.want(key, &owner, owns_address);
                holding.keys.push(key);
            }
        }
        if !holding.is_empty() {
            self.services.insert(owner, holding);
        }
    }

    pub(super) fn want(&mut self, key: RecordKey, owner: &Arc<ObjectName>, owns_address: bool) {
        let Some((loser, owned_address)) = self.records.want(key, owner, owns_address) else { return };
        if let Some(holding) = self.services.get_mut(&*loser) {
            holding.keys.retain(|held| *held != key);
        }
        self.leaving.entry(loser).or_default().keys.insert(key, owned_address);
    }

    /// The ServicePort of this id is gone.
    pub(super) fn retire(&mut self, id: u32) {
        if self.ids.retire(id) {
            self.quarantine.add_service_id(id);
        }
    }

    /// A refused Service keeps the records that are its own: those it has, those it was about to lose, and after a
    /// restart those of its frontends. What it was promised and never got is given back.
    pub(super) fn keep(
        &mut self,
        name: &ObjectName,
        desired: &DesiredService,
        ids: &[Option<u32>],
        draft: &mut Draft,
    ) {
        let held = self.services.remove_entry(name);
        let (owner, mut before) = held.unwrap_or_else(|| (Arc::new(name.clone()), Holding::default()));
        let mut wanted: BTreeMap<RecordKey, bool> =
            before.keys.iter().map(|key| (*key, self.records.owns_address(key))).collect();
        let left = self.leaving.remove(name).unwrap_or_default();
        let (taken, free): (BTreeMap<_, _>, BTreeMap<_, _>) =
            left.keys.into_iter().partition(|(key, _)| self.records.is_wanted(key));
        wanted.extend(free);
        before.ports.extend(left.ports.into_iter().filter(|port| self.ids.revive(port.id)));
        for (port, id) in desired.ports.iter().zip(ids) {
            before.add(port, *id);
            for frontend in frontends(port) {
                let key = RecordKey::from(&frontend.key);
                if self.records.is_orphan(&key) {
                    let id = self.records.service_id(&key);
                    before.add(port, id.filter(|id| self.ids.claim_contested(*id)));
                    wanted.insert(key, frontend.owns_address);
                }
            }
        }
        let own: BTreeSet<u32> = before.ports.iter().map(|port| port.id).collect();
        wanted.retain(|key, _| is_under(&self.records, key, &own));
        let unneeded = own.iter().flat_map(|id| self.ids.unneeded_ranges(*id).map(|network| (*id, network)));
        draft.dismissed.extend(unneeded);
        let now = Holding { keys: wanted.keys().copied().collect(), ports: before.ports.clone() };
        self.hand_over(&owner, before, &now, &wanted);
        if !taken.is_empty() {
            self.leaving.entry(Arc::clone(&owner)).or_default().keys.extend(taken);
        }
        if !now.is_empty() {
            self.services.insert(owner, now);
        }
    }
}

/// Whether the kernel has a whole record of a frontend under one of these service ids.
fn is_under(records: &Records, key: &RecordKey, ids: &BTreeSet<u32>) -> bool {
    matches!(records.realised(key), Realised::Whole(value) if ids.contains(&value.service_id))
}
