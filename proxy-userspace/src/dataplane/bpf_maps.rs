//! The service maps in the kernel: every write of the reconciler lands here.
//!
//! Must not know why a write is made.

use std::{collections::BTreeSet, io, os::fd::AsFd};

use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, MapData, MapError},
};
use ipnetwork::IpNetwork;
use proxy_common::{
    Address, AffinityKey, AffinityValue, BackendId, BackendValue, Bit, Ipv4Be, Ipv6Be, ServiceKey,
    ServiceValue, SourceRangeKey, filter::ADDRESS_FILTER, names,
};
use proxy_core::diff::{BackendOp, MapOp, RealisedDump, ServiceOp};

use super::{
    ApplyError, Capacities, LbMaps, MapLimit,
    address_filter::AddressFilter,
    grace,
    handles::{MapHandles, io_error},
    ring_memory::RingMemory,
    source_range,
};

type Services<A> = HashMap<MapData, ServiceKey<A>, ServiceValue>;
type Backends<A> = Array<MapData, BackendValue<A>>;
type Affinity = HashMap<MapData, AffinityKey, AffinityValue>;

/// What a source range's entry holds: that it exists is what counts.
const ADMITTED: u32 = 1;

/// The kernel's service maps, opened to write. One writer at a time.
pub struct KernelMaps {
    handles: MapHandles,
    capacities: Capacities,
    services4: Services<Ipv4Be>,
    services6: Services<Ipv6Be>,
    ring: RingMemory,
    backends4: Backends<Ipv4Be>,
    backends6: Backends<Ipv6Be>,
    source_ranges: LpmTrie<MapData, SourceRangeKey, u32>,
    address_filter: AddressFilter,
}

impl KernelMaps {
    /// Opens the maps anew, with descriptors and a mapping of their own.
    pub(super) fn open(handles: &MapHandles, capacities: Capacities) -> Result<Self, ApplyError> {
        let failed = |map| move |source| ApplyError::Kernel { action: "map into memory", map, source };
        let (ring, filter) = (handles.get(names::RING)?, handles.get(names::ADDRESS_FILTER)?);
        let address_filter = AddressFilter::map(filter.as_fd(), filter.shape.max_entries);
        Ok(Self {
            services4: handles.typed(names::SERVICES4)?,
            services6: handles.typed(names::SERVICES6)?,
            ring: RingMemory::map(ring.as_fd(), ring.shape.max_entries).map_err(failed(names::RING))?,
            backends4: handles.typed(names::BACKENDS4)?,
            backends6: handles.typed(names::BACKENDS6)?,
            source_ranges: handles.typed(names::SOURCE_RANGES)?,
            address_filter: address_filter.map_err(failed(names::ADDRESS_FILTER))?,
            handles: handles.clone(),
            capacities,
        })
    }

    fn write_ring(&self, base: u32, ids: &[BackendId]) -> Result<(), ApplyError> {
        if self.ring.write(base, ids) {
            return Ok(());
        }
        let capacity = self.ring.len() as u64;
        Err(ApplyError::OutOfRange { map: names::RING, position: capacity.max(base.into()), capacity })
    }

    fn put_source_range(&mut self, service_id: u32, network: IpNetwork) -> Result<(), ApplyError> {
        let result = self.source_ranges.insert(&source_range::encode(service_id, network), ADMITTED, 0);
        written(result, self.capacities.limit(names::SOURCE_RANGES))
    }

    fn delete_source_range(&mut self, service_id: u32, network: IpNetwork) -> Result<(), ApplyError> {
        let result = self.source_ranges.remove(&source_range::encode(service_id, network));
        deleted(result, names::SOURCE_RANGES)
    }
}

impl LbMaps for KernelMaps {
    fn apply(&mut self, op: &MapOp) -> Result<(), ApplyError> {
        let limit = |map| self.capacities.limit(map);
        match op {
            MapOp::Backend(BackendOp::V4(id, value)) => {
                put_backend(&mut self.backends4, *id, value, limit(names::BACKENDS4))
            }
            MapOp::Backend(BackendOp::V6(id, value)) => {
                put_backend(&mut self.backends6, *id, value, limit(names::BACKENDS6))
            }
            MapOp::WriteRing { base, ids } => self.write_ring(*base, ids),
            MapOp::PutSourceRange { service_id, network } => self.put_source_range(*service_id, *network),
            MapOp::DeleteSourceRange { service_id, network } => {
                self.delete_source_range(*service_id, *network)
            }
            MapOp::Service(ServiceOp::V4(key, value)) => {
                admit(&self.address_filter, key)?;
                put_service(&mut self.services4, key, value.as_ref(), limit(names::SERVICES4))
            }
            MapOp::Service(ServiceOp::V6(key, value)) => {
                admit(&self.address_filter, key)?;
                put_service(&mut self.services6, key, value.as_ref(), limit(names::SERVICES6))
            }
        }
    }

    fn dump(&self) -> Result<RealisedDump, ApplyError> {
        Ok(RealisedDump { ring: self.ring.read(), ..self.handles.dump_without_ring()? })
    }

    fn forget_clients(&mut self, in_use: &BTreeSet<u32>) -> Result<usize, ApplyError> {
        let mut stale = Vec::new();
        self.handles.for_each(names::AFFINITY, |key: AffinityKey, _: AffinityValue| {
            if !in_use.contains(&key.service_id) {
                stale.push(key);
            }
        })?;
        let mut affinity: Affinity = self.handles.typed(names::AFFINITY)?;
        stale.iter().try_for_each(|key| deleted(affinity.remove(key), names::AFFINITY))?;
        Ok(stale.len())
    }

    fn wait_grace(&self) {
        grace::wait_grace();
    }
}

fn put_backend<A>(
    backends: &mut Backends<A>,
    id: BackendId,
    value: &BackendValue<A>,
    limit: MapLimit,
) -> Result<(), ApplyError>
where
    A: Address,
    BackendValue<A>: Pod,
{
    written(backends.set(id, value, 0), limit)
}

/// Has packets to a frontend's address look it up, before there is something to find.
fn admit<A: Address>(filter: &AddressFilter, key: &ServiceKey<A>) -> Result<(), ApplyError> {
    let (position, capacity) = (Bit::of_address(key.address).element.into(), ADDRESS_FILTER.into());
    let outside = ApplyError::OutOfRange { map: names::ADDRESS_FILTER, position, capacity };
    if filter.admit(key.address) { Ok(()) } else { Err(outside) }
}

fn put_service<A>(
    services: &mut Services<A>,
    key: &ServiceKey<A>,
    value: Option<&ServiceValue>,
    limit: MapLimit,
) -> Result<(), ApplyError>
where
    A: Address,
    ServiceKey<A>: Pod,
{
    match value {
        Some(value) => written(services.insert(key, value, 0), limit),
        None => deleted(services.remove(key), limit.map),
    }
}

fn written(result: Result<(), MapError>, limit: MapLimit) -> Result<(), ApplyError> {
    let error = match result {
        Ok(()) => return Ok(()),
        Err(MapError::OutOfBounds { index, max_entries }) => {
            let (position, capacity) = (index.into(), max_entries.into());
            return Err(ApplyError::OutOfRange { map: limit.map, position, capacity });
        }
        Err(error) => io_error(error),
    };
    Err(match error.raw_os_error() {
        // A hash says E2BIG when it is full, an LPM trie ENOSPC.
        Some(libc::E2BIG | libc::ENOSPC) => ApplyError::Full(limit),
        Some(libc::ENOMEM) => ApplyError::NoMemory { map: limit.map },
        _ => ApplyError::Kernel { action: "write", map: limit.map, source: error },
    })
}

fn deleted(result: Result<(), MapError>, map: &'static str) -> Result<(), ApplyError> {
    match result.map_err(io_error) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ApplyError::Kernel { action: "delete from", map, source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    fn system(errno: i32) -> Result<(), MapError> {
        let io_error = io::Error::from_raw_os_error(errno);
        Err(MapError::SyscallError(SyscallError { call: "bpf_map_update_elem", io_error }))
    }

    #[test]
    fn a_full_map_names_the_option_that_makes_it_larger() {
        let limit = Capacities::default().limit(names::SERVICES4);
        let error = written(system(libc::E2BIG), limit).unwrap_err();
        assert_eq!(error.to_string(), "map services4 is full (262144 records): raise --services-max");
        let limit = Capacities::default().limit(names::SOURCE_RANGES);
        let error = written(system(libc::ENOSPC), limit).unwrap_err();
        assert_eq!(
            error.to_string(),
            "map source_ranges is full (65536 prefixes): raise --source-ranges-max"
        );
    }

    #[test]
    fn other_refusals_keep_the_systems_reason() {
        let limit = Capacities::default().limit(names::SERVICES4);
        assert!(matches!(written(system(libc::ENOMEM), limit), Err(ApplyError::NoMemory { .. })));
        let error = written(system(libc::EPERM), limit).unwrap_err();
        assert_eq!(error.to_string(), "cannot write map services4");
        assert!(std::error::Error::source(&error).is_some());
    }

    #[test]
    fn deleting_what_is_absent_is_success() {
        deleted(system(libc::ENOENT), names::SERVICES4).unwrap();
        deleted(system(libc::EPERM), names::SERVICES4).unwrap_err();
    }
}
