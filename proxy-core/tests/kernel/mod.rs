//! A stand-in for the kernel maps that knows who may be reading them.
//!
//! A reader copies a service record, then reads ring positions, then backends, and may pause in between for as long as
//! a grace period lasts. So what a record refers to is pinned while the record is published, and after that until a
//! grace period has passed; any write that would change a pinned thing stops the test. Must not know what is wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use proxy_common::{
    Address, BackendFlags, BackendId, BackendValue, Ipv4Be, Ipv6Be, PortBe, Scope, ServiceKey, ServiceValue,
};
use proxy_core::{
    desired::{Backend, Family, FrontendKey},
    diff::{BackendOp, Capacities, Epoch, MapOp, RealisedDump, ServiceOp},
};

/// A service key of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub address: IpAddr,
    pub scope: u8,
    pub protocol: u8,
    pub port: u16,
}

/// A place for a backend.
type Slot = (Family, BackendId);
/// A backend and its protocol.
type Content = (Backend, u8);
/// A record as a reader may have copied it.
type Copied = (Key, ServiceValue);

#[derive(Clone, Debug)]
pub struct Kernel {
    capacities: Capacities,
    pub services: BTreeMap<Key, ServiceValue>,
    ring: Vec<BackendId>,
    backends: BTreeMap<Slot, BackendOp>,
    pub ranges: BTreeSet<(u32, IpNetwork)>,
    pins: Pins,
    /// Records that were replaced or deleted since the last epoch was closed.
    retired: Vec<Copied>,
    /// The same for closed epochs whose grace period has not passed.
    waiting: Vec<(Epoch, Vec<Copied>)>,
}

/// How many copies refer to a thing.
#[derive(Clone, Debug, Default)]
struct Pins {
    positions: BTreeMap<u32, usize>,
    backends: BTreeMap<Slot, usize>,
    service_ids: BTreeMap<u32, usize>,
}

impl Key {
    pub fn is_address_record(&self) -> bool {
        self.port == 0 && self.protocol == 0
    }

    pub fn address_record(&self) -> Self {
        Self { port: 0, protocol: 0, scope: Scope::Internal as u8, ..*self }
    }

    pub fn family(&self) -> Family {
        Family::of(self.address)
    }
}

impl From<FrontendKey> for Key {
    fn from(key: FrontendKey) -> Self {
        let FrontendKey { address, port, protocol, scope } = key;
        Self { address, port, protocol: protocol as u8, scope: scope as u8 }
    }
}

impl Kernel {
    pub fn new(capacities: Capacities) -> Self {
        Self {
            ring: vec![0; capacities.ring as usize],
            capacities,
            services: BTreeMap::new(),
            backends: BTreeMap::new(),
            ranges: BTreeSet::new(),
            pins: Pins::default(),
            retired: vec![],
            waiting: vec![],
        }
    }

    /// Performs a write, unless a reader would notice.
    pub fn apply(&mut self, op: &MapOp) {
        match op {
            MapOp::Backend(op) => self.write_backend(*op),
            MapOp::WriteRing { base, ids } => self.write_ring(*base, ids),
            MapOp::PutSourceRange { service_id, network } => {
                assert!(
                    self.ranges.insert((*service_id, *network)),
                    "an admitted prefix is written again: {op:?}"
                );
                assert!(self.ranges.len() <= self.capacities.source_ranges as usize, "source_ranges is full");
            }
            MapOp::DeleteSourceRange { service_id, network } => {
                self.ranges.retain(|range| *range != (*service_id, *network));
            }
            MapOp::Service(op) => self.write_service(*op),
        }
    }

    fn write_backend(&mut self, op: BackendOp) {
        let (slot, content) = content(op);
        assert!((1..self.capacities.backends).contains(&slot.1), "backend id {slot:?} is out of bounds");
        assert!(!self.pins.backends.contains_key(&slot), "{slot:?} changes under a reader");
        match content {
            Some(_) => {
                let old = self.backends.insert(slot, op);
                assert_eq!(old, None, "place {slot:?} was not free");
            }
            None => drop(self.backends.remove(&slot)),
        }
    }

    fn write_ring(&mut self, base: u32, ids: &[BackendId]) {
        assert!(base >= 1 && !ids.is_empty(), "position 0 is the probe's, and an empty write is no write");
        for (position, id) in (base..).zip(ids) {
            assert!(
                !self.pins.positions.contains_key(&position),
                "position {position} changes under a reader"
            );
            assert!(position < self.capacities.ring, "position {position} is out of bounds");
            self.ring[position as usize] = *id;
        }
    }

    fn write_service(&mut self, op: ServiceOp) {
        let (key, value) = plain(op);
        let old = match value {
            Some(value) => {
                assert_ne!(
                    self.services.get(&key),
                    Some(&value),
                    "{key:?} is written again without a change"
                );
                self.pin(key, &value);
                self.services.insert(key, value)
            }
            None => self.services.remove(&key),
        };
        let used = self.services.keys().filter(|other| other.family() == key.family()).count();
        assert!(used <= self.capacities.services as usize, "services of {:?} is full", key.family());
        self.retired.extend(old.map(|value| (key, value)));
    }

    /// The backends a reader of this record can get to: those to choose from, and those to stay with.
    ///
    /// Panics if there is anything else than whole backends of the record's protocol.
    pub fn read(&self, key: Key, value: &ServiceValue) -> (Vec<Backend>, Vec<Backend>) {
        let all: Vec<Backend> = slots(&self.ring, key, value)
            .map(|slot| {
                let op = self
                    .backends
                    .get(&slot)
                    .unwrap_or_else(|| panic!("{key:?} leads to the free place {slot:?}"));
                let (backend, protocol) = content(*op).1.expect("a place in use");
                assert_eq!(protocol, key.protocol, "{key:?} leads to {op:?}");
                backend
            })
            .collect();
        let (chosen, kept) = all.split_at(value.ring_len as usize);
        (chosen.to_vec(), kept.to_vec())
    }

    /// The backend ids in use by published records.
    pub fn published_backends(&self) -> BTreeMap<(Family, u8, Backend), BTreeSet<BackendId>> {
        let mut all: BTreeMap<_, BTreeSet<BackendId>> = BTreeMap::new();
        for (key, value) in &self.services {
            for slot in slots(&self.ring, *key, value) {
                let (backend, protocol) = content(self.backends[&slot]).1.expect("a place in use");
                all.entry((slot.0, protocol, backend)).or_default().insert(slot.1);
            }
        }
        all
    }

    /// Whether some reader may still use this service id.
    pub fn is_read(&self, service_id: u32) -> bool {
        self.pins.service_ids.contains_key(&service_id)
    }

    /// How many places are in use: records of each family, backends of each family, prefixes.
    pub fn used(&self) -> [usize; 5] {
        let services = |family| self.services.keys().filter(|key| key.family() == family).count();
        let backends = |family| self.backends.keys().filter(|slot| slot.0 == family).count();
        let [v4, v6] = [Family::V4, Family::V6];
        [services(v4), services(v6), backends(v4), backends(v6), self.ranges.len()]
    }

    /// Ring positions that published records use.
    pub fn ring_used(&self) -> usize {
        let positions =
            self.services.values().flat_map(|value| value.ring_base..value.ring_base + count(value));
        positions.collect::<BTreeSet<u32>>().len()
    }

    fn pin(&mut self, key: Key, value: &ServiceValue) {
        for slot in slots(&self.ring, key, value).collect::<Vec<_>>() {
            *self.pins.backends.entry(slot).or_default() += 1;
        }
        for position in value.ring_base..value.ring_base + count(value) {
            *self.pins.positions.entry(position).or_default() += 1;
        }
        *self.pins.service_ids.entry(value.service_id).or_default() += 1;
    }

    fn unpin(&mut self, (key, value): Copied) {
        for slot in slots(&self.ring, key, &value).collect::<Vec<_>>() {
            unpin(&mut self.pins.backends, &slot);
        }
        for position in value.ring_base..value.ring_base + count(&value) {
            unpin(&mut self.pins.positions, &position);
        }
        unpin(&mut self.pins.service_ids, &value.service_id);
    }

    /// An epoch was closed: its grace period begins.
    pub fn seal(&mut self, epoch: Epoch) {
        let retired = std::mem::take(&mut self.retired);
        self.waiting.push((epoch, retired));
    }

    /// The grace periods of `epoch` and of those before it have passed: readers from before are gone.
    pub fn grace_passed(&mut self, epoch: Epoch) {
        for (closed, copies) in std::mem::take(&mut self.waiting) {
            if closed <= epoch {
                copies.into_iter().for_each(|copy| self.unpin(copy));
            } else {
                self.waiting.push((closed, copies));
            }
        }
    }

    /// Nobody reads an old record any more: an agent takes longer to start than any reader pauses.
    pub fn restart(&mut self) {
        let waiting = std::mem::take(&mut self.waiting).into_iter().flat_map(|(_, copies)| copies);
        let old: Vec<Copied> = waiting.chain(std::mem::take(&mut self.retired)).collect();
        old.into_iter().for_each(|copy| self.unpin(copy));
    }

    /// Everything the maps hold, backwards if asked: no order is promised.
    pub fn dump(&self, backwards: bool) -> RealisedDump {
        let mut dump = RealisedDump { ring: self.ring.clone(), ..RealisedDump::default() };
        for (key, value) in &self.services {
            match service_op(*key, Some(*value)) {
                ServiceOp::V4(key, Some(value)) => dump.services4.push((key, value)),
                ServiceOp::V6(key, Some(value)) => dump.services6.push((key, value)),
                ServiceOp::V4(_, None) | ServiceOp::V6(_, None) => {}
            }
        }
        for op in self.backends.values() {
            match *op {
                BackendOp::V4(id, value) => dump.backends4.push((id, value)),
                BackendOp::V6(id, value) => dump.backends6.push((id, value)),
            }
        }
        dump.source_ranges = self.ranges.iter().copied().collect();
        if backwards {
            dump.services4.reverse();
            dump.services6.reverse();
            dump.backends4.reverse();
            dump.backends6.reverse();
            dump.source_ranges.reverse();
        }
        dump
    }

    /// Somebody else meddles with the maps; `what` and `which` choose how. Until [`Kernel::settle`], writes that repair
    /// may touch what readers use.
    pub fn spoil(&mut self, what: u8, which: u8) {
        self.restart();
        let key = self.services.keys().nth(usize::from(which) % self.services.len().max(1)).copied();
        let slot = self.backends.keys().nth(usize::from(which) % self.backends.len().max(1)).copied();
        match (what % 7, key, slot) {
            (0, Some(key), _) => drop(self.services.remove(&key)),
            (1, Some(key), _) => self.services.get_mut(&key).expect("present").check ^= 1,
            (2, Some(key), _) => {
                let odd = Key { port: 9, protocol: 6, ..key };
                let value = ServiceValue { service_id: 77, ..self.services[&key] };
                self.services.insert(odd, sealed(odd, value));
            }
            (3, _, Some(slot)) => drop(self.backends.remove(&slot)),
            (4, ..) => {
                let position = 1 + usize::from(which) % (self.ring.len() - 1);
                self.ring[position] = self.ring[position].wrapping_add(1);
            }
            (5, ..) => drop(self.ranges.pop_first()),
            _ => drop(
                self.ranges.insert((u32::from(which) + 1, IpNetwork::from(IpAddr::from([192, 0, 2, which])))),
            ),
        }
        self.pins = Pins::default();
    }

    /// Starts to watch over readers again, who use what is there now.
    pub fn settle(&mut self) {
        self.restart();
        self.pins = Pins::default();
        let now: Vec<Copied> = self.services.iter().map(|(key, value)| (*key, *value)).collect();
        now.into_iter().for_each(|(key, value)| self.pin(key, &value));
    }

    /// Epochs closed so far mean nothing any more; their readers are as recent as any.
    pub fn reopen(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.retired.extend(waiting.into_iter().flat_map(|(_, copies)| copies));
    }
}

fn unpin<T: Ord>(pins: &mut BTreeMap<T, usize>, thing: &T) {
    let Some(count) = pins.get_mut(thing) else { return };
    *count -= 1;
    if *count == 0 {
        pins.remove(thing);
    }
}

/// How many positions a record refers to.
fn count(value: &ServiceValue) -> u32 {
    value.ring_len + value.keep_len
}

/// The places that a record leads to.
fn slots<'a>(ring: &'a [BackendId], key: Key, value: &ServiceValue) -> impl Iterator<Item = Slot> + 'a {
    let range = value.ring_base as usize..(value.ring_base + count(value)) as usize;
    ring.get(range).expect("a range inside the ring").iter().map(move |id| (key.family(), *id))
}

/// Place and content of a backend write; no content frees the place. Checks the check word.
fn content(op: BackendOp) -> (Slot, Option<Content>) {
    match op {
        BackendOp::V4(id, BackendValue::<Ipv4Be>::FREE) => ((Family::V4, id), None),
        BackendOp::V6(id, BackendValue::<Ipv6Be>::FREE) => ((Family::V6, id), None),
        BackendOp::V4(id, value) => {
            ((Family::V4, id), Some(backend(id, Ipv4Addr::from(value.address).into(), &value)))
        }
        BackendOp::V6(id, value) => {
            ((Family::V6, id), Some(backend(id, Ipv6Addr::from(value.address).into(), &value)))
        }
    }
}

fn backend<A: Address + std::fmt::Debug>(id: BackendId, address: IpAddr, value: &BackendValue<A>) -> Content {
    assert!(value.is_whole(id) && value.weight == 1, "{value:?}");
    assert!([0, BackendFlags::LOCAL].contains(&value.flags), "{value:?}");
    let local = value.flags().has(BackendFlags::LOCAL);
    (Backend { address, port: value.port.to_host(), local }, value.protocol)
}

/// Key and value of a write. Checks the check word.
pub fn plain(op: ServiceOp) -> (Key, Option<ServiceValue>) {
    match op {
        ServiceOp::V4(key, value) => {
            assert!(value.is_none_or(|value| value.check == value.check_word(&key)), "{op:?}");
            let address = Ipv4Addr::from(key.address).into();
            (Key { address, scope: key.scope, protocol: key.protocol, port: key.port.to_host() }, value)
        }
        ServiceOp::V6(key, value) => {
            assert!(value.is_none_or(|value| value.check == value.check_word(&key)), "{op:?}");
            let address = Ipv6Addr::from(key.address).into();
            (Key { address, scope: key.scope, protocol: key.protocol, port: key.port.to_host() }, value)
        }
    }
}

fn service_op(key: Key, value: Option<ServiceValue>) -> ServiceOp {
    let Key { address, scope, protocol, port } = key;
    let port = PortBe::from_host(port);
    match address {
        IpAddr::V4(v4) => ServiceOp::V4(ServiceKey { address: v4.into(), port, protocol, scope }, value),
        IpAddr::V6(v6) => ServiceOp::V6(ServiceKey { address: v6.into(), port, protocol, scope }, value),
    }
}

/// Whether the record's check word is right.
pub fn is_whole(key: Key, value: &ServiceValue) -> bool {
    sealed(key, *value) == *value
}

fn sealed(key: Key, value: ServiceValue) -> ServiceValue {
    match service_op(key, None) {
        ServiceOp::V4(key, _) => value.sealed(&key),
        ServiceOp::V6(key, _) => value.sealed(&key),
    }
}
