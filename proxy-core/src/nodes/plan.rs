//! The decision.
//!
//! Must not know how it is carried out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;

use super::{
    Nodes,
    claims::Claims,
    member::Member,
    tunnel::{gateway, has_own_address, overhead, vtep_mac},
    types::{Mode, Plan, Remark, Settings, Target, Tunnel, TunnelPeer, Underlay, Way},
};

/// The least MTU that IPv6 works with (RFC 8200, 5).
const LEAST_V6_MTU: u32 = 1280;

/// The addresses of other nodes, to ask the kernel for the ways to them.
pub fn peer_addresses(nodes: &Nodes, settings: &Settings) -> BTreeSet<IpAddr> {
    let others = nodes.values().filter(|node| node.name != settings.node_name);
    others.flat_map(|node| Member::new(node).addresses().collect::<Vec<_>>()).collect()
}

/// Decides.
pub fn plan(nodes: &Nodes, settings: &Settings, underlay: &Underlay) -> Plan {
    let (own, others): (Vec<Member>, Vec<Member>) =
        nodes.values().map(Member::new).partition(|member| member.name == settings.node_name);
    let own = own.into_iter().next();
    let mut planner = Planner::new(settings, underlay, own.as_ref());
    planner.own_prefixes(own.as_ref(), &others);
    for member in &others {
        planner.peer(member);
    }
    planner.finish(own.as_ref())
}

struct Planner<'a> {
    settings: &'a Settings,
    underlay: &'a Underlay,
    claims: Claims,
    /// This node's outer address.
    local: Option<IpAddr>,
    peers: BTreeMap<[u8; 6], TunnelPeer>,
    /// MTU of each way that is used directly, and through the tunnel.
    direct_mtus: BTreeSet<u32>,
    tunnel_mtus: BTreeSet<u32>,
    /// A node cannot be reached now: it may be by the tunnel, later.
    any_lost: bool,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn new(settings: &'a Settings, underlay: &'a Underlay, own: Option<&Member>) -> Self {
        let on_device = |address: &IpAddr| underlay.addresses.contains_key(address);
        let own_address = |is_v4: bool| {
            let primary = || underlay.primary.iter().copied().find(|address| address.is_ipv4() == is_v4);
            own.and_then(|own| own.like(is_v4)).filter(on_device).or_else(primary)
        };
        Self {
            settings,
            underlay,
            claims: Claims::default(),
            local: own_address(true).or_else(|| own_address(false)),
            peers: BTreeMap::new(),
            direct_mtus: BTreeSet::new(),
            tunnel_mtus: BTreeSet::new(),
            any_lost: false,
            plan: Plan::default(),
        }
    }

    fn remark(&mut self, node: &str, text: String) {
        self.plan.remarks.insert(Remark { node: node.to_owned(), text });
    }

    /// This node's prefixes come before those of all others.
    fn own_prefixes(&mut self, own: Option<&Member>, others: &[Member]) {
        let nodes: BTreeSet<IpAddr> = others.iter().chain(own).flat_map(Member::addresses).collect();
        self.plan.inside.extend(nodes.iter().map(|address| IpNetwork::from(*address)));
        self.claims = Claims::new(nodes);
        for network in self.own_cidrs(own) {
            match self.take(network, &self.settings.node_name) {
                Ok(()) => self.plan.pod_cidrs.push(network),
                Err(problem) => self.remark(&self.settings.node_name, problem),
            }
        }
    }

    fn take(&mut self, network: IpNetwork, owner: &str) -> Result<(), String> {
        self.claims.take(network, owner)?;
        self.plan.inside.insert(network);
        Ok(())
    }

    /// As told by the administrator, else as the Node object says.
    fn own_cidrs(&self, own: Option<&Member>) -> Vec<IpNetwork> {
        if self.settings.pod_cidrs.is_empty() {
            return own.map(|own| own.cidrs.clone()).unwrap_or_default();
        }
        let whole = |network: &IpNetwork| IpNetwork::new(network.network(), network.prefix()).ok();
        self.settings.pod_cidrs.iter().filter_map(whole).collect()
    }

    fn peer(&mut self, member: &Member) {
        for problem in &member.problems {
            self.remark(&member.name, problem.clone());
        }
        if member.addresses().any(|address| self.underlay.addresses.contains_key(&address)) {
            let text = "it has an address of this node: no route is made to it; is --node-name right?";
            return self.remark(&member.name, text.to_owned());
        }
        for network in &member.cidrs {
            let taken = self.take(*network, &member.name);
            if self.settings.mode == Mode::None {
                continue;
            }
            match taken.and_then(|()| self.target(member, *network)) {
                Ok(target) => {
                    if matches!(target, Target::Tunnel { .. }) {
                        self.behind_tunnel(member, network.is_ipv4());
                    }
                    self.plan.routes.insert(*network, target);
                }
                Err(problem) => self.remark(&member.name, problem),
            }
        }
    }

    fn behind_tunnel(&mut self, member: &Member, is_v4: bool) {
        let address = member.like(is_v4).map(IpNetwork::from);
        self.plan.behind_tunnel.extend(address);
    }

    fn target(&mut self, member: &Member, network: IpNetwork) -> Result<Target, String> {
        let near = member.like(network.is_ipv4());
        let way = near.and_then(|address| self.underlay.ways.get(&address).copied());
        match (self.settings.mode, near, way) {
            (Mode::Vxlan, ..) | (Mode::Auto, None, _) => self.tunnel(member, network),
            (_, None, _) => Err(format!(
                "it has no InternalIP of the family of {network}: no route is made to it; give it one, or set \
                 --routing=auto"
            )),
            (_, Some(address), None) => {
                self.any_lost = true;
                Err(format!("the kernel has no route to its address {address}: none is made to {network}"))
            }
            (_, Some(gateway), Some(Way { device, mtu, is_on_link: true })) => {
                self.direct_mtus.insert(mtu);
                Ok(Target::Direct { gateway, device })
            }
            (Mode::Auto, Some(_), Some(_)) => self.tunnel(member, network),
            (_, Some(address), Some(_)) => Err(format!(
                "a router is between this node and its address {address}: no route is made to {network}; \
                 set --routing=auto, or none if the routers know it"
            )),
        }
    }

    fn tunnel(&mut self, member: &Member, network: IpNetwork) -> Result<Target, String> {
        let Some(local) = self.local else {
            return Err("this node has no address for a tunnel to it".to_owned());
        };
        let Some(address) = member.like(local.is_ipv4()) else {
            let family = if local.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(format!(
                "it has no {family} InternalIP for a tunnel to it: no route is made to {network}"
            ));
        };
        let mac = vtep_mac(&member.name);
        if mac == vtep_mac(&self.settings.node_name) {
            return Err(format!(
                "its tunnel's Ethernet address would be this node's: rename it; {network} is lost"
            ));
        }
        let peer = self.peers.entry(mac).or_insert(TunnelPeer { address, gateways: BTreeSet::new() });
        if peer.address != address {
            return Err(format!(
                "its tunnel's Ethernet address would be another's: rename it; {network} is lost"
            ));
        }
        let gateway = gateway(network);
        peer.gateways.insert(gateway);
        self.tunnel_mtus.extend(self.underlay.ways.get(&address).map(|way| way.mtu));
        Ok(Target::Tunnel { gateway })
    }

    fn finish(mut self, own: Option<&Member>) -> Plan {
        if self.settings.mode != Mode::None {
            let own = self.plan.pod_cidrs.iter().map(|network| (*network, Target::Unreachable));
            self.plan.routes.extend(own);
        }
        self.plan.node_addresses.extend(self.underlay.addresses.keys());
        self.plan.node_addresses.extend(own.into_iter().flat_map(Member::addresses));
        self.plan.tunnel = self.device();
        let inner = self.plan.tunnel.iter().flat_map(|tunnel| &tunnel.addresses);
        self.plan.node_addresses.extend(inner);
        self.plan.obstacle = self.obstacle(own);
        self.mtu();
        self.plan
    }

    /// With [`Mode::Vxlan`] there is a device also while no node is on the other side.
    fn device(&mut self) -> Option<Tunnel> {
        let local = self.local.filter(|_| self.settings.mode == Mode::Vxlan || !self.peers.is_empty())?;
        let prefixes = self.plan.pod_cidrs.iter().filter(|network| has_own_address(**network));
        Some(Tunnel {
            vni: self.settings.vni,
            port: self.settings.port,
            local,
            mac: vtep_mac(&self.settings.node_name),
            mtu: self.tunnel_mtu(local)?,
            addresses: prefixes.map(|network| gateway(*network)).collect(),
            peers: std::mem::take(&mut self.peers),
        })
    }

    fn tunnel_mtu(&self, local: IpAddr) -> Option<u32> {
        let own = self.underlay.addresses.get(&local).map(|uplink| uplink.mtu);
        let least = self.tunnel_mtus.first().copied().into_iter().chain(own).min()?;
        Some(least.saturating_sub(overhead(local)))
    }

    fn direct_mtu(&self) -> Option<u32> {
        let local = self.local.and_then(|local| self.underlay.addresses.get(&local));
        self.direct_mtus.first().copied().into_iter().chain(local.map(|uplink| uplink.mtu)).min()
    }

    fn mtu(&mut self) {
        let may_tunnel = self.settings.mode == Mode::Auto && self.any_lost;
        let tunnel = self.plan.tunnel.as_ref().map(|tunnel| tunnel.mtu);
        let later = self.local.filter(|_| may_tunnel).and_then(|local| self.tunnel_mtu(local));
        let found = [self.direct_mtu(), tunnel, later].into_iter().flatten().min();
        self.plan.mtu = self.settings.pod_mtu.or(found).unwrap_or_default();
        let has_v6 = self.plan.pod_cidrs.iter().any(IpNetwork::is_ipv6);
        if has_v6 && self.plan.mtu < LEAST_V6_MTU && self.plan.obstacle.is_none() {
            let text = format!("pods get an MTU of {}, with which IPv6 does not work", self.plan.mtu);
            self.remark(&self.settings.node_name, text);
        }
    }

    fn obstacle(&self, own: Option<&Member>) -> Option<String> {
        let Settings { node_name, mode, pod_mtu, .. } = self.settings;
        if own.is_none() {
            return Some(format!("there is no Node `{node_name}`: start its kubelet, or set --node-name"));
        }
        if self.plan.pod_cidrs.is_empty() {
            return Some(format!(
                "Node `{node_name}` has no usable spec.podCIDRs: run the controller manager with \
                 --allocate-node-cidrs, or set --pod-cidrs"
            ));
        }
        let needs_address = pod_mtu.is_none() || *mode == Mode::Vxlan;
        (self.local.is_none() && needs_address).then(|| {
            format!("no device of Node `{node_name}` has an address: set up its network, or the kubelet's --node-ip")
        })
    }
}
