//! What the kernel has of what routing keeps, out of netlink messages.
//!
//! Must not know how they were read, nor what should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use netlink_packet_route::{
    AddressFamily,
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
        RouteType,
    },
};

use super::{DEVICE, PROTOCOL};

/// One complete reading.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct State {
    /// MTU of each device, bytes, by the kernel's index.
    pub(super) mtus: BTreeMap<u32, u32>,
    /// Names of devices on which a router has advertised routes.
    pub(super) advertised: BTreeSet<String>,
    /// The device called [`DEVICE`].
    pub(super) tunnel: Option<Device>,
    /// Global addresses of other devices.
    pub(super) addresses: BTreeMap<IpAddr, u32>,
    /// Those of the tunnel's device.
    pub(super) inner: BTreeSet<IpAddr>,
    /// Our routes to other nodes, and to nowhere.
    pub(super) routes: Vec<Route>,
    /// Others' routes of the main table: the least metric by destination.
    pub(super) foreign: BTreeMap<IpNetwork, u32>,
    /// The tunnel's permanent neighbours.
    pub(super) neighbours: BTreeMap<IpAddr, [u8; 6]>,
    /// The tunnel's forwarding entries.
    pub(super) forwarding: BTreeSet<([u8; 6], IpAddr)>,
}

/// The device called [`DEVICE`].
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Device {
    pub(super) index: u32,
    /// It is of the kind that we make.
    pub(super) is_vxlan: bool,
    pub(super) vni: u32,
    pub(super) port: u16,
    pub(super) local: Option<IpAddr>,
    pub(super) learns: bool,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: u32,
    pub(super) is_up: bool,
}

/// A route of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) network: IpNetwork,
    /// `None`: it leads nowhere.
    pub(super) gateway: Option<IpAddr>,
    pub(super) device: Option<u32>,
    pub(super) metric: u32,
    pub(super) is_onlink: bool,
}

/// A route of the main table that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Between nodes.
    Ours(Route),
    /// Destination and metric.
    Foreign(IpNetwork, u32),
}

impl Device {
    /// `None` for a device of another name.
    pub(super) fn of(message: &LinkMessage) -> Option<Self> {
        name_of(message).filter(|name| *name == DEVICE)?;
        let is_up = message.header.flags.contains(LinkFlags::Up);
        let mut device = Self { index: message.header.index, is_up, ..Self::default() };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
                LinkAttribute::Address(bytes) => device.mac = bytes.as_slice().try_into().ok(),
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| device.take(info)),
                _ => {}
            }
        }
        Some(device)
    }

    fn take(&mut self, info: &LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.is_vxlan = *kind == InfoKind::Vxlan,
            LinkInfo::Data(InfoData::Vxlan(details)) => details.iter().for_each(|it| self.take_detail(it)),
            _ => {}
        }
    }

    fn take_detail(&mut self, detail: &InfoVxlan) {
        match detail {
            InfoVxlan::Id(vni) => self.vni = *vni,
            InfoVxlan::Port(port) => self.port = *port,
            InfoVxlan::Local(address) => self.local = Some((*address).into()),
            InfoVxlan::Local6(address) => self.local = Some((*address).into()),
            InfoVxlan::Learning(learns) => self.learns = *learns,
            _ => {}
        }
    }
}

pub(super) fn name_of(message: &LinkMessage) -> Option<&String> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })
}

pub(super) fn mtu_of(message: &LinkMessage) -> u32 {
    let find = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    };
    message.attributes.iter().find_map(find).unwrap_or_default()
}

/// `None` for routes of other tables, and for the plugin's.
pub(super) fn found(message: &RouteMessage) -> Option<Found> {
    if message.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let network = destination(message)?;
    let metric = metric(message);
    if message.header.protocol != RouteProtocol::from(PROTOCOL) {
        return Some(Found::Foreign(network, metric));
    }
    let gateway = gateway(message);
    let leads_nowhere = message.header.kind == RouteType::Unreachable;
    (gateway.is_some() || leads_nowhere).then(|| {
        let device = device(message).filter(|_| !leads_nowhere);
        let is_onlink = message.header.flags.contains(RouteFlags::Onlink);
        Found::Ours(Route { network, gateway, device, metric, is_onlink })
    })
}

fn destination(message: &RouteMessage) -> Option<IpNetwork> {
    let find = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    };
    let address = message.attributes.iter().find_map(find)?;
    IpNetwork::new(address, message.header.destination_prefix_length).ok()
}

pub(super) fn gateway(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        _ => None,
    })
}

/// Whether somebody is asked to send on: also by an address of the other family, or one of several.
pub(super) fn has_router(message: &RouteMessage) -> bool {
    let leads_on = |attribute: &RouteAttribute| {
        matches!(
            attribute,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_)
        )
    };
    message.attributes.iter().any(leads_on)
}

pub(super) fn device(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn metric(message: &RouteMessage) -> u32 {
    let find = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    };
    message.attributes.iter().find_map(find).unwrap_or_default()
}

/// MTU that a route has of its own.
pub(super) fn route_mtu(message: &RouteMessage) -> Option<u32> {
    let of = |metrics: &Vec<RouteMetric>| {
        metrics.iter().find_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None })
    };
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => of(metrics),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

impl State {
    pub(super) fn take_route(&mut self, found: Found) {
        match found {
            Found::Ours(route) => self.routes.push(route),
            Found::Foreign(network, metric) => {
                let least = self.foreign.entry(network).or_insert(metric);
                *least = metric.min(*least);
            }
        }
    }

    /// Of the tunnel's device; others' are left out.
    pub(super) fn take_neighbour(&mut self, message: &NeighbourMessage) {
        let is_ours = self.tunnel.as_ref().is_some_and(|tunnel| tunnel.index == message.header.ifindex);
        let (Some(mac), Some(address)) = (link_address(message), inner_address(message)) else { return };
        if !is_ours {
            return;
        }
        if message.header.family == AddressFamily::Bridge {
            self.forwarding.insert((mac, address));
        } else if message.header.state == NeighbourState::Permanent {
            self.neighbours.insert(address, mac);
        }
    }
}

fn link_address(message: &NeighbourMessage) -> Option<[u8; 6]> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

/// In a forwarding entry the family is the bridge's, and the address mere bytes.
fn inner_address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some((*v4).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some((*v6).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
        }
        _ => None,
    })
}
