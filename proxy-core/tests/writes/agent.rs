//! An agent in small: engine, planner and kernel, wired as the real one wires them, with each write judged.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::{Scope, ServiceFlags, ServiceValue};
use proxy_core::{
    desired::{
        Backend, DesiredService, Engine, Family, FrontendKey, FrontendKind, ServicePortName, Settings,
        WhenEmpty,
    },
    diff::{Capacities, Epoch, MapOp, Plan, Planner, RealisedDump},
    model::{Event, ObjectName},
};

use crate::{
    decisions::told,
    kernel::{Kernel, Key, is_whole, plain},
    reference::{Answer, Expected},
};

pub struct Agent {
    pub engine: Engine,
    pub planner: Planner,
    pub kernel: Kernel,
    capacities: Capacities,
    /// Services to plan, among them those refused before.
    dirty: BTreeMap<ObjectName, Option<DesiredService>>,
    /// What was published last for each frontend.
    pub published: BTreeMap<Key, Answer>,
    /// Whose a service id is, as long as anybody reads it.
    owners: BTreeMap<u32, (ServicePortName, Family)>,
    /// Closed epochs whose grace period has not passed.
    epochs: Vec<Epoch>,
    /// Somebody else meddled with the maps: until the next whole plan there is no promise to readers.
    pub is_spoilt: bool,
    /// No plan was written whole and without a refusal since the last restart. The maps do not say whose a service id
    /// is: whoever now has a record's frontend takes it over; the ClusterIP decides which of several ids a ServicePort
    /// takes, unless another ServicePort now has a frontend with that id.
    restarted: bool,
    /// Frontends of refused Services that have passed for another Service's since the restart, and that nobody has
    /// written since: the planner ends them with that one.
    mistaken: BTreeSet<Key>,
    /// Services that were deleted since the last whole plan, or refused since a restart: they come as new ones.
    gone: BTreeSet<ObjectName>,
    /// Services refused by the last plan.
    pub refused: BTreeSet<ObjectName>,
}

/// What the maps shall hold after a plan.
type Target = BTreeMap<Key, Answer>;

impl Agent {
    pub fn new(settings: &Settings, capacities: Capacities) -> Self {
        let kernel = Kernel::new(capacities);
        Self {
            engine: Engine::new(settings.clone()),
            planner: Planner::restore(&kernel.dump(false), capacities),
            kernel,
            capacities,
            dirty: BTreeMap::new(),
            published: BTreeMap::new(),
            owners: BTreeMap::new(),
            epochs: vec![],
            is_spoilt: false,
            restarted: false,
            mistaken: BTreeSet::new(),
            gone: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }

    pub fn hear(&mut self, event: &Event) {
        self.engine.handle(event.clone());
    }

    /// Plans and writes what changed. Fails at write number `fault`, if the plan is that long.
    pub fn sync(&mut self, fault: Option<usize>) -> bool {
        let news = self.engine.refresh();
        self.gone.extend(news.iter().filter(|(_, service)| service.is_none()).map(|(name, _)| name.clone()));
        self.dirty.extend(news);
        let plan = self.planner.plan(&self.dirty);
        self.perform(&plan, fault)
    }

    /// The same with everything there is.
    pub fn sync_full(&mut self, fault: Option<usize>) -> bool {
        self.engine.refresh();
        let all = self.engine.all();
        let plan = self.planner.plan_full(&all);
        self.dirty = all.into_iter().map(|(name, service)| (name, Some(service))).collect();
        self.perform(&plan, fault)
    }

    /// What a full plan would write.
    pub fn full_plan(&self) -> Plan {
        self.planner.clone().plan_full(&self.engine.all())
    }

    fn perform(&mut self, plan: &Plan, fault: Option<usize>) -> bool {
        self.refused = plan.refused.iter().map(|refusal| refusal.service.clone()).collect();
        for refusal in &plan.refused {
            assert!(
                refusal.needed > refusal.available && refusal.available <= refusal.capacity,
                "{refusal:?}"
            );
            assert!(self.dirty.contains_key(&refusal.service), "{refusal:?}");
        }
        let wanted = self.wanted();
        self.note_mistaken(&wanted);
        let target = self.target(plan, wanted);
        for (index, op) in plan.ops.iter().enumerate() {
            if fault == Some(index) {
                return false;
            }
            self.write(op, &target);
            self.planner.commit(op);
        }
        self.assert_holds(&target);
        self.published = target;
        self.is_spoilt = false;
        self.restarted &= !self.refused.is_empty();
        if !self.restarted {
            self.mistaken.clear();
        }
        self.gone = if self.is_guessing() { self.refused.clone() } else { BTreeSet::new() };
        self.dirty.retain(|name, _| self.refused.contains(name));
        true
    }

    /// What the engine wants, but of each refused Service what it has.
    ///
    /// The maps do not say which Service a record belongs to: of a Service that is refused after a restart, frontends
    /// that its new version no longer names may go. So may those of a ServicePort whose ClusterIP another Service has
    /// now, or had in the meantime: ClusterIPs do not change hands, so its records look like that one's, and must not
    /// lead to its backends.
    fn target(&self, plan: &Plan, wanted: Target) -> Target {
        let is_refused = |answer: &Answer| self.refused.contains(&answer.owner.service);
        let deleted = |key: &Key| {
            let mut deleted = plan.ops.iter().filter_map(|op| match op {
                MapOp::Service(op) => Some(plain(*op)),
                _ => None,
            });
            deleted.any(|op| op == (*key, None))
        };
        let may_go = |key: &Key, answer: &Answer| {
            let service = &answer.owner.service;
            let is_named = wanted.get(key).is_some_and(|one| one.owner.service == *service);
            self.restarted && deleted(key) && (!is_named || self.mistaken.contains(key))
        };
        let had = self.published.iter().filter(|(key, answer)| is_refused(answer) && !may_go(key, answer));
        let mut target: Target = had.map(|(key, answer)| (*key, answer.clone())).collect();
        target.extend(wanted.into_iter().filter(|(_, answer)| !is_refused(answer)));
        target
    }

    /// What the engine wants.
    fn wanted(&self) -> Target {
        let Expected { frontends, .. } = told(&self.engine.all());
        by_key(frontends)
    }

    fn note_mistaken(&mut self, wanted: &Target) {
        if !self.is_guessing() {
            return;
        }
        let had = self.published.iter().filter(|(_, answer)| self.refused.contains(&answer.owner.service));
        let mistaken =
            had.filter(|(key, answer)| self.looks_like_anothers(key, &answer.owner.service, wanted));
        self.mistaken.extend(mistaken.map(|(key, _)| *key).collect::<Vec<_>>());
    }

    /// Whether the record has the service id of a ClusterIP that another Service has now.
    fn looks_like_anothers(&self, key: &Key, service: &ObjectName, wanted: &Target) -> bool {
        let id_of = |key: &Key| self.kernel.services.get(key).map(|value| value.service_id);
        wanted.iter().any(|(other, answer)| {
            let is_anothers = answer.kind == FrontendKind::ClusterIp && answer.owner.service != *service;
            is_anothers && id_of(other) == id_of(key)
        })
    }

    /// Whether the planner cannot know, since a restart, what a refused Service has.
    fn is_guessing(&self) -> bool {
        self.restarted && !self.refused.is_empty()
    }

    /// Performs one write that leads towards `target`.
    fn write(&mut self, op: &MapOp, target: &Target) {
        if let MapOp::Service(service_op) = op {
            match plain(*service_op) {
                (key, Some(value)) if key.is_address_record() => {
                    let wanted = wanted_address_record(key, &value, target);
                    assert!(
                        wanted == Some(value) || self.is_guessing(),
                        "{key:?}: {value:?}, not {wanted:?}"
                    );
                }
                (key, None) if key.is_address_record() => {
                    let left = self
                        .kernel
                        .services
                        .keys()
                        .find(|other| **other != key && other.address_record() == key);
                    assert_eq!(left, None, "an address record goes before the records it leads to");
                    assert!(!target.keys().any(|other| other.address_record() == key), "{key:?} is wanted");
                }
                (key, Some(value)) => self.judge_record(key, &value, target),
                (key, None) => {
                    assert!(!target.contains_key(&key), "{key:?} is wanted by {:?}", target[&key]);
                    self.published.remove(&key);
                }
            }
        }
        self.kernel.apply(op);
        if matches!(op, MapOp::Service(_)) && !self.is_spoilt {
            self.assert_addresses_are_found();
        }
        let judges =
            matches!(op, MapOp::Service(_) | MapOp::DeleteSourceRange { .. } | MapOp::PutSourceRange { .. });
        if judges && !self.is_spoilt && !self.restarted {
            self.assert_ranges_hold(target);
        }
    }

    /// A packet's destination is looked up among the addresses first, in the one scope wherever it comes from.
    fn assert_addresses_are_found(&self) {
        for key in self.kernel.services.keys().filter(|key| !key.is_address_record()) {
            let record = Key { port: 0, protocol: 0, scope: Scope::Internal as u8, ..*key };
            assert!(self.kernel.services.contains_key(&record), "{key:?} is not found");
        }
    }

    fn judge_record(&mut self, key: Key, value: &ServiceValue, target: &Target) {
        let answer = target.get(&key).unwrap_or_else(|| panic!("nobody wants {key:?}"));
        assert_says(&self.kernel, key, value, answer);
        assert!(
            self.kernel.services.contains_key(&key.address_record()),
            "{key:?} is published without its address"
        );
        let owner = (answer.owner.clone(), key.family());
        let kernel = &self.kernel;
        self.owners.retain(|id, _| kernel.is_read(*id));
        let known = self.owners.entry(value.service_id).or_insert_with(|| owner.clone());
        assert_eq!(*known, owner, "service id {} passes on while somebody reads it", value.service_id);
        if let (Some(old), Some(before)) = (self.published.get(&key), self.kernel.services.get(&key))
            && old.owner == answer.owner
            && is_whole(key, before)
        {
            let rivals = target.iter().filter(|(_, one)| one.owner != answer.owner);
            let is_same = |rival: &ServiceValue| rival.service_id == before.service_id;
            let has_rival =
                rivals.into_iter().any(|(key, _)| self.kernel.services.get(key).is_some_and(is_same));
            let is_clear = answer.kind == FrontendKind::ClusterIp && !has_rival;
            let stays = !self.restarted || is_clear;
            if before.service_id == value.service_id {
                assert!(before.generation <= value.generation, "{key:?} goes back in time");
                let same = old.backends == answer.backends && old.keep == answer.keep;
                assert!(
                    same || before.generation < value.generation,
                    "the change of {key:?} shows in no generation"
                );
            } else {
                assert!(!stays || self.gone.contains(&owner.0.service), "{key:?} gets another service id");
            }
        }
        self.mistaken.remove(&key);
        self.published.insert(key, answer.clone());
    }

    /// While a record admits only some clients, those of the old or those of the new list are admitted.
    fn assert_ranges_hold(&self, target: &Target) {
        for (key, value) in &self.kernel.services {
            if value.flags & ServiceFlags::SOURCE_RANGES == 0 {
                continue;
            }
            let (owner, now) = (&self.owners[&value.service_id], &self.published[key]);
            let lists = |answers: &Target| -> BTreeSet<_> {
                let own = answers.iter().filter(|(key, one)| one.owner == owner.0 && key.family() == owner.1);
                own.flat_map(|(_, answer)| answer.source_ranges.iter().copied()).collect()
            };
            let (old, new) = (lists(&self.published), lists(target));
            let old: BTreeSet<_> = old.union(&now.source_ranges).copied().collect();
            let admitted: BTreeSet<_> = self
                .kernel
                .ranges
                .iter()
                .filter(|(id, _)| *id == value.service_id)
                .map(|(_, range)| *range)
                .collect();
            let whole = |list: &BTreeSet<_>| !list.is_empty() && admitted.is_superset(list);
            assert!(whole(&old) || whole(&new), "{key:?} admits only {admitted:?}, of {old:?} or {new:?}");
        }
    }

    /// The maps hold `target`, nothing less and nothing that a reader would find beside it.
    fn assert_holds(&mut self, target: &Target) {
        if self.is_guessing() {
            assert!(
                target.keys().all(|key| self.kernel.services.contains_key(key)),
                "a wanted frontend is gone"
            );
            return;
        }
        let expected: BTreeSet<Key> = target.keys().flat_map(|key| [*key, key.address_record()]).collect();
        let held: BTreeSet<Key> = self.kernel.services.keys().copied().collect();
        assert_eq!(held, expected);
        let mut ids: BTreeMap<(&ServicePortName, Family), u32> = BTreeMap::new();
        let mut ranges = BTreeSet::new();
        for (key, value) in &self.kernel.services {
            if key.is_address_record() {
                assert_eq!(Some(*value), wanted_address_record(*key, value, target));
                continue;
            }
            let answer = &target[key];
            assert_says(&self.kernel, *key, value, answer);
            let id = *ids.entry((&answer.owner, key.family())).or_insert(value.service_id);
            assert_eq!(id, value.service_id, "one ServicePort has one service id");
            let owner = (answer.owner.clone(), key.family());
            assert_eq!(*self.owners.entry(id).or_insert_with(|| owner.clone()), owner);
            ranges.extend(answer.source_ranges.iter().map(|range| (id, *range)));
        }
        let distinct: BTreeSet<u32> = ids.values().copied().collect();
        assert_eq!(distinct.len(), ids.len(), "two ServicePorts have one service id: {ids:?}");
        // A refused Service whose last version was written in part may keep prefixes that no record asks for.
        let is_refused =
            |id: &u32| self.owners.get(id).is_some_and(|owner| self.refused.contains(&owner.0.service));
        let extra: Vec<_> =
            self.kernel.ranges.difference(&ranges).filter(|(id, _)| !is_refused(id)).collect();
        assert!(extra.is_empty() && ranges.is_subset(&self.kernel.ranges), "{extra:?} {ranges:?}");
        let shared = self.kernel.published_backends();
        assert!(shared.values().all(|ids| ids.len() == 1), "one backend has several ids: {shared:?}");
    }

    /// Closes an epoch.
    pub fn seal(&mut self) {
        if let Some(epoch) = self.planner.seal_epoch() {
            self.kernel.seal(epoch);
            self.epochs.push(epoch);
        }
    }

    /// The grace periods of all but the last `pending` epochs pass; the writes fail at number `fault`.
    pub fn grace(&mut self, pending: usize, fault: Option<usize>) {
        let passed = self.epochs.len().saturating_sub(pending);
        let Some(epoch) = self.epochs.drain(..passed).next_back() else { return };
        self.kernel.grace_passed(epoch);
        for (index, op) in self.planner.grace_passed(epoch).iter().enumerate() {
            if fault == Some(index) {
                return;
            }
            assert!(matches!(op, MapOp::Backend(_)), "{op:?}");
            self.kernel.apply(op);
            self.planner.commit(op);
        }
    }

    /// Lets grace periods pass until nothing waits for one.
    pub fn drain(&mut self) {
        for _ in 0..4 {
            self.seal();
            self.grace(0, None);
        }
        assert_eq!(self.planner.seal_epoch(), None, "something waits for ever");
    }

    /// The agent dies and starts again on what the maps hold.
    pub fn restart(&mut self, backwards: bool) {
        self.kernel.restart();
        self.planner = Planner::restore(&self.kernel.dump(backwards), self.capacities);
        self.dirty.clear();
        self.epochs.clear();
        self.owners.clear();
        self.mistaken.clear();
        self.restarted = true;
    }

    /// Reads the maps back while running.
    pub fn audit(&mut self, backwards: bool) {
        let dump: RealisedDump = self.kernel.dump(backwards);
        self.planner.reload(&dump);
        self.kernel.reopen();
        self.epochs.clear();
    }

    /// After [`Agent::drain`]: what the planner counts is what there is, and nothing is there that no record uses.
    pub fn assert_no_leak(&self) {
        let [services4, services6, backends4, backends6, ranges] = self.kernel.used();
        let usage = self.planner.usage();
        let counted =
            [usage.services4, usage.services6, usage.backends4, usage.backends6, usage.source_ranges];
        assert_eq!(counted.map(|count| count as usize), [services4, services6, backends4, backends6, ranges]);
        let published = self.kernel.published_backends();
        assert_eq!(published.len(), backends4 + backends6, "a backend stays although nobody uses it");
        assert_eq!(usage.ring as usize, self.kernel.ring_used());
        let ids: BTreeSet<u32> =
            self.kernel.services.values().map(|value| value.service_id).filter(|id| *id != 0).collect();
        let counted: BTreeSet<u32> = self.planner.service_ids().collect();
        // A refused Service keeps its ids, even if meanwhile others took over all its frontends.
        assert!(
            counted == ids || counted.is_superset(&ids) && !self.refused.is_empty(),
            "{counted:?} {ids:?}"
        );
    }
}

/// The address record, if the address is wanted: it refuses other ports of an address that is a ClusterIP.
fn wanted_address_record(key: Key, value: &ServiceValue, target: &Target) -> Option<ServiceValue> {
    let mut records = target.iter().filter(|(other, _)| other.address_record() == key).peekable();
    records.peek()?;
    let owned = records.any(|(_, answer)| answer.owns_address);
    let refuse = if owned { ServiceFlags::REFUSE_UNKNOWN_PORT } else { 0 };
    // What else an address record says is the planner's; it must not look like a frontend, though.
    let flags = value.flags & !ServiceFlags::REFUSE_UNKNOWN_PORT | refuse;
    Some(ServiceValue { flags, service_id: 0, ring_len: 0, keep_len: 0, ..*value })
}

/// Asserts that a reader of the record does what `answer` says.
fn assert_says(kernel: &Kernel, key: Key, value: &ServiceValue, answer: &Answer) {
    let (chosen, kept) = kernel.read(key, value);
    let sorted = |set: &BTreeSet<Backend>| set.iter().copied().collect::<Vec<_>>();
    assert_eq!(chosen, sorted(&answer.backends), "{key:?}");
    let rest = answer.keep.difference(&answer.backends).copied().collect();
    assert_eq!(kept, sorted(&rest), "{key:?}");
    assert_eq!(value.affinity_seconds, answer.affinity_seconds, "{key:?}");
    assert_ne!(value.service_id, 0, "{key:?}");
    let mut flags = 0;
    for (set, flag) in [
        (answer.when_empty == Some(WhenEmpty::Reject), ServiceFlags::REJECT_WHEN_EMPTY),
        (answer.when_empty == Some(WhenEmpty::Drop), ServiceFlags::DROP_WHEN_EMPTY),
        (answer.affinity_seconds > 0, ServiceFlags::AFFINITY),
        (!answer.source_ranges.is_empty(), ServiceFlags::SOURCE_RANGES),
        (answer.host_netns_only, ServiceFlags::HOST_NETNS_ONLY),
    ] {
        flags |= if set { flag } else { 0 };
    }
    let when_empty = ServiceFlags::REJECT_WHEN_EMPTY | ServiceFlags::DROP_WHEN_EMPTY;
    let meaningless = if chosen.is_empty() { 0 } else { when_empty };
    assert_eq!(value.flags & !meaningless, flags, "{key:?}");
}

/// The answers by frontend, as published.
pub fn by_key(frontends: BTreeMap<FrontendKey, Answer>) -> BTreeMap<Key, Answer> {
    frontends.into_iter().map(|(key, answer)| (Key::from(key), answer)).collect()
}
