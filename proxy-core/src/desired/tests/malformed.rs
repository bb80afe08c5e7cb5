//! A malformed field costs itself and a warning, and nothing else.

use super::objects::*;
use crate::{
    desired::{DesiredService, WarningReason},
    model::{ServiceObject, SliceObject},
};

fn whole() -> (ServiceObject, SliceObject) {
    let mut object = typed("a", "LoadBalancer", &["10.96.0.1", "fd96::1"]);
    object.ports.push(port("other", "UDP", 53, 30_053));
    object.external_ips = strings(&["203.0.113.5"]);
    object.ingress = vec![ingress("203.0.113.6")];
    let mut endpoints = slice("a-1", "a", vec![endpoint("10.1.0.1", HERE), endpoint("10.1.0.2", HERE)]);
    endpoints.ports.push(slice_port("other", "UDP", 5353));
    (object, endpoints)
}

/// Spoils one thing; then the rows that have vanished must all contain `lost`, no row may be new or changed, and
/// there must be one warning, about `field`.
#[test]
fn a_malformed_field_of_a_service_costs_itself_and_a_warning() {
    type Spoil = fn(&mut ServiceObject);
    let cases: [(&str, &str, Spoil); 16] = [
        ("spec.clusterIPs[0]", "10.96.0.1", |s| s.cluster_ips = strings(&["10.96.0.1.1", "fd96::1"])),
        ("spec.clusterIPs[1]", "fd", |s| s.cluster_ips[1] = "::1".into()),
        ("spec.clusterIPs[2]", "nothing", |s| s.cluster_ips.push("10.96.0.2".into())),
        ("spec.ports[1].port", "53/UDP", |s| s.ports[1].port = 0),
        ("spec.ports[1].port", "53/UDP", |s| s.ports[1].port = 65_536),
        ("spec.ports[1].port", "53/UDP", |s| s.ports[1].port = -1),
        ("spec.ports[1].protocol", "53/UDP", |s| s.ports[1].protocol = "QUIC".into()),
        ("spec.ports[1].nodePort", ":30053", |s| s.ports[1].node_port = 99_999),
        ("spec.ports[2].name", "nothing", |s| s.ports.push(port("other", "UDP", 54, 0))),
        ("spec.externalIPs[0]", "ExternalIP", |s| s.external_ips[0] = "localhost".into()),
        ("spec.externalIPs[0]", "ExternalIP", |s| s.external_ips[0] = "127.0.0.1".into()),
        ("spec.externalIPs[0]", "ExternalIP", |s| s.external_ips[0] = "0.0.0.0".into()),
        ("spec.externalIPs[0]", "ExternalIP", |s| s.external_ips[0] = "::ffff:127.0.0.1".into()),
        ("status.loadBalancer.ingress[0].ip", "LoadBalancer", |s| s.ingress[0].ip = "224.0.0.1".into()),
        ("status.loadBalancer.ingress[0].ip", "LoadBalancer", |s| s.ingress[0].ip = "169.254.169.254".into()),
        ("spec.sessionAffinity", "nothing", |s| s.session_affinity = "Cookie".into()),
    ];
    for (field, lost, spoil) in cases {
        let (object, endpoints) = whole();
        let sound = desired(&object, std::slice::from_ref(&endpoints));
        assert!(sound.warnings.is_empty());
        let mut spoiled = object;
        spoil(&mut spoiled);
        let found = desired(&spoiled, &[endpoints]);
        // A spoiled clusterIP takes the external addresses of its family with it; each says so.
        let about: Vec<_> = found.warnings.iter().filter(|warning| warning.field == field).collect();
        assert_eq!(about.len(), 1, "{field}: {:?}", found.warnings);
        assert!(about[0].message.contains(": "), "no remedy in {}", about[0]);
        let v4_is_gone = field == "spec.clusterIPs[0]";
        assert_eq!(found.warnings.len(), if v4_is_gone { 3 } else { 1 }, "{field}");
        assert_lost(&sound, &found, |row| row.contains(lost) || (v4_is_gone && !row.contains("fd")));
    }
}

fn assert_lost(before: &DesiredService, after: &DesiredService, expected: impl Fn(&str) -> bool) {
    let (before, after) = (rows(before), rows(after));
    let wanted: Vec<&String> = before.iter().filter(|row| !expected(row)).collect();
    assert_eq!(after.iter().collect::<Vec<_>>(), wanted);
}

#[test]
fn an_unknown_type_opens_nothing_to_the_outside() {
    let (mut object, endpoints) = whole();
    object.service_type = "Gateway".into();
    object.external_ips.clear();
    let found = desired(&object, &[endpoints]);
    assert!(rows(&found).iter().all(|row| row.starts_with("ClusterIP")));
    assert_eq!((rows(&found).len(), complaints(&found)), (4, strings(&["spec.type InvalidField"])));
}

#[test]
fn a_second_port_with_the_same_number_yields_to_the_first() {
    let mut object = typed("a", "NodePort", &["10.96.0.1"]);
    object.ports.push(port("twin", "TCP", 80, 30_080));
    object.ports.push(port("zwilling", "TCP", 81, 30_080));
    let found = desired(&object, &[]);
    assert_eq!(found.ports.iter().map(|port| port.frontends.len()).collect::<Vec<_>>(), [4, 0, 1]);
    let wanted = [
        "spec.clusterIPs[0] AddressConflict",
        "spec.ports[1].nodePort AddressConflict",
        "spec.ports[2].nodePort AddressConflict",
    ];
    assert_eq!(complaints(&found), wanted);
}

#[test]
fn a_bad_endpoint_address_costs_that_endpoint() {
    let cases = [
        ("10.1.0", WarningReason::InvalidField),
        ("", WarningReason::InvalidField),
        ("fd02::1", WarningReason::WrongAddressFamily),
        ("127.0.0.1", WarningReason::InvalidEndpointAddress),
        ("::ffff:127.0.0.1", WarningReason::InvalidEndpointAddress),
        ("169.254.169.254", WarningReason::InvalidEndpointAddress),
        ("0.0.0.0", WarningReason::InvalidEndpointAddress),
        ("224.0.0.1", WarningReason::InvalidEndpointAddress),
        ("255.255.255.255", WarningReason::InvalidEndpointAddress),
        ("::1", WarningReason::InvalidEndpointAddress),
        ("fe80::1", WarningReason::InvalidEndpointAddress),
    ];
    for (text, reason) in cases {
        let (object, mut endpoints) = whole();
        endpoints.endpoints[0].addresses[0] = text.into();
        let found = desired(&object, &[endpoints]);
        assert_eq!(found.warnings.len(), 1, "{text}");
        let warning = &found.warnings[0];
        assert_eq!((warning.kind, warning.object.to_string()), ("EndpointSlice", "ns/a-1".to_owned()));
        assert_eq!((warning.field.as_str(), warning.reason), ("endpoints[0].addresses[0]", reason), "{text}");
        let backends: Vec<usize> =
            found.rows().map(|row| row.backends.len()).filter(|count| *count > 0).collect();
        assert!(!backends.is_empty() && backends.iter().all(|count| *count == 1), "{text}");
    }
}

#[test]
fn a_bad_port_of_a_slice_costs_that_port() {
    for (number, protocol) in [(65_536, "TCP"), (-1, "TCP"), (8080, "ICMP")] {
        let (object, mut endpoints) = whole();
        endpoints.ports[0] = slice_port("http", protocol, number);
        let found = desired(&object, &[endpoints]);
        assert_eq!(found.warnings.len(), 1);
        assert!(found.warnings[0].field.starts_with("ports[0]."), "{:?}", found.warnings);
        let served: Vec<bool> = found
            .ports
            .iter()
            .filter(|port| !port.lists.cluster.is_empty())
            .map(|port| port.name.port_name == "other")
            .collect();
        assert_eq!(served, [true]);
    }
}

#[test]
fn a_slice_of_an_unknown_address_type_is_ignored() {
    let (object, mut endpoints) = whole();
    endpoints.address_type = "ipv4".into();
    let found = desired(&object, &[endpoints]);
    assert_eq!(complaints(&found), ["addressType InvalidField"]);
    assert!(found.ports.iter().all(|port| port.lists.keep.is_empty()));
}
