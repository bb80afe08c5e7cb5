//! A Service's fields, judged: what cannot be used is gone, with a warning, and the rest is typed.
//!
//! Must not know endpoints or the node.

use std::{collections::BTreeSet, net::IpAddr};

use proxy_common::Protocol;

use super::{
    address::{parse_address, special_class},
    affinity::affinity_seconds,
    field::{Report, port_message, port_number, protocol},
    source_range::SourceRanges,
    types::{Family, ListKind},
};
use crate::model::{IngressObject, PortObject, ServiceObject};

/// A Service that has a virtual IP.
#[derive(Debug)]
pub(super) struct Spec<'a> {
    /// One per family at most. A Service has frontends only in the families of these.
    pub(super) cluster_ips: Vec<IpAddr>,
    /// Of the families of `cluster_ips`.
    pub(super) external_ips: Vec<IpAddr>,
    /// Of the families of `cluster_ips`; only for type LoadBalancer.
    pub(super) load_balancer_ips: Vec<IpAddr>,
    /// Names and protocols are unique together.
    pub(super) ports: Vec<Port<'a>>,
    /// `internalTrafficPolicy`, as the list it selects.
    pub(super) internal: ListKind,
    /// `externalTrafficPolicy`, as the list it selects.
    pub(super) external: ListKind,
    /// 0 = none.
    pub(super) affinity_seconds: u32,
    /// Clients that LoadBalancer addresses admit.
    pub(super) source_ranges: SourceRanges,
    /// Present for type LoadBalancer with `externalTrafficPolicy: Local`.
    pub(super) health_check_port: Option<u16>,
}

/// One of a Service's ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port<'a> {
    pub(super) name: &'a str,
    pub(super) protocol: Protocol,
    /// On every address but the node's own.
    pub(super) number: u16,
    /// On the node's addresses. Only for types NodePort and LoadBalancer.
    pub(super) node_number: Option<u16>,
}

impl<'a> Spec<'a> {
    /// `None` for a Service that has no frontends by its kind: headless, ExternalName.
    pub(super) fn read(service: &'a ServiceObject, report: &mut Report<'_>) -> Option<Self> {
        let kind = ServiceType::read(&service.service_type, report);
        if kind == ServiceType::ExternalName || is_headless(service) {
            return None;
        }
        let cluster_ips = cluster_ips(service, report);
        let families: BTreeSet<Family> = cluster_ips.iter().copied().map(Family::of).collect();
        let external = policy(&service.external_policy, "spec.externalTrafficPolicy", report);
        let is_load_balancer = kind == ServiceType::LoadBalancer;
        Some(Self {
            external_ips: external_ips(service, &families, report),
            load_balancer_ips: if is_load_balancer {
                ingress_ips(service, &families, report)
            } else {
                Vec::new()
            },
            ports: ports(service, kind, report),
            internal: policy(&service.internal_policy, "spec.internalTrafficPolicy", report),
            external,
            affinity_seconds: affinity_seconds(service, report),
            source_ranges: if is_load_balancer {
                SourceRanges::read(&service.source_ranges, report)
            } else {
                SourceRanges::default()
            },
            health_check_port: if is_load_balancer && external == ListKind::Local {
                optional_port(service.health_check_node_port, || "spec.healthCheckNodePort".into(), report)
            } else {
                None
            },
            cluster_ips,
        })
    }

    /// The clusterIP of `family`.
    pub(super) fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|address| Family::of(*address) == family)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServiceType {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

impl ServiceType {
    /// An unknown type counts as ClusterIP: it opens nothing to the outside.
    fn read(text: &str, report: &mut Report<'_>) -> Self {
        match text {
            "" | "ClusterIP" => Self::ClusterIp,
            "NodePort" => Self::NodePort,
            "LoadBalancer" => Self::LoadBalancer,
            "ExternalName" => Self::ExternalName,
            other => {
                let remedy = "use ClusterIP, NodePort, LoadBalancer or ExternalName";
                report
                    .invalid("spec.type", format!("unknown type `{other}` is taken as ClusterIP: {remedy}"));
                Self::ClusterIp
            }
        }
    }
}

fn is_headless(service: &ServiceObject) -> bool {
    service.cluster_ip == "None" || service.cluster_ips.iter().any(|text| text == "None")
}

fn cluster_ips(service: &ServiceObject, report: &mut Report<'_>) -> Vec<IpAddr> {
    let single = std::slice::from_ref(&service.cluster_ip);
    let texts = if service.cluster_ips.is_empty() { single } else { service.cluster_ips.as_slice() };
    if texts.iter().all(String::is_empty) {
        let message = "no address is assigned, so the Service does nothing: an API server assigns one; in a manifest \
                       write it yourself, or `None` for a headless Service";
        report.invalid("spec.clusterIPs", message);
        return Vec::new();
    }
    let mut found: Vec<IpAddr> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let field = format!("spec.clusterIPs[{index}]");
        let Some(address) = frontend_address(text, &field, report) else { continue };
        if found.iter().any(|held| Family::of(*held) == Family::of(address)) {
            report.invalid(
                field,
                format!("`{text}` is a second address of its family and is ignored: remove it"),
            );
        } else {
            found.push(address);
        }
    }
    found
}

fn external_ips(
    service: &ServiceObject,
    families: &BTreeSet<Family>,
    report: &mut Report<'_>,
) -> Vec<IpAddr> {
    let read = |(index, text): (usize, &String)| {
        let field = format!("spec.externalIPs[{index}]");
        let address = frontend_address(text, &field, report)?;
        in_families(address, families, field, report)
    };
    service.external_ips.iter().enumerate().filter_map(read).collect()
}

fn ingress_ips(service: &ServiceObject, families: &BTreeSet<Family>, report: &mut Report<'_>) -> Vec<IpAddr> {
    let read = |(index, ingress): (usize, &IngressObject)| {
        if ingress.ip.is_empty() || !is_vip_mode(index, ingress, report) {
            return None;
        }
        let field = format!("status.loadBalancer.ingress[{index}].ip");
        let address = frontend_address(&ingress.ip, &field, report)?;
        in_families(address, families, field, report)
    };
    service.ingress.iter().enumerate().filter_map(read).collect()
}

/// With `Proxy`, packets reach the node under another destination, so there is nothing to translate.
fn is_vip_mode(index: usize, ingress: &IngressObject, report: &mut Report<'_>) -> bool {
    match ingress.ip_mode.as_deref() {
        None | Some("VIP") => true,
        Some("Proxy") => false,
        Some(other) => {
            let field = format!("status.loadBalancer.ingress[{index}].ipMode");
            report.invalid(field, format!("unknown mode `{other}`; the entry is ignored: use VIP or Proxy"));
            false
        }
    }
}

/// An address that clients may use. Nobody may take over loopback, link-local, multicast or unspecified addresses:
/// that would redirect a host's own traffic.
fn frontend_address(text: &str, field: &str, report: &mut Report<'_>) -> Option<IpAddr> {
    let Some(address) = parse_address(text) else {
        report.invalid(field, format!("`{text}` is not an IP address and is ignored: correct or remove it"));
        return None;
    };
    if let Some(class) = special_class(address) {
        let message = format!("`{text}` is {class} address, which no Service may take over: remove it");
        report.invalid(field, message);
        return None;
    }
    Some(address)
}

/// As with kube-proxy, a Service exists only in the families of its clusterIPs. Where it has none, that was said already.
fn in_families(
    address: IpAddr,
    families: &BTreeSet<Family>,
    field: String,
    report: &mut Report<'_>,
) -> Option<IpAddr> {
    let family = Family::of(address);
    if families.contains(&family) {
        return Some(address);
    }
    if families.is_empty() {
        return None;
    }
    let message = format!(
        "`{address}` is ignored because the Service has no {family} clusterIP: add {family} to spec.ipFamilies"
    );
    report.invalid(field, message);
    None
}

fn ports<'a>(service: &'a ServiceObject, kind: ServiceType, report: &mut Report<'_>) -> Vec<Port<'a>> {
    let mut found: Vec<Port<'a>> = Vec::new();
    for (index, object) in service.ports.iter().enumerate() {
        let Some(port) = read_port(index, object, kind, report) else { continue };
        if found.iter().any(|held| (held.name, held.protocol) == (port.name, port.protocol)) {
            let message = format!(
                "a second {} port named `{}` is ignored: give it another name",
                port.protocol, port.name
            );
            report.invalid(format!("spec.ports[{index}].name"), message);
        } else {
            found.push(port);
        }
    }
    found
}

fn read_port<'a>(
    index: usize,
    object: &'a PortObject,
    kind: ServiceType,
    report: &mut Report<'_>,
) -> Option<Port<'a>> {
    let protocol = protocol(&object.protocol, || format!("spec.ports[{index}].protocol"), report)?;
    let Some(number) = port_number(object.port) else {
        report
            .invalid(format!("spec.ports[{index}].port"), port_message(object.port, "this port is ignored"));
        return None;
    };
    let node_number = match kind {
        ServiceType::NodePort | ServiceType::LoadBalancer => {
            optional_port(object.node_port, || format!("spec.ports[{index}].nodePort"), report)
        }
        ServiceType::ClusterIp | ServiceType::ExternalName => None,
    };
    Some(Port { name: &object.name, protocol, number, node_number })
}

/// A port number where 0 means none.
fn optional_port(number: i32, field: impl FnOnce() -> String, report: &mut Report<'_>) -> Option<u16> {
    let port = port_number(number);
    if port.is_none() && number != 0 {
        report.invalid(field(), port_message(number, "it is ignored"));
    }
    port
}

fn policy(text: &str, field: &str, report: &mut Report<'_>) -> ListKind {
    match text {
        "" | "Cluster" => ListKind::Cluster,
        "Local" => ListKind::Local,
        other => {
            report.invalid(
                field,
                format!("unknown policy `{other}` is taken as Cluster: use Cluster or Local"),
            );
            ListKind::Cluster
        }
    }
}
