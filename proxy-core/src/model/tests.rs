//! Tests of what a change marks as dirty.

use std::collections::BTreeSet;

use super::{
    Counts, EndpointObject, Event, NodeObject, ObjectName, PortObject, ServiceObject, SliceObject, Source,
    Store,
};

fn name(name: &str) -> ObjectName {
    ObjectName::new("ns", name)
}

fn service(text: &str) -> ServiceObject {
    ServiceObject { name: name(text), ..ServiceObject::default() }
}

fn slice(text: &str, owner: &str) -> SliceObject {
    SliceObject { name: name(text), service: Some(owner.to_owned()), ..SliceObject::default() }
}

fn applied(object: ServiceObject) -> Event {
    Event::ServiceApplied(Box::new(object))
}

fn slice_applied(object: SliceObject) -> Event {
    Event::SliceApplied(Box::new(object))
}

/// A model of Services `a` and `b`, `a` with a slice, with nothing dirty.
fn settled() -> Store {
    let mut store = Store::new(None);
    for event in [applied(service("a")), applied(service("b")), slice_applied(slice("a-1", "a"))] {
        store.apply(event);
    }
    assert_eq!(store.take_dirty(), BTreeSet::from([name("a"), name("b")]));
    store
}

fn dirty_after(store: &mut Store, event: Event) -> Vec<String> {
    store.apply(event);
    store.take_dirty().into_iter().map(|name| name.name).collect()
}

#[test]
fn an_event_marks_the_services_it_touches() {
    let none: [&str; 0] = [];
    let renamed = |text: &str| ServiceObject { service_type: "NodePort".into(), ..service(text) };
    let filled = SliceObject { endpoints: vec![EndpointObject::default()], ..slice("a-1", "a") };
    let cases: [(&str, Event, &[&str]); 16] = [
        ("a Service as it was", applied(service("a")), &none),
        ("a Service changed", applied(renamed("a")), &["a"]),
        ("a new Service", applied(service("c")), &["c"]),
        ("a Service deleted", Event::ServiceDeleted(name("a")), &["a"]),
        ("an unknown Service deleted", Event::ServiceDeleted(name("x")), &none),
        ("a slice as it was", slice_applied(slice("a-1", "a")), &none),
        ("a slice changed", slice_applied(filled), &["a"]),
        ("a slice moved to another Service", slice_applied(slice("a-1", "b")), &["a", "b"]),
        ("a slice of nobody", slice_applied(slice("x-1", "x")), &none),
        (
            "a slice that lost its label",
            slice_applied(SliceObject { service: None, ..slice("a-1", "a") }),
            &["a"],
        ),
        (
            "a slice labelled headless",
            slice_applied(SliceObject { headless_label: true, ..slice("a-1", "a") }),
            &["a"],
        ),
        (
            "a slice of another proxy",
            slice_applied(SliceObject { proxy_name: Some("x".into()), ..slice("a-1", "a") }),
            &["a"],
        ),
        ("a slice deleted", Event::SliceDeleted(name("a-1")), &["a"]),
        ("a list as it was", Event::ServicesListed(vec![service("b"), service("a")]), &none),
        (
            "a list with one gone, one changed, one new",
            Event::ServicesListed(vec![renamed("b"), service("c")]),
            &["a", "b", "c"],
        ),
        (
            "a list of slices with one gone and one new",
            Event::SlicesListed(vec![slice("b-1", "b")]),
            &["a", "b"],
        ),
    ];
    for (what, event, wanted) in cases {
        let mut store = settled();
        assert_eq!(dirty_after(&mut store, event.clone()), wanted, "{what}");
        assert_eq!(dirty_after(&mut store, event), none, "{what}, again");
    }
}

#[test]
fn a_node_marks_services_with_node_ports_and_its_zone_marks_all() {
    let mut store = settled();
    let ports = vec![PortObject { node_port: 30_000, ..PortObject::default() }];
    store.apply(applied(ServiceObject { ports, ..service("p") }));
    store.take_dirty();
    let node = |zone: Option<&str>, name: &str| {
        Event::Node(Some(NodeObject {
            name: name.into(),
            zone: zone.map(str::to_owned),
            ..NodeObject::default()
        }))
    };
    assert_eq!(dirty_after(&mut store, node(None, "n1")), ["p"]);
    assert_eq!(dirty_after(&mut store, node(Some("z"), "n1")), ["a", "b", "p"]);
    assert_eq!(dirty_after(&mut store, node(Some("z"), "n1")), [""; 0]);
    assert_eq!(dirty_after(&mut store, Event::Addresses(["192.0.2.1".parse().unwrap()].into())), ["p"]);
    assert_eq!(dirty_after(&mut store, Event::Addresses(["192.0.2.1".parse().unwrap()].into())), [""; 0]);
    assert_eq!(dirty_after(&mut store, Event::Node(None)), ["a", "b", "p"]);
}

#[test]
fn slices_may_come_before_their_service_and_outlive_it() {
    let mut store = Store::new(None);
    assert_eq!(dirty_after(&mut store, slice_applied(slice("a-1", "a"))), [""; 0]);
    assert_eq!(dirty_after(&mut store, applied(service("a"))), ["a"]);
    assert_eq!(store.slices_of(&name("a")).count(), 1);
    assert_eq!(dirty_after(&mut store, Event::ServiceDeleted(name("a"))), ["a"]);
    assert_eq!(dirty_after(&mut store, Event::SliceDeleted(name("a-1"))), [""; 0]);
    assert_eq!(store.counts(), Counts::default());
}

#[test]
fn a_label_of_the_same_name_makes_objects_ours() {
    let mine = |text: &str| ServiceObject { proxy_name: Some("mine".into()), ..service(text) };
    let mut store = Store::new(Some("mine".into()));
    assert_eq!(dirty_after(&mut store, applied(service("a"))), [""; 0]);
    assert_eq!(dirty_after(&mut store, applied(mine("a"))), ["a"]);
    assert_eq!(
        dirty_after(&mut store, applied(ServiceObject { proxy_name: Some("other".into()), ..mine("a") })),
        ["a"]
    );
    assert!(store.service(&name("a")).is_none());
    let listed = Event::ServicesListed(vec![mine("b"), service("c")]);
    assert_eq!(dirty_after(&mut store, listed), ["b"]);
}

#[test]
fn a_source_is_complete_after_its_first_list_only() {
    let mut store = settled();
    assert!(!store.is_listed(&[Source::Services]) && !store.listed(Source::Slices));
    store.apply(Event::ServicesListed(vec![]));
    store.apply(Event::Node(None));
    assert!(store.is_listed(&[Source::Services, Source::Node]));
    assert!(!store.is_listed(&[Source::Services, Source::Slices]));
    store.apply(Event::SlicesListed(vec![]));
    store.apply(Event::Addresses(BTreeSet::new()));
    assert!(store.is_listed(&[Source::Services, Source::Slices, Source::Node, Source::Addresses]));
}
