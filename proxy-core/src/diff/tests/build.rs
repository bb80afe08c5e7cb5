//! Desired state in few words.

use std::net::{IpAddr, Ipv6Addr};

use proxy_common::{Protocol, Scope};

use super::world::Wanted;
use crate::{
    desired::{
        Backend, BackendLists, DesiredService, DesiredServicePort, Family, Frontend, FrontendKey,
        FrontendKind, ListKind, ServicePortName, WhenEmpty,
    },
    model::ObjectName,
};

pub(super) fn name(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

pub(super) fn backend(family: Family, last: u8) -> Backend {
    let address = match family {
        Family::V4 => IpAddr::from([10, 244, 0, last]),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into())),
    };
    Backend { address, port: 8080, local: false }
}

/// A ClusterIP frontend: internal, on an address that it owns.
pub(super) fn cluster_ip(address: &str, port: u16) -> Frontend {
    Frontend {
        key: FrontendKey {
            address: address.parse().unwrap(),
            port,
            protocol: Protocol::Tcp,
            scope: Scope::Internal,
        },
        kind: FrontendKind::ClusterIp,
        list: ListKind::Cluster,
        when_empty: WhenEmpty::Reject,
        host_netns_only: false,
        owns_address: true,
        source_ranges: Vec::new(),
    }
}

/// A frontend for clients outside, with the Local list, on an address that others may have ports on.
pub(super) fn external(address: &str, port: u16) -> Frontend {
    let mut frontend = cluster_ip(address, port);
    frontend.key.scope = Scope::External;
    (frontend.kind, frontend.list) = (FrontendKind::LoadBalancer, ListKind::Local);
    (frontend.when_empty, frontend.owns_address) = (WhenEmpty::Drop, false);
    frontend
}

/// One port; backends are given by the last byte of their address.
pub(super) fn port(
    port_name: &str,
    frontends: Vec<Frontend>,
    cluster: &[u8],
    local: &[u8],
    keep: &[u8],
) -> DesiredServicePort {
    let family = frontends.first().map_or(Family::V4, |frontend| Family::of(frontend.key.address));
    let set = |ids: &[u8]| ids.iter().map(|last| backend(family, *last)).collect();
    DesiredServicePort {
        name: ServicePortName { service: name(""), port_name: port_name.into(), protocol: Protocol::Tcp },
        family,
        affinity_seconds: 0,
        frontends,
        unbound: Vec::new(),
        lists: BackendLists { cluster: set(cluster), local: set(local), keep: set(keep) },
    }
}

pub(super) fn service(ports: Vec<DesiredServicePort>) -> DesiredService {
    DesiredService { ports, ..DesiredService::default() }
}

/// A Service with one ClusterIP and one list.
pub(super) fn simple(address: &str, backends: &[u8]) -> DesiredService {
    service(vec![port("http", vec![cluster_ip(address, 80)], backends, &[], backends)])
}

/// A Service with a frontend on both of its lists and a source range.
pub(super) fn rich(node_port: u16, range: &str, cluster: &[u8], local: &[u8]) -> DesiredService {
    let mut balancer = external("192.0.2.1", node_port);
    balancer.source_ranges = vec![range.parse().unwrap()];
    service(vec![port("http", vec![cluster_ip("10.96.0.1", 80), balancer], cluster, local, &[])])
}

/// A cluster of these Services.
pub(super) fn wanted(services: &[(&str, DesiredService)]) -> Wanted {
    services.iter().map(|(service, desired)| (name(service), desired.clone())).collect()
}
