//! The desired state of one Service, as if it were alone.
//!
//! Must not know other Services.

use std::net::SocketAddr;

use super::{
    categorize::{Categorized, categorize},
    endpoint::EndpointMap,
    field::Report,
    frontend::{FrontendSet, frontends, settle, uses},
    health::health_check,
    node::NodeView,
    spec::{Port, Spec},
    types::{
        DesiredService, DesiredServicePort, Family, Frontend, FrontendKind, ServicePortName, Warning,
        WarningReason,
    },
};
use crate::{
    desired::address::parse_address,
    model::{ServiceObject, SliceObject},
};

/// What the node should do for `service`, whose slices are given in any order. Frontends that other Services claim too
/// are still in it; [`super::Engine`] settles those.
pub fn desired_service<'a>(
    service: &'a ServiceObject,
    slices: impl IntoIterator<Item = &'a SliceObject>,
    node: &NodeView,
) -> DesiredService {
    let mut warnings = Vec::new();
    let spec = Spec::read(service, &mut Report::new("Service", &service.name, &mut warnings));
    let Some(spec) = spec.filter(|spec| !spec.cluster_ips.is_empty()) else {
        return DesiredService { warnings, ..DesiredService::default() };
    };
    let endpoints = EndpointMap::merge(slices, node, &mut warnings);
    let families = [Family::V4, Family::V6].into_iter().filter(|family| spec.cluster_ip(*family).is_some());
    let mut ports = Vec::with_capacity(spec.ports.len() * families.clone().count());
    for family in families {
        ports.extend(family_ports(service, &spec, family, (&endpoints, node), &mut warnings));
    }
    ports.sort_unstable_by(|a, b| (&a.name, a.family).cmp(&(&b.name, b.family)));
    warnings.sort_unstable();
    warnings.dedup();
    DesiredService { ports, health_check: health_check(&spec, &endpoints), warnings }
}

fn family_ports(
    service: &ServiceObject,
    spec: &Spec<'_>,
    family: Family,
    (endpoints, node): (&EndpointMap<'_>, &NodeView),
    warnings: &mut Vec<Warning>,
) -> Vec<DesiredServicePort> {
    let lists: Vec<Categorized> =
        spec.ports.iter().map(|port| lists_of(spec, port, family, endpoints)).collect();
    let mut sets: Vec<FrontendSet> = (spec.ports.iter().zip(&lists))
        .map(|(port, found)| frontends(spec, port, family, node, found.has_any))
        .collect();
    for (index, frontend) in settle(&mut sets) {
        if let Some(port) = spec.ports.get(index) {
            warnings.push(conflict(service, port.name, &frontend, "another port of the same Service"));
        }
    }
    (spec.ports.iter().zip(lists).zip(sets))
        .map(|((port, found), set)| DesiredServicePort {
            name: ServicePortName {
                service: service.name.clone(),
                port_name: port.name.to_owned(),
                protocol: port.protocol,
            },
            family,
            affinity_seconds: spec.affinity_seconds,
            frontends: set.bound,
            unbound: set.unbound,
            lists: found.lists,
        })
        .collect()
}

fn lists_of(spec: &Spec<'_>, port: &Port<'_>, family: Family, endpoints: &EndpointMap<'_>) -> Categorized {
    let found = endpoints.get(family, port.name, port.protocol);
    found.map_or_else(Categorized::default, |endpoints| categorize(endpoints, uses(spec, port, family)))
}

/// The warning for a frontend that `owner` has.
pub(super) fn conflict(
    service: &ServiceObject,
    port_name: &str,
    frontend: &Frontend,
    owner: &str,
) -> Warning {
    let (port, protocol) = (frontend.key.port, frontend.key.protocol);
    let (what, remedy) = match frontend.kind {
        FrontendKind::NodePort => (format!("node port {port}/{protocol}"), "choose another node port"),
        FrontendKind::ClusterIp
        | FrontendKind::LoadBalancer
        | FrontendKind::ExternalIp
        | FrontendKind::HostPort => {
            let address = SocketAddr::new(frontend.key.address, port);
            (format!("{address}/{protocol}"), "choose another address or port")
        }
    };
    Warning {
        kind: "Service",
        object: service.name.clone(),
        field: field_of(service, port_name, frontend),
        reason: WarningReason::AddressConflict,
        message: format!("{what} is owned by {owner} and is not served for this one: {remedy}"),
    }
}

/// The field that asks for `frontend`; looked up only when there is something to say about it.
fn field_of(service: &ServiceObject, port_name: &str, frontend: &Frontend) -> String {
    let is_it = |text: &str| parse_address(text) == Some(frontend.key.address);
    let (list, index, rest) = match frontend.kind {
        FrontendKind::ClusterIp => {
            ("spec.clusterIPs", service.cluster_ips.iter().position(|text| is_it(text)), "")
        }
        FrontendKind::ExternalIp => {
            ("spec.externalIPs", service.external_ips.iter().position(|text| is_it(text)), "")
        }
        FrontendKind::LoadBalancer => {
            let index = service.ingress.iter().position(|ingress| is_it(&ingress.ip));
            ("status.loadBalancer.ingress", index, ".ip")
        }
        // A Service has none; for completeness.
        FrontendKind::HostPort => ("spec.ports", None, ""),
        FrontendKind::NodePort => {
            let is_port = |port: &crate::model::PortObject| {
                port.name == port_name && port.node_port == i32::from(frontend.key.port)
            };
            ("spec.ports", service.ports.iter().position(is_port), ".nodePort")
        }
    };
    index.map_or_else(|| list.to_owned(), |index| format!("{list}[{index}]{rest}"))
}
