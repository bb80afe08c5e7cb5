//! Whatever the order and grouping of events: refreshes add up to what the model says from scratch.

use std::{collections::BTreeMap, net::Ipv4Addr};

use proptest::prelude::*;
use proxy_common::Protocol;

use super::{config, objects::*};
use crate::{
    desired::{DesiredService, Engine},
    model::{Event, HostPort, HostPortsObject, ObjectName, ServiceObject, SliceObject},
};

fn any_service() -> impl Strategy<Value = ServiceObject> {
    let kind = prop_oneof![Just("ClusterIP"), Just("NodePort"), Just("LoadBalancer"), Just("ExternalName")];
    let shared = || proptest::collection::vec(0..3_u8, 0..3);
    (0..5_u8, 0..4_u8, kind, shared(), shared(), proptest::option::of(0..3_i64), 0..2_i32, 0..10_u8).prop_map(
        |(index, cluster_ip, kind, external, vips, created, node_port, label)| ServiceObject {
            created,
            external_ips: external.iter().map(|last| format!("203.0.113.{last}")).collect(),
            ingress: vips.iter().map(|last| ingress(&format!("203.0.113.{last}"))).collect(),
            ports: vec![port("http", "TCP", 80, 30_000 + node_port), port("dns", "UDP", 80, 0)],
            proxy_name: (label == 0).then(|| "other".to_owned()),
            external_policy: if label % 2 == 0 { "Local" } else { "Cluster" }.to_owned(),
            ..typed(&format!("s{index}"), kind, &[&format!("10.96.0.{cluster_ip}"), "fd96::1"])
        },
    )
}

fn any_slice() -> impl Strategy<Value = SliceObject> {
    (0..6_u8, 0..6_u8, proptest::collection::vec((0..5_u8, 1..3_u8), 0..4), 0..12_u8).prop_map(
        |(index, owner, endpoints, label)| {
            let object =
                |(address, node): &(u8, u8)| endpoint(&format!("10.1.0.{address}"), &format!("n{node}"));
            SliceObject {
                headless_label: label == 0,
                service: (label != 1).then(|| format!("s{owner}")),
                ..slice(&format!("e{index}"), "", endpoints.iter().map(object).collect())
            }
        },
    )
}

fn any_host_ports() -> impl Strategy<Value = HostPortsObject> {
    // Port 80 of 203.0.113.x is what Services want too; 30000 may be a NodePort.
    let number = prop_oneof![Just(80), Just(30_000), Just(8080)];
    let host_ip = proptest::option::of((0..3_u8).prop_map(|last| Ipv4Addr::new(203, 0, 113, last).into()));
    let ports = proptest::collection::vec((host_ip, number, 1..3_u16), 0..3);
    (0..4_u8, 0..3_i64, ports).prop_map(|(index, created, ports)| {
        let port = |(host_ip, host_port, container_port)| HostPort {
            host_ip,
            host_port,
            container_port,
            protocol: Protocol::Tcp,
        };
        let ports = ports.into_iter().map(port).collect();
        HostPortsObject { created, ports, ..host_ports(&format!("p{index}"), &["10.1.0.9", "fd01::9"]) }
    })
}

fn any_event() -> impl Strategy<Value = Event> {
    let named = |letter: char| (0..6_u8).prop_map(move |index| name(&format!("{letter}{index}")));
    let addresses = || proptest::collection::vec(0..4_u8, 0..3);
    prop_oneof![
        8 => any_service().prop_map(|object| Event::ServiceApplied(Box::new(object))),
        8 => any_slice().prop_map(|object| Event::SliceApplied(Box::new(object))),
        2 => named('s').prop_map(Event::ServiceDeleted),
        2 => named('e').prop_map(Event::SliceDeleted),
        1 => proptest::collection::vec(any_service(), 0..4).prop_map(Event::ServicesListed),
        1 => proptest::collection::vec(any_slice(), 0..4).prop_map(Event::SlicesListed),
        4 => proptest::collection::vec(any_host_ports(), 0..3).prop_map(Event::HostPortsListed),
        1 => proptest::option::of(addresses()).prop_map(|last| Event::Node(last.map(|last| {
            let texts: Vec<String> = last.iter().map(|last| format!("203.0.113.{last}")).collect();
            node(&texts.iter().map(String::as_str).collect::<Vec<_>>())
        }))),
        1 => addresses().prop_map(|last| Event::Addresses(
            last.iter().map(|last| Ipv4Addr::new(203, 0, 113, *last).into()).collect(),
        )),
    ]
}

fn fold(
    held: &mut BTreeMap<ObjectName, DesiredService>,
    results: BTreeMap<ObjectName, Option<DesiredService>>,
) {
    for (name, desired) in results {
        match desired {
            Some(desired) => held.insert(name, desired),
            None => held.remove(&name),
        };
    }
}

/// What the engine holds, listed in one go.
fn relisted(engine: &Engine) -> Engine {
    let store = engine.store();
    let services: Vec<ServiceObject> = store.services().cloned().collect();
    let names = (0..6).map(|index| name(&format!("s{index}")));
    let slices = names.flat_map(|name| store.slices_of(&name).cloned().collect::<Vec<_>>()).collect();
    let mut fresh = Engine::new(settings());
    fresh.handle(Event::Addresses(store.addresses().clone()));
    fresh.handle(Event::HostPortsListed(store.host_ports().cloned().collect()));
    fresh.handle(Event::SlicesListed(slices));
    fresh.handle(Event::Node(store.node().cloned()));
    fresh.handle(Event::ServicesListed(services));
    fresh
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn refreshes_add_up_to_the_state_from_scratch(
        events in proptest::collection::vec((any_event(), any::<bool>()), 1..24),
    ) {
        let mut engine = Engine::new(settings());
        let mut held = BTreeMap::new();
        for (event, refresh) in events {
            engine.handle(event.clone());
            if refresh {
                fold(&mut held, engine.refresh());
                prop_assert_eq!(&held, &engine.all());
                // The same again changes nothing.
                engine.handle(event);
                prop_assert!(engine.refresh().is_empty());
            }
        }
        fold(&mut held, engine.refresh());
        prop_assert_eq!(&held, &engine.all());
        let mut fresh = relisted(&engine);
        prop_assert_eq!(&fresh.all(), &held);
        let mut refreshed = BTreeMap::new();
        fold(&mut refreshed, fresh.refresh());
        prop_assert_eq!(&refreshed, &held);
        let warnings: Vec<_> = engine.warnings().cloned().collect();
        prop_assert_eq!(fresh.warnings().cloned().collect::<Vec<_>>(), warnings);
    }

    #[test]
    fn no_two_services_have_one_frontend(
        events in proptest::collection::vec(any_event(), 1..40),
    ) {
        let mut engine = Engine::new(settings());
        events.into_iter().for_each(|event| engine.handle(event));
        let mut owners = BTreeMap::new();
        for (name, desired) in engine.all() {
            for frontend in desired.ports.iter().flat_map(|port| &port.frontends) {
                prop_assert_eq!(owners.insert(frontend.key, name.clone()), None);
            }
        }
    }
}
