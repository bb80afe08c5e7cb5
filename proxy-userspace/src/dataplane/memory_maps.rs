//! The service maps in ordinary memory: the same behaviour as the kernel's, with no kernel and no root.
//!
//! Used by tests and by whoever wants to see what a run would write. Must not know who reads them.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use proxy_common::{
    Address, AffinityKey, AffinityValue, BackendId, BackendValue, Ipv4Be, Ipv6Be, ServiceKey, ServiceValue,
    names,
};
use proxy_core::diff::{BackendOp, MapOp, RealisedDump, ServiceOp};

use super::{ApplyError, Capacities, LbMaps, MapLimit};

/// Service maps in memory, bounded like the kernel's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryMaps {
    capacities: Capacities,
    services4: BTreeMap<ServiceKey<Ipv4Be>, ServiceValue>,
    services6: BTreeMap<ServiceKey<Ipv6Be>, ServiceValue>,
    ring: BTreeMap<u32, BackendId>,
    backends4: BTreeMap<BackendId, BackendValue<Ipv4Be>>,
    backends6: BTreeMap<BackendId, BackendValue<Ipv6Be>>,
    source_ranges: BTreeSet<(u32, IpNetwork)>,
    affinity: BTreeMap<AffinityKey, AffinityValue>,
}

impl MemoryMaps {
    /// Empty maps of these capacities.
    pub fn new(capacities: Capacities) -> Self {
        Self { capacities, ..Self::default() }
    }

    /// A client uses a backend, as the programs note it.
    pub fn note_client(&mut self, key: AffinityKey, value: AffinityValue) {
        self.affinity.insert(key, value);
    }

    /// The clients of which the backend used last is known.
    pub fn clients(&self) -> impl Iterator<Item = &AffinityKey> {
        self.affinity.keys()
    }

    fn write_ring(&mut self, base: u32, ids: &[BackendId]) -> Result<(), ApplyError> {
        let capacity = u64::from(self.capacities.ring);
        let end = u64::from(base) + ids.len() as u64;
        if end > capacity {
            return Err(ApplyError::OutOfRange {
                map: names::RING,
                position: capacity.max(base.into()),
                capacity,
            });
        }
        self.ring.extend((base..).zip(ids.iter().copied()).filter(|(_, id)| *id != 0));
        for (position, _) in (base..).zip(ids).filter(|(_, id)| **id == 0) {
            self.ring.remove(&position);
        }
        Ok(())
    }

    fn put_source_range(&mut self, range: (u32, IpNetwork)) -> Result<(), ApplyError> {
        let full = self.source_ranges.len() >= self.capacities.source_ranges as usize;
        if full && !self.source_ranges.contains(&range) {
            return Err(ApplyError::Full(self.capacities.limit(names::SOURCE_RANGES)));
        }
        self.source_ranges.insert(range);
        Ok(())
    }
}

impl LbMaps for MemoryMaps {
    fn apply(&mut self, op: &MapOp) -> Result<(), ApplyError> {
        let backends = self.capacities.backends;
        match op {
            MapOp::Backend(BackendOp::V4(id, value)) => {
                put_backend(&mut self.backends4, *id, *value, names::BACKENDS4, backends)
            }
            MapOp::Backend(BackendOp::V6(id, value)) => {
                put_backend(&mut self.backends6, *id, *value, names::BACKENDS6, backends)
            }
            MapOp::WriteRing { base, ids } => self.write_ring(*base, ids),
            MapOp::PutSourceRange { service_id, network } => self.put_source_range((*service_id, *network)),
            MapOp::DeleteSourceRange { service_id, network } => {
                self.source_ranges.remove(&(*service_id, *network));
                Ok(())
            }
            MapOp::Service(ServiceOp::V4(key, value)) => {
                replace(&mut self.services4, *key, *value, self.capacities.limit(names::SERVICES4))
            }
            MapOp::Service(ServiceOp::V6(key, value)) => {
                replace(&mut self.services6, *key, *value, self.capacities.limit(names::SERVICES6))
            }
        }
    }

    fn dump(&self) -> Result<RealisedDump, ApplyError> {
        let mut ring = vec![0; self.capacities.ring as usize];
        for (position, id) in &self.ring {
            if let Some(slot) = ring.get_mut(*position as usize) {
                *slot = *id;
            }
        }
        Ok(RealisedDump {
            services4: pairs(&self.services4),
            services6: pairs(&self.services6),
            ring,
            backends4: pairs(&self.backends4),
            backends6: pairs(&self.backends6),
            source_ranges: self.source_ranges.iter().copied().collect(),
        })
    }

    fn forget_clients(&mut self, in_use: &BTreeSet<u32>) -> Result<usize, ApplyError> {
        let before = self.affinity.len();
        self.affinity.retain(|key, _| in_use.contains(&key.service_id));
        Ok(before - self.affinity.len())
    }

    fn wait_grace(&self) {
        // Nobody reads these maps while they are written.
    }
}

fn pairs<K: Copy, V: Copy>(map: &BTreeMap<K, V>) -> Vec<(K, V)> {
    map.iter().map(|(key, value)| (*key, *value)).collect()
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V, limit: MapLimit) -> Result<(), ApplyError> {
    if map.len() >= limit.capacity as usize && !map.contains_key(&key) {
        return Err(ApplyError::Full(limit));
    }
    map.insert(key, value);
    Ok(())
}

fn replace<K: Ord, V>(
    map: &mut BTreeMap<K, V>,
    key: K,
    value: Option<V>,
    limit: MapLimit,
) -> Result<(), ApplyError> {
    match value {
        Some(value) => put(map, key, value, limit),
        None => {
            map.remove(&key);
            Ok(())
        }
    }
}

fn put_backend<A: Address>(
    backends: &mut BTreeMap<BackendId, BackendValue<A>>,
    id: BackendId,
    value: BackendValue<A>,
    map: &'static str,
    capacity: u32,
) -> Result<(), ApplyError> {
    if id >= capacity {
        return Err(ApplyError::OutOfRange { map, position: id.into(), capacity: capacity.into() });
    }
    if value == BackendValue::FREE {
        backends.remove(&id);
    } else {
        backends.insert(id, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proxy_common::{PortBe, Scope};

    use super::*;

    fn small() -> MemoryMaps {
        let capacities =
            Capacities { services: 2, ring: 8, backends: 4, source_ranges: 1, ..Capacities::default() };
        MemoryMaps::new(capacities)
    }

    fn key(last: u8) -> ServiceKey<Ipv4Be> {
        ServiceKey::address_record(Ipv4Addr::new(10, 96, 0, last).into(), Scope::Internal)
    }

    fn service(last: u8) -> MapOp {
        let value = ServiceValue::EMPTY;
        MapOp::Service(ServiceOp::V4(key(last), Some(value.sealed(&key(last)))))
    }

    #[test]
    fn a_full_map_refuses_a_new_record_but_replaces_an_old_one() {
        let mut maps = small();
        maps.apply(&service(1)).unwrap();
        maps.apply(&service(2)).unwrap();
        let error = maps.apply(&service(3)).unwrap_err();
        assert_eq!(error.to_string(), "map services4 is full (2 records): raise --services-max");
        maps.apply(&service(2)).unwrap();
        maps.apply(&MapOp::Service(ServiceOp::V4(key(1), None))).unwrap();
        maps.apply(&service(3)).unwrap();
        assert_eq!(maps.dump().unwrap().services4.len(), 2);
    }

    #[test]
    fn positions_outside_the_arrays_are_refused_whole() {
        let mut maps = small();
        let before = maps.clone();
        let ring = MapOp::WriteRing { base: 6, ids: vec![1, 2, 3] };
        assert!(matches!(maps.apply(&ring), Err(ApplyError::OutOfRange { position: 8, capacity: 8, .. })));
        let value = BackendValue::sealed(4, Ipv4Addr::new(10, 0, 0, 1).into(), PortBe::from_host(80), 6);
        let backend = MapOp::Backend(BackendOp::V4(4, value));
        assert!(matches!(maps.apply(&backend), Err(ApplyError::OutOfRange { position: 4, capacity: 4, .. })));
        assert_eq!(maps, before);
    }

    #[test]
    fn the_dump_shows_what_was_written_and_not_what_was_freed() {
        let mut maps = small();
        let value = BackendValue::sealed(1, Ipv4Addr::new(10, 0, 0, 1).into(), PortBe::from_host(80), 6);
        maps.apply(&MapOp::Backend(BackendOp::V4(1, value))).unwrap();
        maps.apply(&MapOp::WriteRing { base: 2, ids: vec![1, 1] }).unwrap();
        let dump = maps.dump().unwrap();
        assert_eq!(dump.ring, [0, 0, 1, 1, 0, 0, 0, 0]);
        assert_eq!(dump.backends4, [(1, value)]);
        maps.apply(&MapOp::Backend(BackendOp::V4(1, BackendValue::FREE))).unwrap();
        assert!(maps.dump().unwrap().backends4.is_empty());
    }

    #[test]
    fn deleting_what_is_absent_is_success() {
        let mut maps = small();
        let network: IpNetwork = "192.0.2.0/24".parse().unwrap();
        maps.apply(&MapOp::DeleteSourceRange { service_id: 1, network }).unwrap();
        maps.apply(&MapOp::Service(ServiceOp::V4(key(1), None))).unwrap();
        maps.apply(&MapOp::PutSourceRange { service_id: 1, network }).unwrap();
        let error = maps.apply(&MapOp::PutSourceRange { service_id: 2, network }).unwrap_err();
        assert_eq!(error.to_string(), "map source_ranges is full (1 prefixes): raise --source-ranges-max");
    }
}
