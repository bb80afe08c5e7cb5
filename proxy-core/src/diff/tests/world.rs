//! A kernel in memory, its readers, and an agent that plans, writes and may be interrupted.
//!
//! After every write all frontends are read: by a reader that begins now, and by readers that copied a record before it
//! was replaced and go on until a grace period has passed.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use proxy_common::{BackendId, BackendValue, Ipv4Be, Ipv6Be, ServiceFlags, ServiceKey, ServiceValue};

use crate::{
    desired::DesiredService,
    diff::{BackendOp, Capacities, MapOp, Plan, Planner, RealisedDump, ServiceOp},
    entries::{
        RecordKey,
        text::{self, FrontendLine, Ids, Target},
    },
    ids::Epoch,
    model::ObjectName,
};

pub(super) type Wanted = BTreeMap<ObjectName, DesiredService>;
pub(super) type Changed = BTreeMap<ObjectName, Option<DesiredService>>;

/// The maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) capacities: Capacities,
    pub(super) services4: BTreeMap<ServiceKey<Ipv4Be>, ServiceValue>,
    pub(super) services6: BTreeMap<ServiceKey<Ipv6Be>, ServiceValue>,
    pub(super) ring: Vec<BackendId>,
    pub(super) backends4: BTreeMap<BackendId, BackendValue<Ipv4Be>>,
    pub(super) backends6: BTreeMap<BackendId, BackendValue<Ipv6Be>>,
    pub(super) ranges: BTreeSet<(u32, IpNetwork)>,
}

impl Kernel {
    pub(super) fn new(capacities: Capacities) -> Self {
        Self {
            capacities,
            services4: BTreeMap::new(),
            services6: BTreeMap::new(),
            ring: vec![0; capacities.ring as usize],
            backends4: BTreeMap::new(),
            backends6: BTreeMap::new(),
            ranges: BTreeSet::new(),
        }
    }

    pub(super) fn apply(&mut self, op: &MapOp) {
        match op {
            MapOp::Backend(BackendOp::V4(id, value)) => {
                put_backend(&mut self.backends4, *id, *value, &BackendValue::FREE);
            }
            MapOp::Backend(BackendOp::V6(id, value)) => {
                put_backend(&mut self.backends6, *id, *value, &BackendValue::FREE);
            }
            MapOp::WriteRing { base, ids } => {
                assert!(*base > 0 && !ids.is_empty(), "{op:?}");
                self.ring[*base as usize..*base as usize + ids.len()].copy_from_slice(ids);
            }
            MapOp::PutSourceRange { service_id, network } => {
                self.ranges.insert((*service_id, *network));
            }
            MapOp::DeleteSourceRange { service_id, network } => {
                self.ranges.remove(&(*service_id, *network));
            }
            MapOp::Service(ServiceOp::V4(key, value)) => put(&mut self.services4, *key, *value),
            MapOp::Service(ServiceOp::V6(key, value)) => put(&mut self.services6, *key, *value),
        }
        let Capacities { services, backends, source_ranges, .. } = self.capacities;
        assert!(
            self.services4.len() <= services as usize && self.services6.len() <= services as usize,
            "{op:?}"
        );
        let last = |ids: Option<&BackendId>| ids.copied().unwrap_or_default();
        assert!(
            last(self.backends4.keys().max()) < backends && last(self.backends6.keys().max()) < backends,
            "{op:?}"
        );
        assert!(self.ranges.len() <= source_ranges as usize, "{op:?}");
    }

    pub(super) fn dump(&self) -> RealisedDump {
        RealisedDump {
            services4: self.services4.iter().map(|(key, value)| (*key, *value)).collect(),
            services6: self.services6.iter().map(|(key, value)| (*key, *value)).collect(),
            ring: self.ring.clone(),
            backends4: self.backends4.iter().map(|(id, value)| (*id, *value)).collect(),
            backends6: self.backends6.iter().map(|(id, value)| (*id, *value)).collect(),
            source_ranges: self.ranges.iter().copied().collect(),
        }
    }

    /// Every record by its key.
    pub(super) fn records(&self) -> BTreeMap<RecordKey, ServiceOp> {
        let v4 = self.services4.iter().map(|(key, value)| ServiceOp::V4(*key, Some(*value)));
        let v6 = self.services6.iter().map(|(key, value)| ServiceOp::V6(*key, Some(*value)));
        v4.chain(v6).map(|op| (op.key(), op)).collect()
    }

    pub(super) fn record(&self, key: &RecordKey) -> Option<ServiceValue> {
        self.records().get(key).and_then(|op| op.value().copied())
    }

    /// What a reader of these records sees in the ring and the backends as they are now.
    fn read(&self, records: &[ServiceOp]) -> BTreeMap<RecordKey, FrontendLine> {
        let mut dump = RealisedDump { services4: Vec::new(), services6: Vec::new(), ..self.dump() };
        for record in records {
            match record {
                ServiceOp::V4(key, Some(value)) => dump.services4.push((*key, *value)),
                ServiceOp::V6(key, Some(value)) => dump.services6.push((*key, *value)),
                _ => unreachable!(),
            }
        }
        // Prefixes change around the publication; their order is tested by itself.
        dump.source_ranges.clear();
        text::of_dump(&dump, Ids::Hidden).into_iter().map(|line| (line.key, line)).collect()
    }

    pub(super) fn lines(&self) -> BTreeMap<RecordKey, FrontendLine> {
        self.read(&self.records().into_values().collect::<Vec<_>>())
    }

    pub(super) fn text(&self) -> String {
        text::print(&text::of_dump(&self.dump(), Ids::Hidden))
    }
}

fn put<K: Ord>(map: &mut BTreeMap<K, ServiceValue>, key: K, value: Option<ServiceValue>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

fn put_backend<V: PartialEq>(map: &mut BTreeMap<BackendId, V>, id: BackendId, value: V, free: &V) {
    assert_ne!(id, 0);
    if value == *free {
        map.remove(&id);
    } else {
        assert!(map.insert(id, value).is_none(), "backend {id} overwritten");
    }
}

/// A reader that copied a record before it was replaced.
#[derive(Clone, Debug)]
struct Delayed {
    record: ServiceOp,
    saw: FrontendLine,
    /// The epoch after which it is surely gone.
    until: Option<Epoch>,
}

/// Kernel, agent and readers.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) kernel: Kernel,
    pub(super) planner: Planner,
    delayed: Vec<Delayed>,
}

impl World {
    pub(super) fn new(capacities: Capacities) -> Self {
        let kernel = Kernel::new(capacities);
        let planner = Planner::restore(&kernel.dump(), capacities);
        Self { kernel, planner, delayed: Vec::new() }
    }

    /// The agent is killed and starts again; a grace period passes meanwhile.
    pub(super) fn restart(&mut self) {
        self.delayed.clear();
        self.planner = Planner::restore(&self.kernel.dump(), self.kernel.capacities);
    }

    /// Plans all of `wanted` and performs the first `writes` writes; returns the plan.
    pub(super) fn full(&mut self, wanted: &Wanted, writes: usize) -> Plan {
        let plan = self.planner.plan_full(wanted);
        self.perform(&plan.ops, wanted, writes);
        plan
    }

    /// Plans what is different in `wanted` and performs the first `writes` writes; returns the plan.
    pub(super) fn change(&mut self, before: &Wanted, wanted: &Wanted, writes: usize) -> Plan {
        let plan = self.planner.plan(&changes(before, wanted));
        self.perform(&plan.ops, wanted, writes);
        plan
    }

    /// Performs writes one by one. A frontend must show what it showed before, or what `wanted` says.
    pub(super) fn perform(&mut self, ops: &[MapOp], wanted: &Wanted, writes: usize) {
        let old = self.kernel.lines();
        let mut new: BTreeMap<RecordKey, FrontendLine> = BTreeMap::new();
        for mut line in text::of_desired(wanted.values()) {
            line.source_ranges.clear();
            new.insert(line.key, line);
        }
        for op in ops.iter().take(writes) {
            let replaced = self.replaced_by(op);
            self.kernel.apply(op);
            self.planner.commit(op);
            self.delayed.extend(replaced);
            self.check_readers(op, &old, &new);
        }
    }

    fn replaced_by(&self, op: &MapOp) -> Option<Delayed> {
        let MapOp::Service(op) = op else { return None };
        let record = *self.kernel.records().get(&op.key())?;
        let saw = self.kernel.read(&[record]).remove(&op.key())?;
        (saw.target != Target::Torn).then_some(Delayed { record, saw, until: None })
    }

    fn check_readers(
        &self,
        op: &MapOp,
        old: &BTreeMap<RecordKey, FrontendLine>,
        new: &BTreeMap<RecordKey, FrontendLine>,
    ) {
        let records = self.kernel.records();
        let touches = matches!(op, MapOp::Backend(_) | MapOp::WriteRing { .. });
        let lines =
            if matches!(op, MapOp::Service(_)) || touches { self.kernel.lines() } else { BTreeMap::new() };
        for (key, now) in lines {
            let expected = [old.get(&key), new.get(&key)];
            assert!(expected.contains(&Some(&now)), "after {op:?}\n{now}\nis none of {expected:?}");
            let reachable = records.get(&key.address_record()).is_some_and(ServiceOp::is_whole);
            assert!(
                reachable || old.get(&key) == Some(&now),
                "published before its address, after {op:?}\n{now}"
            );
        }
        for delayed in self.delayed.iter().filter(|_| touches) {
            let sees = self.kernel.read(&[delayed.record]).remove(&delayed.saw.key).unwrap();
            assert_eq!(sees.to_string(), delayed.saw.to_string(), "a delayed reader after {op:?}");
        }
    }

    /// Closes the epoch, lets a grace period pass and performs the first `writes` writes that follow from it.
    /// False if there was nothing to wait for.
    pub(super) fn grace(&mut self, wanted: &Wanted, writes: usize) -> bool {
        let Some(epoch) = self.seal() else { return false };
        self.pass(epoch, wanted, writes);
        true
    }

    pub(super) fn seal(&mut self) -> Option<Epoch> {
        let epoch = self.planner.seal_epoch()?;
        self.delayed
            .iter_mut()
            .filter(|reader| reader.until.is_none())
            .for_each(|reader| reader.until = Some(epoch));
        Some(epoch)
    }

    pub(super) fn pass(&mut self, epoch: Epoch, wanted: &Wanted, writes: usize) {
        self.delayed.retain(|reader| reader.until.is_none_or(|until| until > epoch));
        let ops = self.planner.grace_passed(epoch);
        assert!(ops.iter().all(|op| matches!(op, MapOp::Backend(op) if op.is_clear())), "{ops:?}");
        self.perform(&ops, wanted, writes);
    }

    /// Lets grace periods pass until nothing waits, then checks that the kernel holds `wanted` and nothing else, that
    /// the shadow agrees, and that a restart would write nothing.
    pub(super) fn settle(&mut self, wanted: &Wanted) {
        self.wait(wanted);
        assert_eq!(self.kernel.text(), text::print(&text::of_desired(wanted.values())));
        self.check_addresses(wanted);
        let again = self.planner.plan_full(wanted);
        assert_eq!(again, Plan::default(), "the shadow differs from the kernel");
        let mut restarted = Planner::restore(&self.kernel.dump(), self.kernel.capacities);
        assert_eq!(restarted.plan_full(wanted), Plan::default(), "a restart writes");
        assert_eq!(restarted.usage(), self.planner.usage(), "something leaked");
        assert_eq!(restarted.seal_epoch(), None, "something is in the kernel that nothing refers to");
    }

    /// Lets grace periods pass until nothing waits.
    pub(super) fn wait(&mut self, wanted: &Wanted) {
        let rounds = (0..4).take_while(|_| self.grace(wanted, usize::MAX)).count();
        assert!(rounds < 4, "quarantine does not empty");
    }

    fn check_addresses(&self, wanted: &Wanted) {
        let mut addresses: BTreeMap<RecordKey, bool> = BTreeMap::new();
        for frontend in wanted.values().flat_map(|service| &service.ports).flat_map(|port| &port.frontends) {
            let key = RecordKey::from(&frontend.key).address_record();
            *addresses.entry(key).or_insert(false) |= frontend.owns_address;
        }
        let records = self.kernel.records().into_iter().filter(|(key, _)| key.port == 0 && key.protocol == 0);
        let refusing = |op: &ServiceOp| op.value().unwrap().flags().has(ServiceFlags::REFUSE_UNKNOWN_PORT);
        let realised: BTreeMap<RecordKey, bool> = records.map(|(key, op)| (key, refusing(&op))).collect();
        assert_eq!(realised, addresses);
    }
}

/// What is different between two states of the cluster.
pub(super) fn changes(before: &Wanted, wanted: &Wanted) -> Changed {
    let gone = before.keys().filter(|name| !wanted.contains_key(name)).map(|name| (name.clone(), None));
    let changed = wanted.iter().filter(|(name, service)| before.get(name) != Some(service));
    gone.chain(changed.map(|(name, service)| (name.clone(), Some(service.clone())))).collect()
}

/// What a write is, in the words of the write order.
pub(super) fn stage(op: &MapOp) -> &'static str {
    match op {
        MapOp::Backend(op) if op.is_clear() => "clear",
        MapOp::Backend(_) => "backend",
        MapOp::WriteRing { .. } => "ring",
        MapOp::PutSourceRange { .. } => "range+",
        MapOp::DeleteSourceRange { .. } => "range-",
        MapOp::Service(op) => match (op.key().port, op.value()) {
            (0, Some(_)) => "address",
            (0, None) => "address-",
            (_, Some(_)) => "record",
            (_, None) => "record-",
        },
    }
}

pub(super) fn stages(plan: &Plan) -> Vec<&'static str> {
    plan.ops.iter().map(stage).collect()
}
