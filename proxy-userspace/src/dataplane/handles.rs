//! Open maps by name, and reading them whole.
//!
//! The agent opens them with its programs, the command line from the pins of an agent that is gone. Must not write.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use aya::{
    Pod,
    maps::{Map, MapData, MapError, lpm_trie::Key},
};
use ipnetwork::IpNetwork;
use proxy_common::{
    Address, BackendId, BackendValue, Ipv4Be, Ipv6Be, ServiceKey, ServiceValue, SourceRangeKey, names,
};
use proxy_core::diff::RealisedDump;

use super::{
    ApplyError, batch,
    definition::{MapDefinition, Shape, pin_prefix},
    load::{LoadError, Loaded},
    pins::{self, Pins},
    source_range,
    sys::Access,
};

/// An open map.
#[derive(Debug)]
pub(super) struct MapHandle {
    pub(super) name: String,
    pub(super) shape: Shape,
    fd: OwnedFd,
}

/// Open maps; clones share the descriptors.
#[derive(Clone, Debug)]
pub(super) struct MapHandles(Arc<[MapHandle]>);

impl MapHandles {
    /// The maps that the programs use.
    pub(super) fn of_programs(loaded: &Loaded, definitions: &[MapDefinition]) -> Result<Self, LoadError> {
        let open = |definition: &MapDefinition| {
            let missing = || LoadError::Missing { what: format!("map {}", definition.name) };
            let fd = loaded.map(&definition.name).and_then(Result::ok).ok_or_else(missing)?;
            Ok(MapHandle { name: definition.name.clone(), shape: definition.shape, fd })
        };
        definitions.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// The maps that are pinned and whose entries mean what this version thinks they mean, to read. With several
    /// capacities of one map (an agent was killed while it changed them) the one counts that attached programs use
    /// (`in_use`: the kernel's ids) or that belongs to such a one, then the one with the most room.
    pub(super) fn of_pins(
        pins: &Pins,
        definitions: &[MapDefinition],
        in_use: &BTreeSet<u32>,
    ) -> Result<Self, pins::PinsError> {
        let pinned = pins::list(&pins.maps())?;
        let mut maps: Vec<(&str, MapHandle)> = Vec::new();
        for definition in definitions {
            let prefix = pin_prefix(&definition.name);
            let variants = pinned.iter().filter_map(|name| Some((name, name.strip_prefix(&prefix)?)));
            maps.extend(variants.filter_map(|(name, variant)| {
                Some((variant, open_similar(&pins.maps().join(name), definition)?))
            }));
        }
        let is_used = |map: &MapHandle| pins::map_id(map.as_fd()).is_ok_and(|id| in_use.contains(&id));
        let current: BTreeSet<&str> =
            maps.iter().filter(|(_, map)| is_used(map)).map(|(variant, _)| *variant).collect();
        // The last of a name stays.
        maps.sort_by_key(|(variant, map)| (current.contains(variant), map.shape.max_entries));
        let best: BTreeMap<String, MapHandle> =
            maps.into_iter().map(|(_, map)| (map.name.clone(), map)).collect();
        Ok(Self(best.into_values().collect()))
    }

    /// Every map.
    pub(super) fn iter(&self) -> impl Iterator<Item = &MapHandle> {
        self.0.iter()
    }

    /// One map.
    pub(super) fn get(&self, name: &'static str) -> Result<&MapHandle, ApplyError> {
        let missing =
            || ApplyError::Kernel { action: "find", map: name, source: io::ErrorKind::NotFound.into() };
        self.0.iter().find(|map| map.name == name).ok_or_else(missing)
    }

    /// A typed map with a descriptor of its own.
    pub(super) fn typed<M>(&self, name: &'static str) -> Result<M, ApplyError>
    where
        M: TryFrom<Map, Error = MapError>,
    {
        let failed = |source| ApplyError::Kernel { action: "open", map: name, source };
        let data = self.data(name)?;
        Map::from_map_data(data).and_then(M::try_from).map_err(|error| failed(io_error(error)))
    }

    /// A map as aya wants it, with a descriptor of its own.
    pub(super) fn data(&self, name: &'static str) -> Result<MapData, ApplyError> {
        let failed = |source| ApplyError::Kernel { action: "open", map: name, source };
        let fd = self.get(name)?.fd.try_clone().map_err(failed)?;
        MapData::from_fd(fd).map_err(|error| failed(io_error(error)))
    }

    /// Reads all service maps.
    pub(super) fn dump(&self) -> Result<RealisedDump, ApplyError> {
        let mut ring = Vec::new();
        self.for_each(names::RING, |_: u32, id: BackendId| ring.push(id))?;
        Ok(RealisedDump { ring, ..self.dump_without_ring()? })
    }

    /// Reads all service maps but the ring, which its writer has in memory.
    pub(super) fn dump_without_ring(&self) -> Result<RealisedDump, ApplyError> {
        Ok(RealisedDump {
            services4: self.pairs::<ServiceKey<Ipv4Be>, ServiceValue>(names::SERVICES4)?,
            services6: self.pairs::<ServiceKey<Ipv6Be>, ServiceValue>(names::SERVICES6)?,
            ring: Vec::new(),
            backends4: self.backends::<Ipv4Be>(names::BACKENDS4)?,
            backends6: self.backends::<Ipv6Be>(names::BACKENDS6)?,
            source_ranges: self.source_ranges()?,
        })
    }

    fn pairs<K: Pod, V: Pod>(&self, name: &'static str) -> Result<Vec<(K, V)>, ApplyError> {
        let mut pairs = Vec::new();
        self.for_each(name, |key, value| pairs.push((key, value)))?;
        Ok(pairs)
    }

    fn backends<A>(&self, name: &'static str) -> Result<Vec<(BackendId, BackendValue<A>)>, ApplyError>
    where
        A: Address,
        BackendValue<A>: Pod + PartialEq,
    {
        let mut used = self.pairs::<BackendId, BackendValue<A>>(name)?;
        used.retain(|(_, value)| *value != BackendValue::FREE);
        Ok(used)
    }

    fn source_ranges(&self) -> Result<Vec<(u32, IpNetwork)>, ApplyError> {
        let mut ranges = Vec::new();
        self.for_each(names::SOURCE_RANGES, |key: Key<SourceRangeKey>, _: u32| {
            ranges.extend(source_range::decode(&key));
        })?;
        Ok(ranges)
    }

    /// Calls `visit` for every element of a map.
    pub(super) fn for_each<K: Pod, V: Pod>(
        &self,
        name: &'static str,
        visit: impl FnMut(K, V),
    ) -> Result<(), ApplyError> {
        let map = self.get(name)?;
        let sizes = (map.shape.key_size, map.shape.value_size);
        let failed = |source| ApplyError::Kernel { action: "read", map: name, source };
        batch::for_each(map.as_fd(), sizes, visit).map_err(failed)
    }
}

impl AsFd for MapHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A pinned map that differs from the definition in its capacity at most.
fn open_similar(path: &Path, definition: &MapDefinition) -> Option<MapHandle> {
    let (fd, shape) = pins::open_map(path, Access::Read).ok()?;
    let comparable = Shape { max_entries: definition.shape.max_entries, ..shape };
    (comparable == definition.shape).then(|| MapHandle { name: definition.name.clone(), shape, fd })
}

/// The system's error inside aya's.
pub(super) fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::IoError(error) => error,
        MapError::KeyNotFound | MapError::ElementNotFound => io::ErrorKind::NotFound.into(),
        other => io::Error::other(other),
    }
}
