//! The start-up probe: it proves an effect, or says that there is none.

use std::net::{Ipv4Addr, Ipv6Addr};

use proxy_common::{Ipv4Be, Ipv6Be, Scope, ServiceKey, ServiceValue};
use proxy_core::diff::{MapOp, ServiceOp};
use proxy_userspace::dataplane::{Capacities, DataPlane, LbMaps as _, ProbeError};
use sheave_tests::agent::binary;
use sheave_tests::plane::Host;

/// An address without a port.
const RECORD: ServiceValue = ServiceValue::EMPTY;

fn attached(host: &Host) -> DataPlane {
    attached_with(host, Capacities::default())
}

fn attached_with(host: &Host, capacities: Capacities) -> DataPlane {
    let mut config = host.config(capacities);
    config.probe_program = binary().unwrap();
    let mut plane = DataPlane::open(&config).unwrap();
    plane.attach().unwrap();
    plane
}

fn assert_no_trace(plane: &mut DataPlane) {
    let dump = plane.maps().dump().unwrap();
    assert!(dump.services4.is_empty() && dump.services6.is_empty());
    assert!(dump.backends4.is_empty() && dump.backends6.is_empty());
}

#[test]
fn a_process_inside_the_cgroup_probes_by_itself() {
    let host = Host::new().unwrap();
    let mut plane = attached(&host);
    let report = plane.probe().unwrap();
    assert!(report.ipv4 && report.ipv6 && report.in_process, "{report:?}");
    assert_no_trace(&mut plane);
}

#[test]
fn a_process_outside_sends_a_child() {
    let host = Host::new().unwrap();
    let mut plane = attached(&host);
    host.cgroup.leave().unwrap();
    let report = plane.probe().unwrap();
    assert!(report.ipv4 && report.ipv6 && !report.in_process, "{report:?}");
    assert_no_trace(&mut plane);
}

#[test]
fn programs_without_effect_are_noticed_inside_and_outside() {
    let host = Host::new().unwrap();
    let mut plane = attached(&host);
    std::fs::remove_file(host.bpffs.pins().join("links/connect4")).unwrap();
    for step in ["inside", "outside"] {
        let error = plane.probe().unwrap_err();
        assert!(matches!(error, ProbeError::NoEffect { .. }), "{step}: {error}");
        assert!(error.to_string().contains(&host.cgroup.path().display().to_string()), "{step}: {error}");
        assert_no_trace(&mut plane);
        host.cgroup.leave().unwrap();
    }
}

/// Otherwise an agent whose Services fill the maps would not be ready at its next start.
#[test]
fn the_probe_has_room_in_service_maps_that_are_full() {
    let host = Host::new().unwrap();
    let mut plane = attached_with(&host, Capacities { services: 16, ..Capacities::default() });
    for number in 0..16 {
        let v4 = ServiceKey::address_record(Ipv4Be::from(Ipv4Addr::new(10, 96, 0, number)), Scope::Internal);
        let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into());
        let v6 = ServiceKey::address_record(Ipv6Be::from(v6), Scope::Internal);
        plane.maps().apply(&MapOp::Service(ServiceOp::V4(v4, Some(RECORD.sealed(&v4))))).unwrap();
        plane.maps().apply(&MapOp::Service(ServiceOp::V6(v6, Some(RECORD.sealed(&v6))))).unwrap();
    }
    let report = plane.probe().unwrap();
    assert!(report.ipv4 && report.ipv6, "{report:?}");
    let dump = plane.maps().dump().unwrap();
    assert_eq!((dump.services4.len(), dump.services6.len()), (16, 16));
    for map in plane.usage().unwrap().iter().filter(|map| map.name.starts_with("services")) {
        assert_eq!((map.used, map.capacity), (Some(16), 16), "{}: as configured", map.name);
    }
}

#[test]
fn records_of_a_probe_that_was_killed_are_removed_at_the_next_start() {
    let host = Host::new().unwrap();
    let mut plane = attached(&host);
    let key = ServiceKey::address_record(Ipv4Be::from(Ipv4Addr::new(192, 0, 0, 8)), Scope::Internal);
    plane.maps().apply(&MapOp::Service(ServiceOp::V4(key, Some(RECORD.sealed(&key))))).unwrap();
    drop(plane);
    assert_no_trace(&mut attached(&host));
}
