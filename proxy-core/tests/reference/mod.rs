//! The oracle: what Kubernetes' Service semantics say this node should do, written a second time and as plainly as
//! possible, from the reference text and not from the crate.
//!
//! Everything is recomputed from everything; quadratic is fine. Must not use a decision of the crate: only its input
//! objects and the words for its output.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use proxy_common::{Protocol, Scope};
use proxy_core::{
    desired::{Backend, Family, FrontendKey, FrontendKind, ServicePortName, Settings, WhenEmpty},
    model::{Event, NodeObject, ObjectName, ServiceObject, SliceObject},
};

/// The objects as the sources last told them, foreign ones included.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub services: BTreeMap<ObjectName, ServiceObject>,
    pub slices: BTreeMap<ObjectName, SliceObject>,
    pub node: Option<NodeObject>,
    pub addresses: BTreeSet<IpAddr>,
}

/// What one frontend answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub owner: ServicePortName,
    pub kind: FrontendKind,
    /// Who gets new connections.
    pub backends: BTreeSet<Backend>,
    /// Who keeps the flows it has.
    pub keep: BTreeSet<Backend>,
    /// Only where there are no backends.
    pub when_empty: Option<WhenEmpty>,
    pub affinity_seconds: u32,
    pub source_ranges: BTreeSet<IpNetwork>,
    pub host_netns_only: bool,
    pub owns_address: bool,
}

/// All that a node does.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Expected {
    pub frontends: BTreeMap<FrontendKey, Answer>,
    /// Port and number of local ready endpoints.
    pub health_checks: BTreeMap<ObjectName, (u16, usize)>,
}

#[derive(Clone)]
struct Endpoint {
    backend: Backend,
    local: bool,
    ready: bool,
    serving: bool,
    terminating: bool,
    for_nodes: Vec<String>,
    for_zones: Vec<String>,
}

/// All that there is to know.
#[derive(Clone, Copy)]
struct View<'a> {
    world: &'a World,
    settings: &'a Settings,
}

/// Who may have a frontend that several claim: the smallest wins.
type Rank = (FrontendKind, bool, Option<i64>, ObjectName, usize);

impl World {
    pub fn take(&mut self, event: &Event) {
        match event.clone() {
            Event::ServiceApplied(service) => drop(self.services.insert(service.name.clone(), *service)),
            Event::ServiceDeleted(name) => drop(self.services.remove(&name)),
            Event::ServicesListed(all) => {
                self.services = all.into_iter().map(|s| (s.name.clone(), s)).collect();
            }
            Event::SliceApplied(slice) => drop(self.slices.insert(slice.name.clone(), *slice)),
            Event::SliceDeleted(name) => drop(self.slices.remove(&name)),
            Event::SlicesListed(all) => self.slices = all.into_iter().map(|s| (s.name.clone(), s)).collect(),
            Event::Node(node) => self.node = node,
            Event::Addresses(addresses) => self.addresses = addresses,
            // The reference is of Services alone.
            Event::HostPortsListed(_) => {}
        }
    }
}

pub fn expected(world: &World, settings: &Settings) -> Expected {
    let view = View { world, settings };
    let mut result = Expected::default();
    let mut owners: BTreeMap<FrontendKey, Rank> = BTreeMap::new();
    for service in world.services.values().filter(|service| is_served(service, settings)) {
        for (key, rank, answer) in claims(view, service) {
            if owners.get(&key).is_none_or(|owner| rank < *owner) {
                owners.insert(key, rank);
                result.frontends.insert(key, answer);
            }
        }
        if let Some(check) = health_check(view, service) {
            result.health_checks.insert(service.name.clone(), check);
        }
    }
    result
}

/// Foreign, headless and ExternalName Services make nothing, and neither does one that has no ClusterIP yet.
fn is_served(service: &ServiceObject, settings: &Settings) -> bool {
    service.proxy_name == settings.proxy_name
        && !service.headless_label
        && service.service_type != "ExternalName"
        && !families(service).is_empty()
}

fn cluster_ips(service: &ServiceObject) -> Vec<&str> {
    match service.cluster_ips.as_slice() {
        [] => vec![service.cluster_ip.as_str()],
        list => list.iter().map(String::as_str).collect(),
    }
}

/// All the frontends a Service asks for, whoever gets them.
fn claims(view: View<'_>, service: &ServiceObject) -> Vec<(FrontendKey, Rank, Answer)> {
    let mut all = vec![];
    for (index, (port_name, protocol, port, node_port)) in ports(service).into_iter().enumerate() {
        for family in families(service) {
            let endpoints = endpoints(view, &service.name, &port_name, protocol, family);
            let addresses = frontend_addresses(view, service, family);
            for (kind, address, scope) in addresses {
                let number = if kind == FrontendKind::NodePort { node_port } else { Some(port) };
                let Some(number) = number else { continue };
                let key = FrontendKey { address, port: number, protocol, scope };
                // A Service without a creation time counts as the youngest.
                let age = (service.created.is_none(), service.created);
                let rank = (kind, age.0, age.1, service.name.clone(), index);
                let owner =
                    ServicePortName { service: service.name.clone(), port_name: port_name.clone(), protocol };
                all.push((key, rank, answer(view, service, owner, kind, key, &endpoints)));
            }
        }
    }
    all
}

/// Valid ports: name, protocol, port, node port.
fn ports(service: &ServiceObject) -> Vec<(String, Protocol, u16, Option<u16>)> {
    let valid = service.ports.iter().filter_map(|port| {
        Some((
            port.name.clone(),
            protocol(&port.protocol)?,
            port_number(port.port)?,
            port_number(port.node_port),
        ))
    });
    valid.collect()
}

fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "" | "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// A Service exists in the families it has a ClusterIP of.
fn families(service: &ServiceObject) -> Vec<Family> {
    let present: BTreeSet<Family> =
        cluster_ips(service).into_iter().filter_map(address).map(Family::of).collect();
    present.into_iter().collect()
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// Every kind and address of a Service in a family, with who uses it: a ClusterIP is for inside only, and so is a
/// loopback address.
fn frontend_addresses(
    view: View<'_>,
    service: &ServiceObject,
    family: Family,
) -> Vec<(FrontendKind, IpAddr, Scope)> {
    let own = |texts: Vec<&str>| -> Vec<IpAddr> {
        texts.into_iter().filter_map(address).filter(|address| Family::of(*address) == family).collect()
    };
    let mut all: Vec<(FrontendKind, IpAddr, Scope)> = vec![];
    // One ClusterIP for each family.
    all.extend(own(cluster_ips(service)).first().map(|ip| (FrontendKind::ClusterIp, *ip, Scope::Internal)));
    let mut both = |kind, addresses: Vec<IpAddr>| {
        for address in addresses {
            all.push((kind, address, Scope::Internal));
            if !address.is_loopback() {
                all.push((kind, address, Scope::External));
            }
        }
    };
    both(FrontendKind::ExternalIp, own(service.external_ips.iter().map(String::as_str).collect()));
    let is_vip = |mode: &Option<String>| mode.as_deref().is_none_or(|mode| mode == "VIP");
    if service.service_type == "LoadBalancer" {
        let vips = service.ingress.iter().filter(|ingress| is_vip(&ingress.ip_mode));
        both(FrontendKind::LoadBalancer, own(vips.map(|ingress| ingress.ip.as_str()).collect()));
    }
    if ["LoadBalancer", "NodePort"].contains(&service.service_type.as_str()) {
        both(FrontendKind::NodePort, node_port_addresses(view, family));
    }
    all
}

/// The node's own addresses as far as the settings admit them, and loopback.
fn node_port_addresses(view: View<'_>, family: Family) -> Vec<IpAddr> {
    let listed = view.world.node.iter().flat_map(|node| &node.addresses);
    let listed = listed.filter(|entry| entry.kind == "InternalIP" || entry.kind == "ExternalIP");
    let mut all: BTreeSet<IpAddr> = listed.filter_map(|entry| address(&entry.address)).collect();
    all.extend(&view.world.addresses);
    all.retain(|address| view.settings.node_port_addresses.admits(*address));
    all.extend(["127.0.0.1", "::1"].into_iter().filter_map(address));
    all.into_iter().filter(|address| Family::of(*address) == family).collect()
}

fn answer(
    view: View<'_>,
    service: &ServiceObject,
    owner: ServicePortName,
    kind: FrontendKind,
    key: FrontendKey,
    endpoints: &[Endpoint],
) -> Answer {
    let local_only = match (kind, key.scope) {
        (FrontendKind::ClusterIp, _) => service.internal_policy == "Local",
        // "Short circuit": inside the cluster, and at this node's own NodePorts, the Cluster list.
        (_, Scope::Internal) => false,
        (_, Scope::External) => service.external_policy == "Local",
    };
    let backends = if local_only {
        local_list(endpoints)
    } else {
        cluster_list(endpoints, &view.settings.node_name, zone(view.world))
    };
    let any = endpoints.iter().any(|endpoint| endpoint.ready || endpoint.serving && endpoint.terminating);
    let when_empty = if any { WhenEmpty::Drop } else { WhenEmpty::Reject };
    Answer {
        when_empty: backends.is_empty().then_some(when_empty),
        backends,
        keep: endpoints.iter().filter(|one| one.serving || one.ready).map(|one| one.backend).collect(),
        affinity_seconds: affinity(service),
        source_ranges: match kind {
            FrontendKind::LoadBalancer => source_ranges(service, Family::of(key.address)),
            _ => BTreeSet::new(),
        },
        host_netns_only: kind == FrontendKind::NodePort && key.address.is_loopback(),
        owns_address: kind == FrontendKind::ClusterIp,
        owner,
        kind,
    }
}

fn affinity(service: &ServiceObject) -> u32 {
    if service.session_affinity != "ClientIP" {
        return 0;
    }
    let asked = service.affinity_seconds.and_then(|seconds| u32::try_from(seconds).ok());
    asked.filter(|seconds| (1..=86_400).contains(seconds)).unwrap_or(10_800)
}

/// A list for the other family only leaves this one open, as with kube-proxy; but where nothing can be read at all, or
/// nothing of what may have been meant for this family, nobody is admitted: the all-ones address.
fn source_ranges(service: &ServiceObject, family: Family) -> BTreeSet<IpNetwork> {
    let mut own = BTreeSet::new();
    let (mut unread, mut read) = (false, false);
    for text in service.source_ranges.iter().map(|text| text.trim()) {
        match text.parse::<IpNetwork>() {
            Ok(network) if Family::of(network.ip()) == family => drop(own.insert(network_of(network))),
            Ok(_) => read = true,
            Err(_) => unread |= !text.contains(if family == Family::V4 { ':' } else { '.' }),
        }
    }
    match family {
        _ if !own.is_empty() || service.source_ranges.is_empty() || read && !unread => own,
        Family::V4 => BTreeSet::from([IpAddr::from([0xff_u8; 4]).into()]),
        Family::V6 => BTreeSet::from([IpAddr::from([0xff_u8; 16]).into()]),
    }
}

/// `10.1.2.3/8` and `10.0.0.0/8` are one network.
pub fn network_of(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

/// The first tier that has anybody: ready, else serving and terminating.
fn first_tier(endpoints: Vec<&Endpoint>) -> (bool, Vec<&Endpoint>) {
    let ready: Vec<&Endpoint> = endpoints.iter().copied().filter(|endpoint| endpoint.ready).collect();
    if !ready.is_empty() {
        return (true, ready);
    }
    (false, endpoints.into_iter().filter(|endpoint| endpoint.serving && endpoint.terminating).collect())
}

fn local_list(endpoints: &[Endpoint]) -> BTreeSet<Backend> {
    let local = endpoints.iter().filter(|endpoint| endpoint.local).collect();
    first_tier(local).1.into_iter().map(|endpoint| endpoint.backend).collect()
}

/// Topology filters only the ready tier: by node hints, else by zone hints, each only if all ready endpoints have
/// them and at least one means us.
fn cluster_list(endpoints: &[Endpoint], node: &str, zone: Option<&str>) -> BTreeSet<Backend> {
    let (ready, tier) = first_tier(endpoints.iter().collect());
    let meant = |hints: fn(&Endpoint) -> &Vec<String>, us: &str| -> Vec<&Endpoint> {
        let all_have = tier.iter().all(|endpoint| !hints(endpoint).is_empty());
        tier.iter()
            .copied()
            .filter(|endpoint| all_have && hints(endpoint).iter().any(|hint| hint == us))
            .collect()
    };
    let by_node = meant(|endpoint| &endpoint.for_nodes, node);
    let by_zone = zone.map(|zone| meant(|endpoint| &endpoint.for_zones, zone)).unwrap_or_default();
    let chosen = match (ready, by_node.is_empty(), by_zone.is_empty()) {
        (true, false, _) => by_node,
        (true, true, false) => by_zone,
        _ => tier,
    };
    chosen.into_iter().map(|endpoint| endpoint.backend).collect()
}

/// The endpoints of one ServicePort in one family, each address and port once.
fn endpoints(
    view: View<'_>,
    service: &ObjectName,
    port_name: &str,
    wanted: Protocol,
    family: Family,
) -> Vec<Endpoint> {
    let mut all: Vec<Endpoint> = vec![];
    for slice in view.world.slices.values().filter(|slice| is_slice_of(slice, service, view.settings)) {
        if slice.address_type != (if family == Family::V4 { "IPv4" } else { "IPv6" }) {
            continue;
        }
        for port in slice.ports.iter().filter(|port| port.name.as_deref() == Some(port_name)) {
            let protocol = protocol(port.protocol.as_deref().unwrap_or("TCP"));
            let Some(number) = port.port.and_then(port_number).filter(|_| protocol == Some(wanted)) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let Some(address) = endpoint.addresses.first().and_then(|text| address(text)) else {
                    continue;
                };
                if Family::of(address) != family || !may_be_backend(address) {
                    continue;
                }
                let local = endpoint.node_name.as_deref() == Some(&view.settings.node_name);
                all.push(Endpoint {
                    backend: Backend { address, port: number, local },
                    local,
                    ready: endpoint.ready.unwrap_or(true),
                    serving: endpoint.serving.unwrap_or(true),
                    terminating: endpoint.terminating.unwrap_or(false),
                    for_nodes: endpoint.for_nodes.clone(),
                    for_zones: endpoint.for_zones.clone(),
                });
            }
        }
    }
    without_copies(all, &view.settings.node_name, zone(view.world))
}

/// The node's zone; an empty one is none.
fn zone(world: &World) -> Option<&str> {
    world.node.as_ref()?.zone.as_deref().filter(|zone| !zone.is_empty())
}

fn is_slice_of(slice: &SliceObject, service: &ObjectName, settings: &Settings) -> bool {
    slice.name.namespace == service.namespace
        && slice.service.as_deref() == Some(&service.name)
        && slice.proxy_name == settings.proxy_name
        && !slice.headless_label
}

fn may_be_backend(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    !(link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// Of copies with one address and port a local one stays, as with kube-proxy; then, which no reference says, the most
/// usable one, then the one whose hints mean us, then one that has hints.
fn without_copies(all: Vec<Endpoint>, node: &str, zone: Option<&str>) -> Vec<Endpoint> {
    let hints = |hints: &[String], us: Option<&str>| {
        (hints.iter().any(|hint| Some(hint.as_str()) == us), !hints.is_empty())
    };
    let worth = |one: &Endpoint| {
        let usable = match (one.ready, one.serving, one.terminating) {
            (true, ..) => 3,
            (false, true, true) => 2,
            (false, true, false) => 1,
            (false, false, _) => 0,
        };
        (one.local, usable, hints(&one.for_nodes, Some(node)), hints(&one.for_zones, zone))
    };
    let mut kept: Vec<Endpoint> = vec![];
    for endpoint in all {
        let place = |one: &Endpoint| (one.backend.address, one.backend.port);
        match kept.iter_mut().find(|other| place(other) == place(&endpoint)) {
            Some(other) if worth(&endpoint) > worth(other) => *other = endpoint,
            Some(_) => {}
            None => kept.push(endpoint),
        }
    }
    kept
}

/// Only for `externalTrafficPolicy: Local` of a LoadBalancer; local and ready endpoints, each address once, and a pod
/// with an address in each family once.
fn health_check(view: View<'_>, service: &ServiceObject) -> Option<(u16, usize)> {
    if service.service_type != "LoadBalancer" || service.external_policy != "Local" {
        return None;
    }
    let port = port_number(service.health_check_node_port)?;
    let slices = view.world.slices.values().filter(|slice| is_slice_of(slice, &service.name, view.settings));
    let names: BTreeSet<&String> =
        slices.flat_map(|slice| &slice.ports).filter_map(|port| port.name.as_ref()).collect();
    let count = |family: Family| {
        let mut ready: BTreeSet<IpAddr> = BTreeSet::new();
        // Any port counts, also one that the Service does not have, as with kube-proxy.
        for name in &names {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                let all = endpoints(view, &service.name, name, protocol, family);
                ready.extend(all.iter().filter(|one| one.local && one.ready).map(|one| one.backend.address));
            }
        }
        ready.len()
    };
    Some((port, families(service).into_iter().map(count).max().unwrap_or(0)))
}
