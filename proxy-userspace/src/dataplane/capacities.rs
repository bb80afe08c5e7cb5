//! How large the maps are, and which option of the agent says so.
//!
//! Must not know what is in them.

use proxy_common::names;

use super::MapLimit;

/// Places in each service map beside those that can be configured: the probe's two records fit when the map is full.
pub(super) const PROBE_RECORDS: u32 = 2;

/// Keys of flows beside two for each.
const SPARE_KEYS: u32 = 1_024;

/// Capacities of the maps, in entries. A change rebuilds the maps at the next start, without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Records of `services4` and of `services6`, each.
    pub services: u32,
    /// Backend ids in `ring`.
    pub ring: u32,
    /// Backends in `backends4` and in `backends6`, each.
    pub backends: u32,
    /// Clients in `affinity`.
    pub affinity: u32,
    /// Prefixes in `source_ranges`.
    pub source_ranges: u32,
    /// Flows in `flows4` and in `flows6`, each.
    pub flows: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            services: names::DEFAULT_SERVICES,
            ring: names::DEFAULT_RING,
            backends: names::DEFAULT_BACKENDS,
            affinity: names::DEFAULT_AFFINITY,
            source_ranges: names::DEFAULT_SOURCE_RANGES,
            flows: names::DEFAULT_FLOWS,
        }
    }
}

impl Capacities {
    /// The maps whose capacity can be set, with the entries they are made for: what is configured, and the probe's.
    pub(super) fn by_map(&self) -> [(&'static str, u32); 11] {
        [
            (names::SERVICES4, self.services.saturating_add(PROBE_RECORDS)),
            (names::SERVICES6, self.services.saturating_add(PROBE_RECORDS)),
            (names::RING, self.ring),
            (names::BACKENDS4, self.backends),
            (names::BACKENDS6, self.backends),
            (names::AFFINITY, self.affinity),
            (names::SOURCE_RANGES, self.source_ranges),
            (names::FLOW_KEYS4, self.flow_keys()),
            (names::FLOW_KEYS6, self.flow_keys()),
            (names::FLOWS4, self.flows),
            (names::FLOWS6, self.flows),
        ]
    }

    /// Keys for every flow, and some more for those that are being replaced on several CPUs at once.
    fn flow_keys(&self) -> u32 {
        self.flows.saturating_mul(names::KEYS_PER_FLOW).saturating_add(SPARE_KEYS)
    }

    /// What to say when `map` is full.
    pub(super) fn limit(&self, map: &'static str) -> MapLimit {
        let (capacity, unit, option) = match map {
            names::RING => (self.ring, "backend ids", "--ring-max"),
            names::BACKENDS4 | names::BACKENDS6 => (self.backends, "backends", "--backends-max"),
            names::AFFINITY => (self.affinity, "clients", "--affinity-max"),
            names::SOURCE_RANGES => (self.source_ranges, "prefixes", "--source-ranges-max"),
            names::FLOWS4 | names::FLOWS6 => (self.flows, "flows", "--flows-max"),
            names::FLOW_KEYS4 | names::FLOW_KEYS6 => (self.flow_keys(), "keys", "--flows-max"),
            _ => (self.services, "records", "--services-max"),
        };
        MapLimit { map, capacity, unit, option }
    }
}

/// Entries of a map that the configured capacity does not count.
pub(super) fn reserved(map: &str) -> u32 {
    if [names::SERVICES4, names::SERVICES6].contains(&map) { PROBE_RECORDS } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sized_map_names_its_own_capacity() {
        let capacities =
            Capacities { services: 1, ring: 2, backends: 3, affinity: 4, source_ranges: 5, flows: 6 };
        for (map, entries) in capacities.by_map() {
            assert_eq!(capacities.limit(map).capacity, entries - reserved(map), "{map}");
        }
    }

    #[test]
    fn only_the_service_maps_have_room_for_the_probe_besides() {
        assert_eq!(Capacities { flows: 100, ..Capacities::default() }.flow_keys(), 1_224);
        let of = |map| reserved(map);
        assert_eq!((of(names::SERVICES4), of(names::SERVICES6)), (2, 2));
        assert_eq!((of(names::RING), of(names::BACKENDS4), of(names::EVENTS)), (0, 0, 0));
    }
}
