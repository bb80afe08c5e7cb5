//! The frontends of a Service's ports.
//!
//! Must not know which endpoints are behind them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proxy_common::Scope;

use super::{
    categorize::Uses,
    node::NodeView,
    spec::{Port, Spec},
    types::{Family, Frontend, FrontendKey, FrontendKind, ListKind, WhenEmpty},
};

/// Which lists the frontends of `port` can use in `family`, whatever addresses the node has.
pub(super) fn uses(spec: &Spec<'_>, port: &Port<'_>, family: Family) -> Uses {
    let of_family = |addresses: &[IpAddr]| addresses.iter().any(|address| Family::of(*address) == family);
    // From inside, external addresses always mean the Cluster list, so that pods reach them on every node.
    let from_outside =
        port.node_number.is_some() || of_family(&spec.load_balancer_ips) || of_family(&spec.external_ips);
    Uses {
        cluster: spec.internal == ListKind::Cluster || from_outside,
        local: spec.internal == ListKind::Local || (spec.external == ListKind::Local && from_outside),
    }
}

/// The frontends of one ServicePort in one family.
#[derive(Debug, Default)]
pub(super) struct FrontendSet {
    /// On addresses.
    pub(super) bound: Vec<Frontend>,
    /// On whatever address the node has, where nobody has told any.
    pub(super) unbound: Vec<Frontend>,
}

/// All frontends of `port` in `family`, before any conflict is settled.
pub(super) fn frontends(
    spec: &Spec<'_>,
    port: &Port<'_>,
    family: Family,
    node: &NodeView,
    has_any: bool,
) -> FrontendSet {
    let maker = Maker { spec, port, has_any };
    let mut set = FrontendSet::default();
    set.bound.extend(spec.cluster_ip(family).map(|address| maker.cluster_ip(address)));
    if let Some(node_port) = port.node_number {
        let (loopback, unspecified) = host_addresses(family);
        set.bound.push(maker.loopback(loopback, node_port));
        set.bound.extend(node.addresses_of(family).flat_map(|address| maker.node_port(address, node_port)));
        if node.addresses.is_none() {
            set.unbound.extend(maker.node_port(unspecified, node_port));
        }
    }
    let of_family = |address: &&IpAddr| Family::of(**address) == family;
    for address in spec.load_balancer_ips.iter().filter(of_family) {
        set.bound.extend(maker.load_balancer(*address, family));
    }
    for address in spec.external_ips.iter().filter(of_family) {
        set.bound.extend(maker.both_scopes(FrontendKind::ExternalIp, *address, port.number));
    }
    set
}

/// Leaves each key to one frontend of the Service: kinds in order of precedence, then ports in the order of
/// `spec.ports`. Returns the frontends that lost to another *port*, with the index of their port; that two addresses
/// of one port are the same is nothing to complain of.
pub(super) fn settle(ports: &mut [FrontendSet]) -> Vec<(usize, Frontend)> {
    let mut owners: BTreeMap<FrontendKey, (FrontendKind, usize)> = BTreeMap::new();
    for (index, set) in ports.iter().enumerate() {
        for frontend in set.bound.iter().chain(&set.unbound) {
            let claim = (frontend.kind, index);
            owners.entry(frontend.key).and_modify(|owner| *owner = claim.min(*owner)).or_insert(claim);
        }
    }
    let mut lost = Vec::new();
    for (index, set) in ports.iter_mut().enumerate() {
        for list in [&mut set.bound, &mut set.unbound] {
            list.retain(|frontend| {
                let owner = owners.get(&frontend.key).copied();
                if owner.is_some_and(|(_, owner)| owner != index) {
                    lost.push((index, frontend.clone()));
                }
                owner == Some((frontend.kind, index))
            });
            list.sort_unstable_by_key(|frontend| frontend.key);
            list.dedup_by_key(|frontend| frontend.key);
        }
    }
    lost
}

/// Makes the frontends of one port.
struct Maker<'a> {
    spec: &'a Spec<'a>,
    port: &'a Port<'a>,
    has_any: bool,
}

impl Maker<'_> {
    fn cluster_ip(&self, address: IpAddr) -> Frontend {
        let key = self.key(address, self.port.number, Scope::Internal);
        Frontend { owns_address: true, ..self.frontend(FrontendKind::ClusterIp, key, self.spec.internal) }
    }

    fn loopback(&self, address: IpAddr, node_port: u16) -> Frontend {
        let key = self.key(address, node_port, Scope::Internal);
        Frontend { host_netns_only: true, ..self.frontend(FrontendKind::NodePort, key, ListKind::Cluster) }
    }

    fn node_port(&self, address: IpAddr, node_port: u16) -> [Frontend; 2] {
        self.both_scopes(FrontendKind::NodePort, address, node_port)
    }

    fn load_balancer(&self, address: IpAddr, family: Family) -> [Frontend; 2] {
        let admitted = self.spec.source_ranges.of(family);
        self.both_scopes(FrontendKind::LoadBalancer, address, self.port.number)
            .map(|frontend| Frontend { source_ranges: admitted.to_vec(), ..frontend })
    }

    /// An address that is reachable from outside: clients inside always use the Cluster list.
    fn both_scopes(&self, kind: FrontendKind, address: IpAddr, port: u16) -> [Frontend; 2] {
        [(Scope::Internal, ListKind::Cluster), (Scope::External, self.spec.external)]
            .map(|(scope, list)| self.frontend(kind, self.key(address, port, scope), list))
    }

    fn key(&self, address: IpAddr, port: u16, scope: Scope) -> FrontendKey {
        FrontendKey { address, port, protocol: self.port.protocol, scope }
    }

    fn frontend(&self, kind: FrontendKind, key: FrontendKey, list: ListKind) -> Frontend {
        Frontend {
            key,
            kind,
            list,
            when_empty: self.when_empty(list),
            host_netns_only: false,
            owns_address: false,
            source_ranges: Vec::new(),
        }
    }

    /// Silence only where another node could answer: a load balancer's health check catches up, and the client retries
    /// instead of reporting an error.
    fn when_empty(&self, list: ListKind) -> WhenEmpty {
        match list {
            ListKind::Local if self.has_any => WhenEmpty::Drop,
            ListKind::Local | ListKind::Cluster => WhenEmpty::Reject,
        }
    }
}

/// The loopback and the unspecified address of a family.
fn host_addresses(family: Family) -> (IpAddr, IpAddr) {
    match family {
        Family::V4 => (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into()),
        Family::V6 => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()),
    }
}
