//! Frontends that several Services claim: one owner, whatever the order of events, and a hand-over in one step.

use super::objects::*;
use crate::{
    desired::{DesiredService, Engine, FrontendKind, WarningReason},
    model::{Event, ObjectName, ServiceObject},
};

fn external(text: &str, cluster_ip: &str, created: i64, external_ip: &str) -> ServiceObject {
    ServiceObject {
        created: Some(created),
        external_ips: strings(&[external_ip]),
        ..service(text, &[cluster_ip])
    }
}

fn serves(desired: &DesiredService, kind: FrontendKind) -> bool {
    desired.rows().any(|row| row.kind == kind)
}

fn owner(engine: &Engine, kind: FrontendKind) -> Vec<String> {
    let all = engine.all();
    all.iter().filter(|(_, desired)| serves(desired, kind)).map(|(name, _)| name.name.clone()).collect()
}

#[test]
fn the_older_service_owns_an_external_ip_whatever_comes_first() {
    let old = external("z", "10.96.0.1", 100, "203.0.113.1");
    let new = external("a", "10.96.0.2", 200, "203.0.113.1");
    for order in [[&old, &new], [&new, &old]] {
        let mut engine = Engine::new(settings());
        for object in order {
            engine.handle(applied(object));
            engine.refresh();
        }
        assert_eq!(owner(&engine, FrontendKind::ExternalIp), ["z"]);
        let warnings: Vec<_> = engine.warnings().collect();
        assert_eq!(warnings.len(), 1);
        assert_eq!(warnings[0].reason, WarningReason::AddressConflict);
        assert_eq!(
            (warnings[0].object.name.as_str(), warnings[0].field.as_str()),
            ("a", "spec.externalIPs[0]")
        );
        assert!(warnings[0].message.contains("owned by Service ns/z"), "{}", warnings[0]);
    }
}

#[test]
fn equal_age_is_decided_by_name_and_unknown_age_is_youngest() {
    let mut engine = Engine::new(settings());
    engine.handle(applied(&external("b", "10.96.0.1", 100, "203.0.113.1")));
    engine.handle(applied(&external("a", "10.96.0.2", 100, "203.0.113.1")));
    engine.handle(applied(&ServiceObject { created: None, ..external("0", "10.96.0.3", 0, "203.0.113.1") }));
    assert_eq!(owner(&engine, FrontendKind::ExternalIp), ["a"]);
}

#[test]
fn the_kind_goes_before_the_age() {
    let cluster_ip = ServiceObject { created: Some(900), ..service("new", &["10.96.0.1"]) };
    let thief = external("thief", "10.96.0.2", 1, "10.96.0.1");
    let mut engine = Engine::new(settings());
    engine.handle(applied(&thief));
    engine.handle(applied(&cluster_ip));
    // The thief keeps its external frontend of that address: no ClusterIP answers outside.
    let all = engine.all();
    let rows = rows(&all[&name("thief")]);
    assert!(!rows.iter().any(|row| row.starts_with("ExternalIP 10.96.0.1:80/TCP internal")), "{rows:?}");
    assert!(serves(&all[&name("new")], FrontendKind::ClusterIp));

    let vip = ServiceObject {
        ingress: vec![ingress("203.0.113.1")],
        ..typed("vip", "LoadBalancer", &["10.96.0.3"])
    };
    engine.handle(applied(&external("first", "10.96.0.4", 1, "203.0.113.1")));
    engine.handle(applied(&ServiceObject { created: Some(900), ..vip }));
    assert_eq!(owner(&engine, FrontendKind::LoadBalancer), ["vip"]);
}

#[test]
fn different_ports_and_protocols_of_one_address_do_not_conflict() {
    let mut engine = Engine::new(settings());
    engine.handle(applied(&external("a", "10.96.0.1", 1, "203.0.113.1")));
    let mut other = external("b", "10.96.0.2", 2, "203.0.113.1");
    other.ports = vec![port("http", "UDP", 80, 0), port("alt", "TCP", 81, 0)];
    engine.handle(applied(&other));
    assert_eq!(owner(&engine, FrontendKind::ExternalIp), ["a", "b"]);
    engine.refresh();
    assert_eq!(engine.warnings().count(), 0);
}

#[test]
fn an_address_is_handed_over_in_one_refresh() {
    let mut engine = Engine::new(settings());
    let old = external("old", "10.96.0.1", 1, "203.0.113.1");
    engine.handle(applied(&old));
    engine.handle(applied(&external("heir", "10.96.0.2", 2, "203.0.113.1")));
    engine.handle(applied(&external("third", "10.96.0.3", 3, "203.0.113.1")));
    engine.refresh();
    // The owner lets go: it, its heir and the third, whose warning names the owner, are all in the result.
    engine.handle(applied(&ServiceObject { external_ips: vec![], ..old.clone() }));
    let results = engine.refresh();
    assert_eq!(results.keys().map(|name| name.name.as_str()).collect::<Vec<_>>(), ["heir", "old", "third"]);
    let gained =
        |name_text: &str| serves(results[&name(name_text)].as_ref().unwrap(), FrontendKind::ExternalIp);
    assert_eq!([gained("old"), gained("heir"), gained("third")], [false, true, false]);
    let named: Vec<&str> =
        engine.warnings().map(|warning| warning.message.split_whitespace().nth(5).unwrap()).collect();
    assert_eq!(named, ["ns/heir"]);
    // It comes back and, being the oldest, takes it again; then it is deleted.
    engine.handle(applied(&old));
    assert_eq!(engine.refresh().len(), 3);
    assert_eq!(owner(&engine, FrontendKind::ExternalIp), ["old"]);
    engine.handle(Event::ServiceDeleted(old.name.clone()));
    let results = engine.refresh();
    assert_eq!(results[&old.name], None);
    assert!(serves(results[&name("heir")].as_ref().unwrap(), FrontendKind::ExternalIp));
}

#[test]
fn a_change_that_moves_no_address_touches_only_its_own_service() {
    let mut engine = Engine::new(settings());
    let owner = external("a", "10.96.0.1", 1, "203.0.113.1");
    engine.handle(applied(&owner));
    engine.handle(applied(&external("b", "10.96.0.2", 2, "203.0.113.1")));
    engine.refresh();
    engine.handle(applied(&ServiceObject { session_affinity: "ClientIP".into(), ..owner }));
    engine.handle(slice_applied(&slice("b-1", "b", vec![endpoint("10.1.0.1", HERE)])));
    let touched: Vec<ObjectName> = engine.refresh().into_keys().collect();
    assert_eq!(touched, [name("a"), name("b")]);
    engine.handle(slice_applied(&slice("a-1", "a", vec![endpoint("10.1.0.1", HERE)])));
    assert_eq!(engine.refresh().into_keys().collect::<Vec<_>>(), [name("a")]);
    assert!(engine.refresh().is_empty());
}

#[test]
fn two_services_with_one_node_port_give_one_warning_for_the_field() {
    let mut engine = Engine::new(settings());
    engine.handle(Event::Node(Some(node(&["192.0.2.1", "192.0.2.2"]))));
    engine.handle(applied(&typed("a", "NodePort", &["10.96.0.1"])));
    engine.handle(applied(&typed("b", "NodePort", &["10.96.0.2"])));
    engine.refresh();
    assert_eq!(owner(&engine, FrontendKind::NodePort), ["a"]);
    let warnings: Vec<_> = engine.warnings().map(|warning| warning.field.clone()).collect();
    assert_eq!(warnings, ["spec.ports[0].nodePort"]);
}

#[test]
fn node_ports_follow_the_nodes_addresses() {
    let mut engine = Engine::new(settings());
    engine.handle(applied(&typed("a", "NodePort", &["10.96.0.1"])));
    engine.handle(applied(&service("b", &["10.96.0.2"])));
    let shown = |engine: &mut Engine| {
        let results = engine.refresh();
        assert!(!results.contains_key(&name("b")) || results.len() == 2);
        let lines = rows(results[&name("a")].as_ref().unwrap());
        lines
            .iter()
            .filter_map(|line| line.strip_prefix("NodePort ")?.split(':').next().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(&mut engine), ["*", "*"]);
    engine.handle(Event::Addresses(["192.0.2.7".parse().unwrap()].into()));
    assert_eq!(shown(&mut engine), ["192.0.2.7", "192.0.2.7"]);
    engine.handle(Event::Node(Some(node(&["192.0.2.1"]))));
    assert_eq!(shown(&mut engine), ["192.0.2.1", "192.0.2.1", "192.0.2.7", "192.0.2.7"]);
    engine.handle(Event::Node(Some(node(&["192.0.2.1", "bogus"]))));
    engine.refresh();
    assert_eq!(engine.warnings().map(|warning| warning.kind).collect::<Vec<_>>(), ["Node"]);
}

#[test]
fn the_label_of_another_proxy_removes_and_returns_a_service() {
    let mut engine = Engine::new(settings());
    let ours = service("a", &["10.96.0.1"]);
    let theirs = ServiceObject { proxy_name: Some("other".into()), ..ours.clone() };
    let headless = ServiceObject { headless_label: true, ..ours.clone() };
    for away in [theirs, headless] {
        engine.handle(applied(&ours));
        assert!(engine.refresh()[&ours.name].is_some());
        engine.handle(applied(&away));
        assert_eq!(engine.refresh()[&ours.name], None);
        assert!(engine.all().is_empty());
    }
}
