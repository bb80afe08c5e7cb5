//! From what the kernel has to what it should have, in an order in which each step can be carried out: what a route
//! needs is there before it (the kernel would ask for neighbours that nobody answers for), and goes after it.
//!
//! Pure. Must not know how a step is carried out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use proxy_core::nodes::{Plan, Remark, Target, Tunnel, TunnelPeer};

use super::{
    DEVICE,
    state::{Device, Route, State},
};

/// Metric of routes to nowhere: anybody else's route is better.
const LAST: u32 = u32::MAX;
/// The kernel's own choice for routes of IPv6 (`IP6_RT_PRIO_USER`).
const V6_METRIC: u32 = 1024;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Removes the tunnel's device and whatever leads through it.
    RemoveDevice(u32),
    /// Makes it.
    MakeDevice(Tunnel),
    /// Sets its MTU and brings it up.
    MendDevice(u32),
    /// Gives the device an address.
    AddAddress(IpAddr),
    /// Takes one away.
    RemoveAddress(IpAddr),
    /// The Ethernet address behind an address inside of the tunnel.
    SetNeighbour(IpAddr, [u8; 6]),
    /// Forgets it.
    RemoveNeighbour(IpAddr),
    /// The node behind an Ethernet address.
    SetForwarding([u8; 6], IpAddr),
    /// Forgets it.
    RemoveForwarding([u8; 6], IpAddr),
    /// Makes or replaces a route.
    SetRoute(IpNetwork, Target),
    /// Removes one.
    RemoveRoute(Route),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveDevice(_) => write!(f, "remove the device {DEVICE}"),
            Self::MakeDevice(tunnel) => {
                write!(
                    f,
                    "make the device {DEVICE}, VNI {}, UDP port {}, from {}",
                    tunnel.vni, tunnel.port, tunnel.local
                )
            }
            Self::MendDevice(mtu) => write!(f, "set {DEVICE} up with an MTU of {mtu}"),
            Self::AddAddress(address) => write!(f, "give {address} to {DEVICE}"),
            Self::RemoveAddress(address) => write!(f, "take {address} from {DEVICE}"),
            Self::SetNeighbour(address, _) => write!(f, "set the neighbour {address} on {DEVICE}"),
            Self::RemoveNeighbour(address) => write!(f, "remove the neighbour {address} from {DEVICE}"),
            Self::SetForwarding(_, address) => write!(f, "set the tunnel to {address}"),
            Self::RemoveForwarding(_, address) => write!(f, "remove the tunnel to {address}"),
            Self::SetRoute(network, Target::Direct { gateway, .. }) => {
                write!(f, "route {network} by {gateway}")
            }
            Self::SetRoute(network, Target::Tunnel { .. }) => write!(f, "route {network} by {DEVICE}"),
            Self::SetRoute(network, Target::Unreachable) => write!(f, "route {network} to nowhere"),
            Self::RemoveRoute(route) => write!(f, "remove the route to {}", route.network),
        }
    }
}

impl Step {
    /// What it takes away may be gone already.
    pub(super) fn removes(&self) -> bool {
        matches!(
            self,
            Self::RemoveDevice(_)
                | Self::RemoveAddress(_)
                | Self::RemoveNeighbour(_)
                | Self::RemoveForwarding(..)
                | Self::RemoveRoute(_)
        )
    }
}

/// Metric of a route to it.
pub(super) fn metric(network: IpNetwork, target: Target) -> u32 {
    match (target, network) {
        (Target::Unreachable, _) => LAST,
        (_, IpNetwork::V6(_)) => V6_METRIC,
        (_, IpNetwork::V4(_)) => 0,
    }
}

/// What to do, and what stands in the way of the rest.
pub(super) fn steps(plan: &Plan, state: &State) -> (Vec<Step>, BTreeSet<Remark>) {
    let mut differ = Differ { plan, state, order: Order::default(), remarks: BTreeSet::new() };
    let device = differ.device();
    differ.routes(device);
    if let Some(tunnel) = plan.tunnel.as_ref().filter(|_| device != Outcome::Absent) {
        let fresh = State::default();
        let has = if device == Outcome::Fresh { &fresh } else { state };
        differ.addresses(tunnel, has);
        differ.neighbours(tunnel, has);
        differ.forwarding(tunnel, has);
    }
    (differ.order.in_turn(), differ.remarks)
}

/// Steps by when their turn is.
#[derive(Debug, Default)]
struct Order {
    device: Vec<Step>,
    /// What routes need.
    needs: Vec<Step>,
    routes: Vec<Step>,
    stale_routes: Vec<Step>,
    stale_needs: Vec<Step>,
    stale_device: Vec<Step>,
}

impl Order {
    fn in_turn(self) -> Vec<Step> {
        let made = [self.device, self.needs, self.routes];
        made.into_iter().chain([self.stale_routes, self.stale_needs, self.stale_device]).flatten().collect()
    }
}

/// The tunnel's device afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The one that is there, by its index.
    Kept(u32),
    /// A new one: nothing of the old is left.
    Fresh,
    /// None of ours.
    Absent,
}

struct Differ<'a> {
    plan: &'a Plan,
    state: &'a State,
    order: Order,
    remarks: BTreeSet<Remark>,
}

impl Differ<'_> {
    fn device(&mut self) -> Outcome {
        match (&self.plan.tunnel, &self.state.tunnel) {
            (None, None) => Outcome::Absent,
            (Some(_), Some(device)) if !device.is_vxlan => {
                self.remark(format!("{DEVICE} is not of our making: rename or remove it"));
                Outcome::Absent
            }
            (None, Some(device)) => {
                if device.is_vxlan {
                    self.order.stale_device.push(Step::RemoveDevice(device.index));
                }
                Outcome::Kept(device.index)
            }
            (Some(tunnel), Some(device)) if is_same(tunnel, device) => {
                if device.mtu != tunnel.mtu || !device.is_up {
                    self.order.device.push(Step::MendDevice(tunnel.mtu));
                }
                Outcome::Kept(device.index)
            }
            (Some(tunnel), old) => {
                self.order.device.extend(old.as_ref().map(|device| Step::RemoveDevice(device.index)));
                self.order.device.push(Step::MakeDevice(tunnel.clone()));
                Outcome::Fresh
            }
        }
    }

    fn addresses(&mut self, tunnel: &Tunnel, state: &State) {
        let missing = tunnel.addresses.difference(&state.inner);
        self.order.needs.extend(missing.map(|address| Step::AddAddress(*address)));
        let extra = state.inner.difference(&tunnel.addresses);
        self.order.stale_needs.extend(extra.map(|address| Step::RemoveAddress(*address)));
    }

    fn neighbours(&mut self, tunnel: &Tunnel, state: &State) {
        let of_peer = |(mac, peer): (&[u8; 6], &TunnelPeer)| {
            let mac = *mac;
            peer.gateways.iter().map(move |gateway| (*gateway, mac)).collect::<Vec<_>>()
        };
        let wanted: BTreeMap<IpAddr, [u8; 6]> = tunnel.peers.iter().flat_map(of_peer).collect();
        let missing = wanted.iter().filter(|(address, mac)| state.neighbours.get(address) != Some(mac));
        self.order.needs.extend(missing.map(|(address, mac)| Step::SetNeighbour(*address, *mac)));
        let extra = state.neighbours.keys().filter(|address| !wanted.contains_key(address));
        self.order.stale_needs.extend(extra.map(|address| Step::RemoveNeighbour(*address)));
    }

    fn forwarding(&mut self, tunnel: &Tunnel, state: &State) {
        let entry = |mac: &[u8; 6]| Some((*mac, tunnel.peers.get(mac)?.address));
        let is_there = |mac: &[u8; 6]| entry(mac).is_some_and(|entry| state.forwarding.contains(&entry));
        let missing = tunnel.peers.iter().filter(|(mac, _)| !is_there(mac));
        self.order.needs.extend(missing.map(|(mac, peer)| Step::SetForwarding(*mac, peer.address)));
        // Setting an entry replaces what was there for the same Ethernet address.
        let is_extra = |(mac, address): &&([u8; 6], IpAddr)| match entry(mac) {
            Some(wanted) => wanted != (*mac, *address) && is_there(mac),
            None => true,
        };
        let extra = state.forwarding.iter().filter(is_extra);
        self.order.stale_needs.extend(extra.map(|(mac, address)| Step::RemoveForwarding(*mac, *address)));
    }

    fn routes(&mut self, device: Outcome) {
        for (network, target) in &self.plan.routes {
            self.route(*network, *target, device);
        }
        for route in &self.state.routes {
            let target = self.plan.routes.get(&route.network);
            let is_replaced = target.is_some_and(|target| metric(route.network, *target) == route.metric);
            let goes_with_device = device == Outcome::Fresh && self.is_by_tunnel(route);
            if !is_replaced && !goes_with_device {
                self.order.stale_routes.push(Step::RemoveRoute(route.clone()));
            }
        }
    }

    fn route(&mut self, network: IpNetwork, target: Target, device: Outcome) {
        if matches!(target, Target::Tunnel { .. }) && device == Outcome::Absent {
            return;
        }
        let metric = metric(network, target);
        let better = self.state.foreign.get(&network).filter(|foreign| **foreign <= metric);
        if better.is_some() && target != Target::Unreachable {
            return self.remark(format!(
                "another program has a route to {network}, so ours is not made: remove that, or set --routing=none"
            ));
        }
        let wanted = Route {
            network,
            gateway: match target {
                Target::Direct { gateway, .. } | Target::Tunnel { gateway } => Some(gateway),
                Target::Unreachable => None,
            },
            device: match (target, device) {
                (Target::Direct { device, .. }, _) => Some(device),
                (Target::Tunnel { .. }, Outcome::Kept(index)) => Some(index),
                _ => None,
            },
            metric,
            is_onlink: matches!(target, Target::Tunnel { .. }),
        };
        if !self.state.routes.contains(&wanted) {
            self.order.routes.push(Step::SetRoute(network, target));
        }
    }

    fn is_by_tunnel(&self, route: &Route) -> bool {
        let tunnel = self.state.tunnel.as_ref().map(|device| device.index);
        tunnel.is_some() && route.device == tunnel
    }

    fn remark(&mut self, text: String) {
        self.remarks.insert(Remark { node: String::new(), text });
    }
}

/// What cannot be changed while the device exists, or not without losing what it has.
fn is_same(tunnel: &Tunnel, device: &Device) -> bool {
    device.vni == tunnel.vni
        && device.port == tunnel.port
        && device.local == Some(tunnel.local)
        && device.mac == Some(tunnel.mac)
        && !device.learns
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
