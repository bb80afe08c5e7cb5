//! Flows of certain addresses are removed from the connection table, whole, and no others.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use aya::maps::{Array, HashMap, Map, MapData};
use proxy_common::{FlowKey, FlowPlace, FlowState, FlowValue, Ipv4Be, PortBe, names};

use crate::setup::Site;

type Flows = Array<MapData, FlowValue<Ipv4Be>>;
type Keys = HashMap<MapData, FlowKey<Ipv4Be>, FlowPlace>;

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 9);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 10);

struct Table {
    flows: Flows,
    keys: Keys,
}

impl Table {
    fn of(site: &Site) -> Self {
        let open = |name: &str| {
            let folder = site.host.bpffs.pins().join("maps");
            let mut paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            let is_named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(name);
            MapData::from_pin(paths.find(is_named).unwrap()).unwrap()
        };
        Self {
            flows: Array::try_from(Map::Array(open(names::FLOWS4))).unwrap(),
            keys: HashMap::try_from(Map::HashMap(open(names::FLOW_KEYS4))).unwrap(),
        }
    }

    fn put(&mut self, slot: u32, client: Ipv4Addr, backend: Ipv4Addr) {
        let value = flow(slot, client, backend);
        self.flows.set(slot, value, 0).unwrap();
        let place = FlowPlace { slot, serial: value.serial };
        self.keys.insert(value.forward_key(), place, 0).unwrap();
        self.keys.insert(value.reply_key(), place, 0).unwrap();
    }

    fn used(&self) -> BTreeSet<u32> {
        let is_used = |slot: &u32| self.flows.get(slot, 0).unwrap() != FlowValue::FREE;
        (0..10).filter(is_used).collect()
    }

    fn places(&self) -> BTreeSet<u32> {
        self.keys.iter().map(|pair| pair.unwrap().1.slot).collect()
    }
}

fn flow(slot: u32, client: Ipv4Addr, backend: Ipv4Addr) -> FlowValue<Ipv4Be> {
    FlowValue {
        client: client.into(),
        client_port: PortBe::from_host(40_000 + u16::try_from(slot).unwrap()),
        frontend: Ipv4Addr::new(10, 96, 0, 10).into(),
        backend: backend.into(),
        source: client.into(),
        source_port: PortBe::from_host(50_000 + u16::try_from(slot).unwrap()),
        protocol: 17,
        state: FlowState::Answered as u8,
        serial: 7 + slot,
        ..FlowValue::FREE
    }
}

#[test]
fn flows_of_an_address_at_either_end_are_removed_whole_and_others_stay() {
    let site = Site::new();
    let plane = site.open();
    let mut table = Table::of(&site);
    for (slot, client, backend) in
        [(1, POD, OUTSIDE), (2, OUTSIDE, POD), (3, OTHER, OUTSIDE), (4, OUTSIDE, OTHER), (5, POD, POD)]
    {
        table.put(slot, client, backend);
    }
    // A key that was left over, of a place that is another's by now.
    let stale = flow(6, POD, OUTSIDE);
    table.keys.insert(stale.forward_key(), FlowPlace { slot: 3, serial: 99 }, 0).unwrap();
    let is_pods = |address: IpAddr| address == IpAddr::from(POD);
    let flows = plane.data.flow_table();
    assert_eq!(flows.forget(is_pods, |flow| flow.client.port() == 40_001).unwrap(), 1);
    assert_eq!((table.used(), table.places()), ([2, 3, 4, 5].into(), [2, 3, 4, 5].into()));
    assert_eq!(flows.forget(is_pods, |_| true).unwrap(), 2);
    assert_eq!((table.used(), table.places()), ([3, 4].into(), [3, 4].into()));
    assert_eq!(flows.forget(is_pods, |_| true).unwrap(), 0);
}
