//! How much fits into the maps, and what is said when a Service does not.
//!
//! Must not know why space is needed.

use proxy_common::names::{self, BACKENDS4, BACKENDS6, RING, SOURCE_RANGES};

use crate::{desired::Family, model::ObjectName};

/// Capacities of the maps that a plan fills, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Records of `services4` and of `services6`, each.
    pub services: u32,
    /// Backend ids in `ring`; position 0 is reserved.
    pub ring: u32,
    /// Places of `backends4` and of `backends6`, each; id 0 is reserved.
    pub backends: u32,
    /// Prefixes in `source_ranges`.
    pub source_ranges: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            services: names::DEFAULT_SERVICES,
            ring: names::DEFAULT_RING,
            backends: names::DEFAULT_BACKENDS,
            source_ranges: names::DEFAULT_SOURCE_RANGES,
        }
    }
}

/// A Service that does not fit. It keeps what it has in the kernel, whole; plan it again when space was freed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Service {service} does not fit into map {map}: it needs {needed} more, {available} of {capacity} are available; \
     raise {}",
    option(.map)
)]
pub struct Refusal {
    /// The Service.
    pub service: ObjectName,
    /// The map that is too full.
    pub map: &'static str,
    /// Entries that the Service needs in addition to those it has; for `ring` the contiguous range that was not found.
    pub needed: u32,
    /// Entries left; for `ring` the longest contiguous range. Space that waits for its grace period is not counted.
    pub available: u32,
    /// Capacity of the map.
    pub capacity: u32,
}

/// The agent's option that sets the capacity of `map`.
fn option(map: &str) -> &'static str {
    match map {
        RING => "--ring-max",
        BACKENDS4 | BACKENDS6 => "--backends-max",
        SOURCE_RANGES => "--source-ranges-max",
        _ => "--services-max",
    }
}

/// The map of service records of a family.
pub(super) fn services_map(family: Family) -> &'static str {
    match family {
        Family::V4 => names::SERVICES4,
        Family::V6 => names::SERVICES6,
    }
}

/// The map of backends of a family.
pub(super) fn backends_map(family: Family) -> &'static str {
    match family {
        Family::V4 => BACKENDS4,
        Family::V6 => BACKENDS6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_option_to_raise() {
        let cases = [
            (names::SERVICES4, "--services-max"),
            (names::SERVICES6, "--services-max"),
            (RING, "--ring-max"),
            (BACKENDS4, "--backends-max"),
            (BACKENDS6, "--backends-max"),
            (SOURCE_RANGES, "--source-ranges-max"),
        ];
        for (map, option) in cases {
            let service = ObjectName::new("shop", "cart");
            let refusal = Refusal { service, map, needed: 3, available: 2, capacity: 9 };
            let text = format!(
                "Service shop/cart does not fit into map {map}: it needs 3 more, 2 of 9 are available; raise {option}"
            );
            assert_eq!(refusal.to_string(), text);
        }
    }
}
