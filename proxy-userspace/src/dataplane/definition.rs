//! What each pinned map is supposed to be, taken from the object, and the name of its pin, which says so.
//!
//! Must not open a map.

use aya::maps::MapInfo;
use aya_obj::{EbpfSectionKind, Object, ParseError, generated::bpf_map_type};
use proxy_common::{
    ENDPOINT_SCHEMA_HASH, FLOW_SCHEMA_HASH, MASQUERADE_SCHEMA_HASH, SCHEMA_HASH, SOCKET_SCHEMA_HASH, names,
};

use super::Capacities;

/// A map of the object, with the configured capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MapDefinition {
    pub(super) name: String,
    pub(super) shape: Shape,
    /// Hash of its shape and, if it belongs to the group or depends on it, of the shapes of the whole group: so that
    /// maps which refer to each other never have the names of maps of two runs with different capacities.
    variant: u32,
}

/// What the kernel knows of a map and what programs rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// `enum bpf_map_type`.
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

/// Maps that refer to each other by position: all from one run, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// What the agent writes.
    Services,
    /// What the packet path writes.
    Flows,
}

impl Group {
    pub(super) const ALL: [Self; 2] = [Self::Services, Self::Flows];

    fn members(self) -> &'static [&'static str] {
        match self {
            Self::Services => &[
                names::SERVICES4,
                names::SERVICES6,
                names::RING,
                names::BACKENDS4,
                names::BACKENDS6,
                names::SOURCE_RANGES,
                names::ADDRESS_FILTER,
            ],
            Self::Flows => &[
                names::FLOW_KEYS4,
                names::FLOW_KEYS6,
                names::FLOWS4,
                names::FLOWS6,
                names::FLOW_FILTER,
                names::POD_RANGES,
            ],
        }
    }

    /// Whether the entries of `map` are what these maps say, so that they mean nothing beside another run's.
    fn governs(self, map: &str) -> bool {
        self == Self::Services && map == names::AFFINITY
    }
}

/// Maps that are shared between runs. The object has others, which each load makes anew.
const PINNED: [&str; 24] = [
    names::ADDRESS_FILTER,
    names::AFFINITY,
    names::BACKENDS4,
    names::BACKENDS6,
    names::COUNTERS,
    names::DEVICES,
    names::ENDPOINTS,
    names::EVENTS,
    names::FLOW_FILTER,
    names::FLOW_KEYS4,
    names::FLOW_KEYS6,
    names::FLOWS4,
    names::FLOWS6,
    names::FRAGMENTS4,
    names::FRAGMENTS6,
    names::MASQUERADE,
    names::PACKET_ONLY,
    names::POD_RANGES,
    names::RING,
    names::SERVICES4,
    names::SERVICES6,
    names::SOCK_PEERS,
    names::SOURCE_RANGES,
    names::UDP_FLOWS,
];

/// FNV-1a offset basis.
const SEED: u32 = 0x811c_9dc5;

impl MapDefinition {
    /// All maps of the object that are shared between runs, in the order of their names.
    pub(super) fn all(object: &[u8], capacities: &Capacities) -> Result<Vec<Self>, ParseError> {
        let shared = |name: &str, map: &aya_obj::Map| {
            matches!(map.section_kind(), EbpfSectionKind::Maps | EbpfSectionKind::BtfMaps)
                && PINNED.contains(&name)
        };
        let maps = Object::parse(object)?.maps;
        let mut all: Vec<_> = maps
            .into_iter()
            .filter(|(name, map)| shared(name, map))
            .map(|(name, map)| Self::alone(&name, shape(&name, &map, capacities)))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        for group in Group::ALL {
            let members = all.iter().filter(|map| map.is_in(group));
            let variant = members.fold(SEED, |hash, map| map.shape.hash(hash));
            for map in &mut all {
                if map.is_in(group) {
                    map.variant = variant;
                } else if group.governs(&map.name) {
                    map.variant = map.shape.hash(variant);
                }
            }
        }
        Ok(all)
    }

    /// A map that no other refers to.
    pub(super) fn alone(name: &str, shape: Shape) -> Self {
        Self { name: name.to_owned(), shape, variant: shape.hash(SEED) }
    }

    /// Name of the pin: the map's name, the hash of what the entries mean, the hash of the shapes. No dots: bpffs
    /// reserves them.
    pub(super) fn pin_name(&self) -> String {
        format!("{}{:08x}", pin_prefix(&self.name), self.variant)
    }

    /// Whether the map belongs to those that are taken over together or not at all.
    pub(super) fn is_in(&self, group: Group) -> bool {
        group.members().contains(&self.name.as_str())
    }

    /// Whether the map goes when the group goes.
    pub(super) fn goes_with(&self, group: Group) -> bool {
        self.is_in(group) || group.governs(&self.name)
    }
}

/// What the pin names of all maps called `name` begin with whose entries mean what this version thinks they mean.
pub(super) fn pin_prefix(name: &str) -> String {
    let schema = match name {
        names::SOCK_PEERS | names::UDP_FLOWS => SOCKET_SCHEMA_HASH,
        names::ENDPOINTS => ENDPOINT_SCHEMA_HASH,
        names::FRAGMENTS4 | names::FRAGMENTS6 | names::DEVICES => FLOW_SCHEMA_HASH,
        names::MASQUERADE => MASQUERADE_SCHEMA_HASH,
        _ if Group::Flows.members().contains(&name) => FLOW_SCHEMA_HASH,
        _ => SCHEMA_HASH,
    };
    format!("{name}-{schema:08x}")
}

fn shape(name: &str, map: &aya_obj::Map, capacities: &Capacities) -> Shape {
    let configured =
        capacities.by_map().into_iter().find_map(|(map, capacity)| (map == name).then_some(capacity));
    Shape {
        kind: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: configured.unwrap_or(map.max_entries()),
        flags: map.map_flags(),
    }
}

impl Shape {
    /// As the kernel describes an open map.
    pub(super) fn of(info: &MapInfo) -> Self {
        Self {
            kind: info.map_type().map_or(u32::MAX, |kind| kind as u32),
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
        }
    }

    /// What a person calls this kind of map.
    pub(super) fn kind_name(self) -> &'static str {
        match bpf_map_type::try_from(self.kind) {
            Ok(bpf_map_type::BPF_MAP_TYPE_HASH) => "hash",
            Ok(bpf_map_type::BPF_MAP_TYPE_ARRAY) => "array",
            Ok(bpf_map_type::BPF_MAP_TYPE_LRU_HASH) => "lru_hash",
            Ok(bpf_map_type::BPF_MAP_TYPE_LPM_TRIE) => "lpm_trie",
            Ok(bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY) => "percpu_array",
            Ok(bpf_map_type::BPF_MAP_TYPE_RINGBUF) => "ring_buffer",
            Ok(bpf_map_type::BPF_MAP_TYPE_SK_STORAGE) => "socket_storage",
            _ => "other",
        }
    }

    /// FNV-1a over the five numbers, going on after `hash`.
    fn hash(self, hash: u32) -> u32 {
        let Self { kind, key_size, value_size, max_entries, flags } = self;
        let words = [kind, key_size, value_size, max_entries, flags];
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
        bytes.fold(hash, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::load::OBJECT, *};

    fn definition(name: &str, max_entries: u32) -> MapDefinition {
        let shape = Shape { kind: 1, key_size: 8, value_size: 32, max_entries, flags: 1 };
        MapDefinition::alone(name, shape)
    }

    #[test]
    fn every_part_of_the_shape_changes_the_pin_name() {
        let base = definition(names::SERVICES4, 16);
        let changed = [
            Shape { kind: 9, ..base.shape },
            Shape { key_size: 9, ..base.shape },
            Shape { value_size: 33, ..base.shape },
            Shape { max_entries: 17, ..base.shape },
            Shape { flags: 0, ..base.shape },
        ];
        for shape in changed {
            let other = MapDefinition::alone(&base.name, shape);
            assert_ne!(other.pin_name(), base.pin_name(), "{shape:?}");
        }
    }

    #[test]
    fn pin_names_show_the_schema_and_hold_no_dot() {
        let name = definition(names::SERVICES4, 16).pin_name();
        assert_eq!(name, format!("services4-{SCHEMA_HASH:08x}{:08x}", definition("", 16).shape.hash(SEED)));
        assert!(definition(names::SOCK_PEERS, 0).pin_name().contains(&format!("{SOCKET_SCHEMA_HASH:08x}")));
        assert!(!name.contains('.'));
    }

    #[test]
    fn a_new_capacity_renames_the_whole_group_and_nothing_else() {
        let all = |capacities| MapDefinition::all(OBJECT, &capacities).unwrap();
        let renamed = |capacities| {
            let pairs = all(Capacities::default()).into_iter().zip(all(capacities));
            let changed = pairs.filter(|(old, new)| old.pin_name() != new.pin_name());
            changed.map(|(old, _)| old.name).collect::<Vec<_>>()
        };
        let sorted = |names: &[&'static str]| {
            let mut names = names.to_vec();
            names.sort_unstable();
            names
        };
        let services = sorted(&[Group::Services.members(), &[names::AFFINITY]].concat());
        assert_eq!(renamed(Capacities { source_ranges: 99, ..Capacities::default() }), services);
        let flows = sorted(Group::Flows.members());
        assert_eq!(renamed(Capacities { flows: 99, ..Capacities::default() }), flows);
        assert_eq!(renamed(Capacities { affinity: 99, ..Capacities::default() }), [names::AFFINITY]);
        assert_eq!(renamed(Capacities::default()), Vec::<String>::new());
    }

    #[test]
    fn the_object_has_every_map_of_the_contract_with_the_configured_capacity() {
        let capacities = Capacities { services: 3, ring: 5, flows: 7, ..Capacities::default() };
        let all = MapDefinition::all(OBJECT, &capacities).unwrap();
        let find = |name: &str| all.iter().find(|map| map.name == name).unwrap().shape.max_entries;
        assert_eq!((find(names::SERVICES4), find(names::SERVICES6), find(names::RING)), (5, 5, 5));
        assert_eq!((find(names::FLOWS4), find(names::FLOWS6)), (7, 7));
        assert_eq!((find(names::FLOW_KEYS4), find(names::FLOW_KEYS6)), (1_038, 1_038));
        assert_eq!(find(names::AFFINITY), names::DEFAULT_AFFINITY);
        let names: Vec<_> = all.iter().map(|map| map.name.as_str()).collect();
        assert_eq!(names, PINNED);
    }
}
