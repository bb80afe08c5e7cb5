//! From API objects to the maps: what the packet path relies on.

use std::collections::BTreeSet;

use proxy_common::{BackendFlags, Scope, ServiceFlags};

use super::{
    ROOMY,
    world::{Wanted, World},
};
use crate::{
    desired::{NodeView, Settings, desired_service},
    entries::RecordKey,
    model::{
        EndpointObject, IngressObject, NodeAddress, NodeObject, ObjectName, PortObject, ServiceObject,
        SliceObject, SlicePort,
    },
};

const HERE: &str = "n1";

fn node() -> NodeView {
    let address = NodeAddress { kind: "InternalIP".into(), address: "192.0.2.1".into() };
    let node = NodeObject { name: HERE.into(), addresses: vec![address], ..NodeObject::default() };
    let settings = Settings { node_name: HERE.into(), ..Settings::default() };
    NodeView::new(&settings, Some(&node), &BTreeSet::new()).0
}

/// A Service with frontends of all kinds.
fn service(name: &str, external_policy: &str) -> ServiceObject {
    ServiceObject {
        name: ObjectName::new("shop", name),
        service_type: "LoadBalancer".into(),
        cluster_ips: vec!["10.96.0.1".into()],
        external_ips: vec!["203.0.113.2".into()],
        ingress: vec![IngressObject { ip: "203.0.113.3".into(), ip_mode: None }],
        ports: vec![PortObject { name: String::new(), protocol: "TCP".into(), port: 80, node_port: 30_080 }],
        source_ranges: vec!["198.51.100.0/24".into()],
        external_policy: external_policy.into(),
        ..ServiceObject::default()
    }
}

/// One slice with these endpoints: the last byte of the address, and the node.
fn slice(service: &str, endpoints: &[(u8, &str)]) -> SliceObject {
    let endpoint = |(last, node): &(u8, &str)| EndpointObject {
        addresses: vec![format!("10.244.0.{last}")],
        node_name: Some((*node).to_owned()),
        ..EndpointObject::default()
    };
    let port = SlicePort { name: Some(String::new()), protocol: Some("TCP".into()), port: Some(8080) };
    SliceObject {
        name: ObjectName::new("shop", format!("{service}-1")),
        service: Some(service.to_owned()),
        address_type: "IPv4".into(),
        ports: vec![port],
        endpoints: endpoints.iter().map(endpoint).collect(),
        ..SliceObject::default()
    }
}

fn wanted(object: &ServiceObject, slice: &SliceObject) -> Wanted {
    Wanted::from([(object.name.clone(), desired_service(object, [slice], &node()))])
}

fn cluster_ip_only(name: &str, address: &str) -> ServiceObject {
    let cluster_ips = vec![address.to_owned()];
    let plain = ServiceObject { cluster_ips, service_type: "ClusterIP".into(), ..service(name, "") };
    ServiceObject { external_ips: vec![], ingress: vec![], source_ranges: vec![], ..plain }
}

/// The backends in the kernel: last byte of the address, and whether it is local.
fn places(world: &World) -> Vec<(u8, bool)> {
    let backends = world.kernel.backends4.values();
    let place = |value: &proxy_common::BackendValue<_>| {
        let [.., last] = std::net::Ipv4Addr::from(value.address).octets();
        (last, value.flags().has(BackendFlags::LOCAL))
    };
    let mut places: Vec<_> = backends.map(place).collect();
    places.sort_unstable();
    places
}

/// External policy and endpoints; what a client inside gets at every kind of frontend, and what one outside gets at all
/// but the ClusterIP.
type Case<'a> = (&'a str, &'a [(u8, &'a str)], &'a str, &'a str);

#[test]
fn each_kind_of_frontend_has_its_list_for_each_scope_in_the_kernel() {
    let (one, two) = ("10.244.0.1:8080", "10.244.0.2:8080");
    let both = format!("{one} {two}");
    let cases: [Case<'_>; 7] = [
        ("Cluster", &[(1, HERE), (2, "n2")], &both, &both),
        ("Cluster", &[(2, "n2")], two, two),
        ("Cluster", &[], "reject", "reject"),
        ("Local", &[(1, HERE), (2, "n2")], &both, &format!("{one} keep {two}")),
        ("Local", &[(2, "n2")], two, &format!("drop keep {two}")),
        ("Local", &[(1, HERE)], one, one),
        ("Local", &[], "reject", "reject"),
    ];
    for (policy, endpoints, inside, outside) in cases {
        let mut world = World::new(ROOMY);
        let wanted = wanted(&service("a", policy), &slice("a", endpoints));
        world.full(&wanted, usize::MAX);
        let text = format!(
            "10.96.0.1:80/TCP internal -> {inside}\n\
             127.0.0.1:30080/TCP internal host-only -> {inside}\n\
             192.0.2.1:30080/TCP internal -> {inside}\n\
             192.0.2.1:30080/TCP external -> {outside}\n\
             203.0.113.2:80/TCP internal -> {inside}\n\
             203.0.113.2:80/TCP external -> {outside}\n\
             203.0.113.3:80/TCP internal sources=198.51.100.0/24 -> {inside}\n\
             203.0.113.3:80/TCP external sources=198.51.100.0/24 -> {outside}\n"
        );
        assert_eq!(world.kernel.text(), text, "{policy} {endpoints:?}");
        let flagged = |(_, op): &(RecordKey, crate::diff::ServiceOp)| {
            op.value().is_some_and(|value| value.flags().has(ServiceFlags::DROP_WHEN_EMPTY))
        };
        let dropping: Vec<Option<Scope>> =
            world.kernel.records().into_iter().filter(flagged).map(|(key, _)| key.scope()).collect();
        let silent = if outside.starts_with("drop") { 3 } else { 0 };
        assert_eq!(dropping, vec![Some(Scope::External); silent], "{policy} {endpoints:?}");
        world.settle(&wanted);
    }
}

#[test]
fn the_kernel_knows_which_backends_are_on_this_node() {
    let object = cluster_ip_only("a", "10.96.0.1");
    let state = |endpoints: &[(u8, &str)]| wanted(&object, &slice("a", endpoints));
    let before = state(&[(1, HERE), (2, "n2")]);
    let mut world = World::new(ROOMY);
    world.full(&before, usize::MAX);
    assert_eq!(places(&world), [(1, true), (2, false)]);
    world.restart();
    assert_eq!(world.full(&before, usize::MAX).ops, []);
    // The same addresses, each on the other node: published like any other change, and the text shows none.
    let (after, text) = (state(&[(1, "n2"), (2, HERE)]), world.kernel.text());
    assert_eq!(
        super::world::stages(&world.change(&before, &after, usize::MAX)),
        ["backend", "backend", "ring", "record"]
    );
    world.settle(&after);
    assert_eq!((places(&world), world.kernel.text()), (vec![(1, false), (2, true)], text));
}

#[test]
fn services_that_disagree_where_a_backend_is_do_not_disturb_each_other() {
    let states = |of_b: &str| {
        let mut both = wanted(&cluster_ip_only("a", "10.96.0.1"), &slice("a", &[(1, HERE)]));
        both.extend(wanted(&cluster_ip_only("b", "10.96.0.2"), &slice("b", &[(1, of_b)])));
        both
    };
    let (agree, differ) = (states(HERE), states("n2"));
    let mut world = World::new(ROOMY);
    world.full(&agree, usize::MAX);
    assert_eq!(places(&world), [(1, true)]);
    assert_eq!(
        super::world::stages(&world.change(&agree, &differ, usize::MAX)),
        ["backend", "ring", "record"]
    );
    assert_eq!(places(&world), [(1, false), (1, true)]);
    world.settle(&differ);
    world.restart();
    assert_eq!(world.full(&differ, usize::MAX).ops, []);
    world.change(&differ, &agree, usize::MAX);
    world.settle(&agree);
    assert_eq!(places(&world), [(1, true)]);
}
