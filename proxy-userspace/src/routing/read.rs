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
    neighbour::{NeighbourAttribute, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
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

/// Everything there is now.
pub(super) async fn read(handle: &Handle) -> Result<State, ReadError> {
    let mut read = State::default();
    let links = handle.link().get().set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
    let mut names = BTreeMap::new();
    each("links", links.execute(), |message| {
        names.extend(state::name_of(&message).map(|name| (message.header.index, name.clone())));
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
            let advertised = state::device(&message).filter(|_| message.header.protocol == RouteProtocol::Ra);
            read.advertised.extend(advertised.and_then(|index| names.get(&index)).cloned());
            state::found(&message).into_iter().for_each(|it| read.take_route(it));
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

/// Whether a notification may mean work: what the plugin and we ourselves add does not. `tunnel` is the index of our
/// device.
pub(super) fn matters(message: &NetlinkMessage<RouteNetlinkMessage>, tunnel: u32) -> bool {
    let NetlinkPayload::InnerMessage(message) = &message.payload else { return true };
    match message {
        RouteNetlinkMessage::NewRoute(route) => is_of_main_table(route) && !is_ours(route),
        RouteNetlinkMessage::DelRoute(route) => {
            is_of_main_table(route) && !(is_ours(route) && is_of_pod(route))
        }
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => !leads_to_pod(link),
        // The kernel asks for a neighbour itself where ours is gone.
        RouteNetlinkMessage::NewNeighbour(neighbour) => {
            neighbour.header.ifindex == tunnel && neighbour.header.state != NeighbourState::Permanent
        }
        RouteNetlinkMessage::DelNeighbour(neighbour) => neighbour.header.ifindex == tunnel,
        _ => true,
    }
}

fn is_of_main_table(route: &RouteMessage) -> bool {
    route.header.table == RouteHeader::RT_TABLE_MAIN
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

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;
    use netlink_packet_route::neighbour::NeighbourMessage;

    use super::*;

    const TUNNEL: u32 = 7;

    fn told(message: RouteNetlinkMessage) -> bool {
        matters(&NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message)), TUNNEL)
    }

    fn route(protocol: u8, has_gateway: bool) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.protocol = protocol.into();
        route.header.kind = RouteType::Unicast;
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, 2].into()));
        route.attributes.extend(has_gateway.then_some(gateway));
        route
    }

    fn neighbour(ifindex: u32, state: NeighbourState) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = ifindex;
        message.header.state = state;
        message
    }

    #[test]
    fn pods_that_come_and_go_mean_no_work_and_a_route_between_nodes_that_goes_does() {
        use RouteNetlinkMessage::{DelLink, DelRoute, NewLink, NewRoute};
        assert!(!told(NewRoute(route(PROTOCOL, false))) && !told(DelRoute(route(PROTOCOL, false))));
        assert!(!told(NewRoute(route(PROTOCOL, true))), "our own");
        assert!(told(DelRoute(route(PROTOCOL, true))));
        assert!(told(NewRoute(route(4, false))) && told(DelRoute(route(4, false))));
        let link = |name: &str| {
            let mut link = LinkMessage::default();
            link.attributes.push(LinkAttribute::IfName(name.to_owned()));
            link
        };
        assert!(!told(NewLink(link("shv0123456789ab"))) && !told(DelLink(link("shv0123456789ab"))));
        assert!(told(NewLink(link("eth0"))));
        let mut local = route(2, false);
        local.header.table = RouteHeader::RT_TABLE_MAIN + 1;
        assert!(!told(NewRoute(local)));
    }

    #[test]
    fn only_the_tunnels_neighbours_matter_and_a_loss_of_notifications_does() {
        use RouteNetlinkMessage::{DelNeighbour, NewNeighbour};
        assert!(told(DelNeighbour(neighbour(TUNNEL, NeighbourState::Failed))));
        assert!(told(NewNeighbour(neighbour(TUNNEL, NeighbourState::Incomplete))));
        assert!(!told(NewNeighbour(neighbour(TUNNEL, NeighbourState::Permanent))));
        assert!(!told(DelNeighbour(neighbour(2, NeighbourState::Stale))));
        let lost = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Overrun(Vec::new()));
        assert!(matters(&lost, TUNNEL));
    }
}
