//! Reading what the kernel has by rtnetlink, asking it for ways, and hearing that something changed.
//!
//! Works on the network namespace of the calling thread. Must not know what is decided from a reading.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use futures::TryStreamExt as _;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    neighbour::NeighbourAttribute,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType},
};
use proxy_core::nodes::{Underlay, Uplink, Way};
use rtnetlink::{Handle, MulticastGroup};

use super::{
    PROTOCOL,
    state::{self, Device, State},
};
use crate::devices::{
    DeviceAddress,
    netlink::{ReadError, each, of_main_table},
};

/// What can change a plan or undo what was done.
pub(super) const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// First byte of the Ethernet addresses of tunnels.
const TUNNEL_MAC: u8 = 0x06;

/// Everything there is now.
pub(super) async fn read(handle: &Handle) -> Result<State, ReadError> {
    let mut read = State::default();
    let links = handle.link().get().set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
    each("links", links.execute(), |message| {
        read.mtus.insert(message.header.index, state::mtu_of(&message));
        read.tunnel = read.tunnel.take().or_else(|| Device::of(&message));
    })
    .await?;
    let tunnel = read.tunnel.as_ref().map(|device| device.index);
    each("addresses", handle.address().get().execute(), |message| match DeviceAddress::of(&message) {
        Some(found) if Some(found.device) == tunnel => drop(read.inner.insert(found.address)),
        Some(found) => drop(read.addresses.insert(found.address, found.device)),
        None => {}
    })
    .await?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let routes = of_main_table(handle, family);
        each("routes", routes, |message| {
            state::found(&message).into_iter().for_each(|it| read.take_route(it))
        })
        .await?;
    }
    if let Some(index) = tunnel {
        neighbours(handle, index, &mut read).await?;
    }
    Ok(read)
}

async fn neighbours(handle: &Handle, tunnel: u32, read: &mut State) -> Result<(), ReadError> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge] {
        let mut request = handle.neighbours().get().set_address_family(family);
        request.message_mut().attributes.push(NeighbourAttribute::IfIndex(tunnel));
        each("neighbours", request.execute(), |message| read.take_neighbour(&message)).await?;
    }
    Ok(())
}

/// What a plan is made from.
pub(super) async fn underlay(
    handle: &Handle,
    state: &State,
    primary: &BTreeSet<IpAddr>,
    peers: &BTreeSet<IpAddr>,
) -> Underlay {
    let uplink = |(address, device): (&IpAddr, &u32)| {
        Some((*address, Uplink { device: *device, mtu: *state.mtus.get(device)? }))
    };
    let addresses: BTreeMap<_, _> = state.addresses.iter().filter_map(uplink).collect();
    let mut ways = BTreeMap::new();
    for peer in peers {
        ways.extend(way(handle, state, *peer).await.map(|way| (*peer, way)));
    }
    let primary = primary.iter().filter(|address| addresses.contains_key(address)).copied().collect();
    Underlay { addresses, primary, ways }
}

/// As the kernel would route it: with rules, metrics and all. `None` if it would not, or by our own tunnel.
async fn way(handle: &Handle, state: &State, peer: IpAddr) -> Option<Way> {
    let mut wanted = RouteMessage::default();
    let (family, length, address) = match peer {
        IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
    };
    wanted.header.address_family = family;
    wanted.header.destination_prefix_length = length;
    wanted.attributes.push(RouteAttribute::Destination(address));
    let answer = handle.route().get(wanted).execute();
    let route = std::pin::pin!(answer).try_next().await.ok()??;
    let device = state::device(&route)?;
    let is_tunnel = state.tunnel.as_ref().is_some_and(|tunnel| tunnel.index == device);
    if route.header.kind != RouteType::Unicast || is_tunnel {
        return None;
    }
    let mtu = state::route_mtu(&route).or_else(|| state.mtus.get(&device).copied())?;
    Some(Way { device, mtu, is_on_link: !state::has_router(&route) })
}

/// Whether a notification may mean work: what the plugin and we ourselves add does not.
pub(super) fn matters(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    let NetlinkPayload::InnerMessage(message) = &message.payload else { return true };
    match message {
        RouteNetlinkMessage::NewRoute(route) => is_of_main_table(route) && !is_ours(route),
        RouteNetlinkMessage::DelRoute(route) => {
            is_of_main_table(route) && !(is_ours(route) && is_of_pod(route))
        }
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => !leads_to_pod(link),
        RouteNetlinkMessage::NewNeighbour(_) => false,
        RouteNetlinkMessage::DelNeighbour(neighbour) => {
            state::link_address(neighbour).is_some_and(|[first, ..]| first == TUNNEL_MAC)
        }
        _ => true,
    }
}

fn is_of_main_table(route: &RouteMessage) -> bool {
    route.header.table == netlink_packet_route::route::RouteHeader::RT_TABLE_MAIN
}

fn is_ours(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::from(PROTOCOL)
}

fn is_of_pod(route: &RouteMessage) -> bool {
    state::gateway(route).is_none() && route.header.kind == RouteType::Unicast
}

fn leads_to_pod(link: &LinkMessage) -> bool {
    link.attributes.iter().any(
        |it| matches!(it, LinkAttribute::IfName(name) if name.starts_with(cni::record::HOST_DEVICE_PREFIX)),
    )
}
