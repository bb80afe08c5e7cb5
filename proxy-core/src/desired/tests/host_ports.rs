//! Host ports of this node's pods: where they are served, and who has a port that others want too.

use std::collections::BTreeSet;

use proxy_common::Protocol;

use super::objects::*;
use crate::{
    desired::{Backend, DesiredService, Engine, FrontendKind, Settings, WarningReason},
    model::{Event, HostPort, HostPortsObject, ObjectName, Source},
};

/// With node addresses 192.0.2.1 and fd01::1.
fn engine() -> Engine {
    let mut engine = Engine::new(settings());
    engine.handle(Event::Node(Some(node(&["192.0.2.1", "fd01::1"]))));
    engine
}

fn pod(name: &str, addresses: &[&str], ports: &[HostPort]) -> HostPortsObject {
    HostPortsObject { ports: ports.to_vec(), ..host_ports(name, addresses) }
}

fn hosted(mut engine: Engine, object: &HostPortsObject) -> DesiredService {
    engine.handle(Event::HostPortsListed(vec![object.clone()]));
    engine.refresh().remove(&object.name).unwrap().unwrap()
}

/// Every frontend, loopback ones too: `192.0.2.1:80/TCP internal -> 10.1.0.9:8080`, host-only ones with a mark.
fn lines(desired: &DesiredService) -> Vec<String> {
    let line = |port: &crate::desired::DesiredServicePort, frontend: &crate::desired::Frontend| {
        let backends: Vec<String> = port.backends_of(frontend).iter().map(Backend::to_string).collect();
        let key = frontend.key;
        let mark = if frontend.host_netns_only { " (host)" } else { "" };
        let address = std::net::SocketAddr::new(key.address, key.port);
        format!("{address}/{} {}{mark} -> {}", key.protocol, key.scope, backends.join(" "))
    };
    let mut lines: Vec<String> = desired
        .ports
        .iter()
        .flat_map(|port| port.frontends.iter().map(move |frontend| line(port, frontend)))
        .collect();
    lines.sort();
    lines
}

#[test]
fn without_an_address_a_host_port_is_served_on_all_of_the_node_and_on_loopback_for_the_host() {
    let desired = hosted(engine(), &pod("web", &["10.1.0.9", "fd01::9"], &[host_port("", 80, 8080)]));
    let wanted = [
        "127.0.0.1:80/TCP internal (host) -> 10.1.0.9:8080",
        "192.0.2.1:80/TCP external -> 10.1.0.9:8080",
        "192.0.2.1:80/TCP internal -> 10.1.0.9:8080",
        "[::1]:80/TCP internal (host) -> [fd01::9]:8080",
        "[fd01::1]:80/TCP external -> [fd01::9]:8080",
        "[fd01::1]:80/TCP internal -> [fd01::9]:8080",
    ];
    assert_eq!(lines(&desired), wanted);
    assert!(desired.warnings.is_empty() && desired.health_check.is_none());
}

#[test]
fn a_pod_of_one_family_is_served_in_that_family() {
    let desired = hosted(engine(), &pod("web", &["fd01::9"], &[host_port("", 80, 8080)]));
    assert!(lines(&desired).iter().all(|line| line.starts_with('[')), "{:?}", lines(&desired));
    assert_eq!(lines(&desired).len(), 3);
}

#[test]
fn with_an_address_a_host_port_is_served_there_and_nowhere_else() {
    let cases: [(&str, &[&str]); 6] = [
        ("192.0.2.1", &["192.0.2.1:80/TCP external", "192.0.2.1:80/TCP internal"]),
        ("fd01::1", &["[fd01::1]:80/TCP external", "[fd01::1]:80/TCP internal"]),
        ("127.0.0.1", &["127.0.0.1:80/TCP internal (host)"]),
        ("::1", &["[::1]:80/TCP internal (host)"]),
        (
            "0.0.0.0",
            &["127.0.0.1:80/TCP internal (host)", "192.0.2.1:80/TCP external", "192.0.2.1:80/TCP internal"],
        ),
        ("::", &["[::1]:80/TCP internal (host)", "[fd01::1]:80/TCP external", "[fd01::1]:80/TCP internal"]),
    ];
    for (host_ip, wanted) in cases {
        let desired =
            hosted(engine(), &pod("web", &["10.1.0.9", "fd01::9"], &[host_port(host_ip, 80, 8080)]));
        let found: Vec<String> =
            lines(&desired).iter().map(|line| line.split(" ->").next().unwrap().to_owned()).collect();
        assert_eq!(found, wanted, "{host_ip}");
        assert!(desired.warnings.is_empty(), "{host_ip}");
    }
}

#[test]
fn nobody_takes_over_an_address_that_is_not_the_nodes() {
    for host_ip in ["198.51.100.7", "169.254.169.254", "224.0.0.1"] {
        let ports = [host_port(host_ip, 53, 53), host_port("", 54, 53)];
        let desired = hosted(engine(), &pod("web", &["10.1.0.9"], &ports));
        assert!(lines(&desired).iter().all(|line| line.contains(":54/")), "{:?}", lines(&desired));
        assert_eq!(complaints(&desired), ["spec.containers[].ports[].hostIP InvalidField"]);
        assert_eq!(desired.warnings[0].kind, "Pod");
        assert_eq!(desired.warnings[0].object, name("web"));
    }
}

#[test]
fn the_settings_for_node_ports_do_not_narrow_host_ports() {
    use crate::desired::NodePortAddresses;
    let within = NodePortAddresses::Within(vec!["198.51.100.0/24".parse().unwrap()]);
    for node_port_addresses in [within, NodePortAddresses::Primary] {
        let mut engine = Engine::new(Settings { node_port_addresses, ..settings() });
        engine.handle(Event::Node(Some(node(&["192.0.2.1"]))));
        let desired = hosted(engine, &pod("web", &["10.1.0.9"], &[host_port("192.0.2.1", 80, 8080)]));
        assert_eq!(lines(&desired).len(), 2);
    }
}

#[test]
fn an_address_of_the_node_that_comes_later_is_served_then() {
    let mut engine = engine();
    let object = pod("web", &["10.1.0.9"], &[host_port("", 80, 8080), host_port("192.0.2.7", 81, 8080)]);
    engine.handle(Event::HostPortsListed(vec![object.clone()]));
    let before = engine.refresh().remove(&object.name).unwrap().unwrap();
    assert_eq!((lines(&before).len(), before.warnings.len()), (3, 1));
    engine.handle(Event::Addresses(BTreeSet::from(["192.0.2.7".parse().unwrap()])));
    let after = engine.refresh().remove(&object.name).unwrap().unwrap();
    assert_eq!((lines(&after).len(), after.warnings.len()), (7, 0));
}

#[test]
fn three_pods_share_a_port_by_address_and_protocol() {
    // The conformance test's case.
    let mut engine = engine();
    let udp = HostPort { protocol: Protocol::Udp, ..host_port("192.0.2.1", 54_323, 8080) };
    let pods = [
        pod("p1", &["10.1.0.1"], &[host_port("127.0.0.1", 54_323, 8080)]),
        pod("p2", &["10.1.0.2"], &[host_port("192.0.2.1", 54_323, 8080)]),
        pod("p3", &["10.1.0.3"], &[udp]),
    ];
    engine.handle(Event::HostPortsListed(pods.to_vec()));
    let served: Vec<String> = engine.all().values().flat_map(lines).collect();
    assert_eq!(served.len(), 5, "{served:?}");
    assert_eq!(engine.refresh().len(), 3);
    assert_eq!(engine.warnings().count(), 0);
}

#[test]
fn a_node_port_goes_before_a_host_port_and_gives_it_back() {
    let mut engine = engine();
    let object = pod("web", &["10.1.0.9"], &[host_port("", 30_080, 8080)]);
    engine.handle(Event::HostPortsListed(vec![object.clone()]));
    engine.refresh();
    let service = typed("shop", "NodePort", &["10.96.0.1"]);
    let service = crate::model::ServiceObject { ports: vec![port("http", "TCP", 80, 30_080)], ..service };
    engine.handle(applied(&service));
    let both = engine.refresh();
    assert!(lines(both[&object.name].as_ref().unwrap()).is_empty());
    let has = |desired: &DesiredService| desired.rows().any(|row| row.kind == FrontendKind::NodePort);
    assert!(has(both[&name("shop")].as_ref().unwrap()), "the hand-over is in one result");
    let warnings: Vec<_> = engine.warnings().cloned().collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!((warnings[0].kind, warnings[0].reason), ("Pod", WarningReason::AddressConflict));
    assert!(warnings[0].message.contains("owned by Service ns/shop"), "{}", warnings[0]);
    engine.handle(Event::ServiceDeleted(name("shop")));
    assert_eq!(lines(engine.refresh()[&object.name].as_ref().unwrap()).len(), 3);
    assert_eq!(engine.warnings().count(), 0);
}

#[test]
fn of_two_pods_that_want_a_port_the_older_one_has_it() {
    let old = HostPortsObject { created: 5, ..pod("z", &["10.1.0.1"], &[host_port("", 80, 8080)]) };
    let new = HostPortsObject { created: 6, ..pod("a", &["10.1.0.2"], &[host_port("", 80, 8080)]) };
    let mut engine = engine();
    engine.handle(Event::HostPortsListed(vec![new.clone(), old.clone()]));
    engine.refresh();
    let all = engine.all();
    assert_eq!((lines(&all[&old.name]).len(), lines(&all[&new.name]).len()), (3, 0));
    let message = &engine.warnings().next().unwrap().message;
    assert!(message.contains("owned by Pod ns/z"), "{message}");
    engine.handle(Event::HostPortsListed(vec![new.clone()]));
    let results = engine.refresh();
    assert_eq!(results[&old.name], None);
    assert_eq!(lines(results[&new.name].as_ref().unwrap()).len(), 3);
}

#[test]
fn of_two_ports_of_one_pod_that_want_the_same_the_first_has_it() {
    let ports = [host_port("", 80, 8080), host_port("", 80, 9090), host_port("192.0.2.1", 80, 9091)];
    let desired = hosted(engine(), &pod("web", &["10.1.0.9"], &ports));
    assert!(lines(&desired).iter().all(|line| line.ends_with(":8080")), "{:?}", lines(&desired));
    assert_eq!(complaints(&desired), ["spec.containers[].ports[].hostPort AddressConflict"]);
    // The same twice is no contradiction.
    let desired = hosted(engine(), &pod("web", &["10.1.0.9"], &[ports[0], ports[0]]));
    assert_eq!((lines(&desired).len(), desired.warnings.len(), desired.ports.len()), (3, 0, 1));
}

#[test]
fn two_attachments_of_pods_of_one_name_are_two_and_no_service() {
    let pod = ObjectName::new("ns", "web");
    let names = ["c1", "c2"].map(|id| HostPortsObject::name_of(&pod, id));
    assert_ne!(names[0], names[1]);
    assert_eq!(names[0].to_string(), "ns/web@c1");
}

#[test]
fn host_ports_are_complete_when_they_were_listed() {
    let mut engine = engine();
    assert!(!engine.is_complete(&[Source::HostPorts]));
    engine.handle(Event::HostPortsListed(vec![host_ports("web", &["10.1.0.9"])]));
    assert!(engine.is_complete(&[Source::HostPorts]));
    engine.handle(Event::HostPortsListed(Vec::new()));
    assert_eq!(engine.store().host_ports().count(), 0);
}
