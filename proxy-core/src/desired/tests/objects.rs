//! Objects to test with, and results as text.

use std::collections::BTreeSet;

use proxy_common::Protocol;

use crate::{
    desired::{DesiredService, NodeView, Settings, desired_service},
    model::{
        EndpointObject, Event, HostPort, HostPortsObject, IngressObject, NodeAddress, NodeObject, ObjectName,
        PortObject, ServiceObject, SliceObject, SlicePort,
    },
};

/// The node everything is computed for.
pub(super) const HERE: &str = "n1";
pub(super) const ELSEWHERE: &str = "n2";

pub(super) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub(super) fn name(name: &str) -> ObjectName {
    ObjectName::new("ns", name)
}

/// A ClusterIP Service with TCP port 80 named `http`.
pub(super) fn service(text: &str, cluster_ips: &[&str]) -> ServiceObject {
    ServiceObject {
        name: name(text),
        cluster_ips: strings(cluster_ips),
        ports: vec![port("http", "TCP", 80, 0)],
        ..ServiceObject::default()
    }
}

/// The same of another type, with node port 30080.
pub(super) fn typed(text: &str, service_type: &str, cluster_ips: &[&str]) -> ServiceObject {
    ServiceObject {
        service_type: service_type.to_owned(),
        ports: vec![port("http", "TCP", 80, 30_080)],
        ..service(text, cluster_ips)
    }
}

pub(super) fn port(name: &str, protocol: &str, port: i32, node_port: i32) -> PortObject {
    PortObject { name: name.to_owned(), protocol: protocol.to_owned(), port, node_port }
}

pub(super) fn ingress(ip: &str) -> IngressObject {
    IngressObject { ip: ip.to_owned(), ip_mode: None }
}

/// An IPv4 slice of Service `owner` with port `http` 8080.
pub(super) fn slice(text: &str, owner: &str, endpoints: Vec<EndpointObject>) -> SliceObject {
    SliceObject {
        name: name(text),
        service: Some(owner.to_owned()),
        address_type: "IPv4".to_owned(),
        ports: vec![slice_port("http", "TCP", 8080)],
        endpoints,
        ..SliceObject::default()
    }
}

pub(super) fn slice6(text: &str, owner: &str, endpoints: Vec<EndpointObject>) -> SliceObject {
    SliceObject { address_type: "IPv6".to_owned(), ..slice(text, owner, endpoints) }
}

pub(super) fn slice_port(name: &str, protocol: &str, port: i32) -> SlicePort {
    SlicePort { name: Some(name.to_owned()), protocol: Some(protocol.to_owned()), port: Some(port) }
}

/// An endpoint whose conditions are absent.
pub(super) fn endpoint(address: &str, node: &str) -> EndpointObject {
    EndpointObject {
        addresses: strings(&[address]),
        node_name: Some(node.to_owned()),
        ..EndpointObject::default()
    }
}

pub(super) fn conditions(
    base: EndpointObject,
    ready: bool,
    serving: bool,
    terminating: bool,
) -> EndpointObject {
    EndpointObject { ready: Some(ready), serving: Some(serving), terminating: Some(terminating), ..base }
}

pub(super) fn draining(address: &str, node: &str) -> EndpointObject {
    conditions(endpoint(address, node), false, true, true)
}

/// A pod without host ports yet.
pub(super) fn host_ports(pod: &str, addresses: &[&str]) -> HostPortsObject {
    let pod = name(pod);
    HostPortsObject {
        name: HostPortsObject::name_of(&pod, "c1"),
        pod,
        created: 0,
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ports: Vec::new(),
    }
}

/// A TCP port; without `host_ip` on every address.
pub(super) fn host_port(host_ip: &str, number: u16, container_port: u16) -> HostPort {
    let host_ip = (!host_ip.is_empty()).then(|| host_ip.parse().unwrap());
    HostPort { host_ip, host_port: number, container_port, protocol: Protocol::Tcp }
}

/// Node `n1` in zone `z1` with these internal addresses.
pub(super) fn node(addresses: &[&str]) -> NodeObject {
    let entry = |text: &&str| NodeAddress { kind: "InternalIP".to_owned(), address: (*text).to_owned() };
    NodeObject {
        name: HERE.to_owned(),
        zone: Some("z1".to_owned()),
        addresses: addresses.iter().map(entry).collect(),
        ..NodeObject::default()
    }
}

pub(super) fn settings() -> Settings {
    Settings { node_name: HERE.to_owned(), ..Settings::default() }
}

pub(super) fn view(addresses: &[&str]) -> NodeView {
    NodeView::new(&settings(), Some(&node(addresses)), &BTreeSet::new()).0
}

/// The desired state on node `n1` with address 192.0.2.1 and fd01::1.
pub(super) fn desired(service: &ServiceObject, slices: &[SliceObject]) -> DesiredService {
    desired_service(service, slices, &view(&["192.0.2.1", "fd01::1"]))
}

pub(super) fn applied(service: &ServiceObject) -> Event {
    Event::ServiceApplied(Box::new(service.clone()))
}

pub(super) fn slice_applied(slice: &SliceObject) -> Event {
    Event::SliceApplied(Box::new(slice.clone()))
}

/// `ClusterIP 10.96.0.1:80/TCP internal -> 10.1.0.1:8080 10.1.0.2:8080 | reject`, one line per row, sorted.
pub(super) fn rows(desired: &DesiredService) -> Vec<String> {
    let line = |row: crate::desired::FrontendRow<'_>| {
        let address = row.address.map_or_else(|| "*".to_owned(), |address| address.to_string());
        let backends: Vec<String> = row.backends.iter().map(ToString::to_string).collect();
        let (kind, port, protocol, scope) = (row.kind, row.port, row.protocol, row.scope);
        format!("{kind} {address}:{port}/{protocol} {scope} -> {} | {}", backends.join(" "), row.when_empty)
    };
    let mut lines: Vec<String> = desired.rows().map(line).collect();
    lines.sort();
    lines
}

/// `spec.ports[0].port InvalidField`, one line per warning.
pub(super) fn complaints(desired: &DesiredService) -> Vec<String> {
    desired.warnings.iter().map(|warning| format!("{} {}", warning.field, warning.reason)).collect()
}
