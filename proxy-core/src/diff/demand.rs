//! What a Service needs in the maps beyond what is there, and whether there is room.
//!
//! Must not allocate anything.

use std::collections::BTreeSet;

use proxy_common::names;

use super::{
    Planner, Refusal,
    refusal::{backends_map, services_map},
};
use crate::{
    desired::{DesiredService, DesiredServicePort, Family, Frontend, ListKind},
    entries::{BackendKey, RecordKey, list, masked_ranges},
    ids::{FAMILIES, PerFamily},
    model::ObjectName,
};

/// A list of backends that at least one frontend uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedList {
    /// Which of the ServicePort's lists it is: both, if they are equal.
    pub(super) kinds: Vec<ListKind>,
    /// The selectable backends, then those that keep their flows.
    pub(super) backends: Vec<BackendKey>,
    /// How many are selectable.
    pub(super) selectable: usize,
}

/// New entries by map.
#[derive(Debug, Default)]
struct Demand {
    records: PerFamily<u32>,
    backends: PerFamily<u32>,
    source_ranges: u32,
}

/// The frontends of a port. One of another family would find its backends in the wrong array.
pub(super) fn frontends(port: &DesiredServicePort) -> impl Iterator<Item = &Frontend> {
    port.frontends.iter().filter(|frontend| Family::of(frontend.key.address) == port.family)
}

/// The lists that the frontends of a port use, equal ones once.
pub(super) fn lists(port: &DesiredServicePort) -> Vec<WantedList> {
    let mut lists: Vec<WantedList> = Vec::new();
    for kind in [ListKind::Cluster, ListKind::Local] {
        if !frontends(port).any(|frontend| frontend.list == kind) {
            continue;
        }
        let (selectable, keep) = list(&port.lists, kind, port.family);
        let key = |backend| BackendKey::new(backend, port.name.protocol);
        let length = selectable.len();
        let backends: Vec<BackendKey> = selectable.into_iter().chain(keep).map(key).collect();
        match lists.iter_mut().find(|list| list.selectable == length && list.backends == backends) {
            Some(list) => list.kinds.push(kind),
            None => lists.push(WantedList { kinds: vec![kind], backends, selectable: length }),
        }
    }
    lists
}

impl Planner {
    /// Whether everything that a Service needs fits, but for the shape of the ring's free space.
    pub(super) fn check_room(
        &self,
        service: &ObjectName,
        desired: &DesiredService,
        ids: &[Option<u32>],
        ranges_promised: usize,
    ) -> Result<(), Refusal> {
        let demand = self.demand(desired, ids);
        let capacities = &self.capacities;
        let check = |map, needed, available, capacity| {
            let service = service.clone();
            if needed > available {
                Err(Refusal { service, map, needed, available, capacity })
            } else {
                Ok(())
            }
        };
        for family in FAMILIES {
            let available = capacities.services.saturating_sub(self.records.used(family));
            check(services_map(family), *demand.records.get(family), available, capacities.services)?;
            let available = self.backends.get(family).available();
            check(backends_map(family), *demand.backends.get(family), available, capacities.backends)?;
        }
        let used = self.ids.range_count().saturating_add(count(ranges_promised));
        let available = capacities.source_ranges.saturating_sub(used);
        check(names::SOURCE_RANGES, demand.source_ranges, available, capacities.source_ranges)
    }

    fn demand(&self, desired: &DesiredService, ids: &[Option<u32>]) -> Demand {
        let mut demand = Demand::default();
        let (mut records, mut backends) = (BTreeSet::new(), BTreeSet::new());
        for (port, id) in desired.ports.iter().zip(ids) {
            let keys = frontends(port).map(|frontend| RecordKey::from(&frontend.key));
            records.extend(keys.flat_map(|key| [key, key.address_record()]));
            backends.extend(lists(port).into_iter().flat_map(|list| list.backends));
            let has = |network: &_| id.is_some_and(|id| self.ids.has_range(id, *network));
            let new = masked_ranges(port).iter().filter(|network| !has(network)).count();
            demand.source_ranges = demand.source_ranges.saturating_add(count(new));
        }
        for family in FAMILIES {
            let records = records.iter().filter(|key| key.family() == family && !self.records.has_place(key));
            *demand.records.get_mut(family) = count(records.count());
            let table = self.backends.get(family);
            let new = |key: &&BackendKey| Family::of(key.address) == family && table.id(key).is_none();
            *demand.backends.get_mut(family) = count(backends.iter().filter(new).count());
        }
        demand
    }
}

/// No map has more entries than a `u32` counts: what is more does not fit anyway.
pub(super) fn count(entries: usize) -> u32 {
    u32::try_from(entries).unwrap_or(u32::MAX)
}
