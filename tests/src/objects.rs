//! Services and EndpointSlices in few words.
//!
//! Must not know: what is done with them.

use std::net::IpAddr;

use proxy_core::model::{
    EndpointObject, Event, IngressObject, NodeAddress, NodeObject, ObjectName, PortObject, ServiceObject,
    SliceObject, SlicePort,
};

/// Name of the node that the tests are.
pub const NODE: &str = "node-a";

/// A ClusterIP Service `default/<name>` with these addresses and one port.
#[must_use]
pub fn service(name: &str, cluster_ips: &[&str], port: u16, protocol: &str) -> ServiceObject {
    ServiceObject {
        name: ObjectName::new("default", name),
        service_type: "ClusterIP".into(),
        cluster_ips: cluster_ips.iter().map(ToString::to_string).collect(),
        ports: vec![PortObject {
            name: String::new(),
            protocol: protocol.into(),
            port: port.into(),
            node_port: 0,
        }],
        ..ServiceObject::default()
    }
}

/// The same Service as a NodePort.
#[must_use]
pub fn node_port(mut service: ServiceObject, node_port: u16) -> ServiceObject {
    service.service_type = "NodePort".into();
    for port in &mut service.ports {
        port.node_port = node_port.into();
    }
    service
}

/// The same Service with an external IP and a load balancer's IP.
#[must_use]
pub fn exposed(mut service: ServiceObject, external: &str, load_balancer: &str) -> ServiceObject {
    service.service_type = "LoadBalancer".into();
    service.external_ips = vec![external.into()];
    service.ingress = vec![IngressObject { ip: load_balancer.into(), ip_mode: None }];
    service
}

/// The same Service with session affinity.
#[must_use]
pub fn sticky(mut service: ServiceObject, seconds: i32) -> ServiceObject {
    service.session_affinity = "ClientIP".into();
    service.affinity_seconds = Some(seconds);
    service
}

/// An endpoint that is ready on this node.
#[must_use]
pub fn ready(address: impl Into<IpAddr>) -> EndpointObject {
    EndpointObject {
        addresses: vec![address.into().to_string()],
        ready: Some(true),
        serving: Some(true),
        terminating: Some(false),
        node_name: Some(NODE.into()),
        ..EndpointObject::default()
    }
}

/// An endpoint that serves while it terminates.
#[must_use]
pub fn draining(address: impl Into<IpAddr>) -> EndpointObject {
    EndpointObject { ready: Some(false), terminating: Some(true), ..ready(address) }
}

/// The same endpoint on another node.
#[must_use]
pub fn elsewhere(endpoint: EndpointObject) -> EndpointObject {
    EndpointObject { node_name: Some("node-b".into()), ..endpoint }
}

/// The slices of a Service: one for each family among the endpoints, with one unnamed port.
#[must_use]
pub fn slices(service: &str, port: u16, protocol: &str, endpoints: &[EndpointObject]) -> Vec<SliceObject> {
    let family = |v6: bool| {
        let endpoints =
            endpoints.iter().filter(|e| e.addresses.iter().any(|a| a.contains(':')) == v6).cloned().collect();
        SliceObject {
            name: ObjectName::new("default", format!("{service}-{}", if v6 { "v6" } else { "v4" })),
            service: Some(service.into()),
            address_type: if v6 { "IPv6" } else { "IPv4" }.into(),
            ports: vec![SlicePort {
                name: Some(String::new()),
                protocol: Some(protocol.into()),
                port: Some(port.into()),
            }],
            endpoints,
            ..SliceObject::default()
        }
    };
    vec![family(false), family(true)]
}

/// The events that make a Service with these endpoints, or change it to this.
#[must_use]
pub fn publish(service: &ServiceObject, port: u16, endpoints: &[EndpointObject]) -> Vec<Event> {
    let protocol = service.ports.first().map(|port| port.protocol.clone()).unwrap_or_default();
    let slices = slices(&service.name.name, port, &protocol, endpoints);
    let service = Event::ServiceApplied(Box::new(service.clone()));
    std::iter::once(service)
        .chain(slices.into_iter().map(|slice| Event::SliceApplied(Box::new(slice))))
        .collect()
}

/// The node with these addresses.
#[must_use]
pub fn node(addresses: &[IpAddr]) -> Event {
    let addresses =
        addresses.iter().map(|a| NodeAddress { kind: "InternalIP".into(), address: a.to_string() }).collect();
    Event::Node(Some(NodeObject { name: NODE.into(), addresses, ..NodeObject::default() }))
}
