//! The host ports of one pod on this node, as if nobody else claimed them: in the form that Services have.
//!
//! A host port leads to one backend, the pod, and never to another node: it is a Local list in both scopes, so the client's
//! address is kept. Without an address it is served on every address of the node, and on loopback for programs of the
//! host itself; with one, on that address alone, which must be the node's: nobody may take over somebody else's address.
//! An unspecified address means all of its family. Must not know Services.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use proxy_common::Scope;

use super::{
    field::Report,
    node::NodeView,
    types::{
        Backend, BackendLists, DesiredService, DesiredServicePort, Family, Frontend, FrontendKey,
        FrontendKind, ListKind, ServicePortName, Warning, WarningReason, WhenEmpty,
    },
};
use crate::model::{HostPort, HostPortsObject};

/// The field that asks for a host port. Which container and which entry, a network attachment does not say.
const FIELD: &str = "spec.containers[].ports[].hostPort";
const FIELD_IP: &str = "spec.containers[].ports[].hostIP";

/// What the node should do for the host ports of a pod. Of two of its ports that want one frontend the first has it.
pub(super) fn desired_host_ports(object: &HostPortsObject, node: &NodeView) -> DesiredService {
    let (mut warnings, mut owners, mut ports) = (Vec::new(), BTreeMap::new(), Vec::new());
    let pairs = object.ports.iter().flat_map(|port| object.addresses.iter().map(move |pod| (port, pod)));
    for (index, (port, pod)) in pairs.enumerate() {
        let mut frontends = frontends(object, port, Family::of(*pod), node, &mut warnings);
        let backend = Backend { address: *pod, port: port.container_port, local: true };
        frontends.retain(|Frontend { key, .. }| {
            let (owner, owned) = *owners.entry(*key).or_insert((index, backend));
            // That two of its ports ask for the same is nothing to complain of.
            warnings
                .extend((owned != backend).then(|| conflict(object, key, "another port of the same pod")));
            owner == index
        });
        if !frontends.is_empty() {
            ports.push(service_port(object, port, backend, frontends));
        }
    }
    ports.sort_unstable_by(|a, b| (&a.name, a.family).cmp(&(&b.name, b.family)));
    warnings.sort_unstable();
    warnings.dedup();
    DesiredService { ports, health_check: None, warnings }
}

/// The warning for a host port that `owner` has.
pub(super) fn conflict(object: &HostPortsObject, key: &FrontendKey, owner: &str) -> Warning {
    let (port, protocol) = (key.port, key.protocol);
    Warning {
        kind: "Pod",
        object: object.pod.clone(),
        field: FIELD.to_owned(),
        reason: WarningReason::AddressConflict,
        message: format!(
            "host port {port}/{protocol} is owned by {owner} and is not served for this pod: choose another host port"
        ),
    }
}

fn service_port(
    object: &HostPortsObject,
    port: &HostPort,
    backend: Backend,
    mut frontends: Vec<Frontend>,
) -> DesiredServicePort {
    frontends.sort_unstable_by_key(|frontend| frontend.key);
    let backends = BTreeSet::from([backend]);
    DesiredServicePort {
        name: name(object, port),
        family: Family::of(backend.address),
        affinity_seconds: 0,
        frontends,
        unbound: Vec::new(),
        lists: BackendLists { cluster: BTreeSet::new(), local: backends.clone(), keep: backends },
    }
}

/// `80`, `192.0.2.1:80`: unique in a pod together with the protocol.
fn name(object: &HostPortsObject, port: &HostPort) -> ServicePortName {
    let number = port.host_port;
    ServicePortName {
        service: object.name.clone(),
        port_name: match port.host_ip {
            None => number.to_string(),
            Some(address) => SocketAddr::new(address, number).to_string(),
        },
        protocol: port.protocol,
    }
}

fn frontends(
    object: &HostPortsObject,
    port: &HostPort,
    family: Family,
    node: &NodeView,
    warnings: &mut Vec<Warning>,
) -> Vec<Frontend> {
    let everywhere = || {
        let reachable = node.host_addresses_of(family).flat_map(|address| both_scopes(port, address));
        std::iter::once(loopback(port, loopback_of(family))).chain(reachable).collect()
    };
    match port.host_ip.map(|address| address.to_canonical()) {
        None => everywhere(),
        Some(address) if Family::of(address) != family => Vec::new(),
        Some(address) if address.is_unspecified() => everywhere(),
        Some(address) if address.is_loopback() => vec![loopback(port, address)],
        Some(address) if node.host_addresses_of(family).any(|own| own == address) => {
            both_scopes(port, address).into()
        }
        // Nobody has told the node's addresses yet.
        Some(_) if node.addresses.is_none() => Vec::new(),
        Some(address) => {
            let message =
                format!("`{address}` is no address of this node, so the host port is not served on it");
            Report::new("Pod", &object.pod, warnings)
                .invalid(FIELD_IP, format!("{message}: correct or remove it"));
            Vec::new()
        }
    }
}

fn both_scopes(port: &HostPort, address: IpAddr) -> [Frontend; 2] {
    [Scope::Internal, Scope::External].map(|scope| frontend(port, address, scope))
}

/// Only programs in the host's own network namespace mean the host by a loopback address.
fn loopback(port: &HostPort, address: IpAddr) -> Frontend {
    Frontend { host_netns_only: true, ..frontend(port, address, Scope::Internal) }
}

fn frontend(port: &HostPort, address: IpAddr, scope: Scope) -> Frontend {
    Frontend {
        key: FrontendKey { address, port: port.host_port, protocol: port.protocol, scope },
        kind: FrontendKind::HostPort,
        list: ListKind::Local,
        when_empty: WhenEmpty::Reject,
        host_netns_only: false,
        owns_address: false,
        source_ranges: Vec::new(),
    }
}

fn loopback_of(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}
