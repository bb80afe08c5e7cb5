//! Carrying out a step by rtnetlink.
//!
//! Works on the network namespace of the calling thread. Must not know why a step is taken.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{InfoVxlan, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use proxy_core::nodes::{Target, Tunnel};
use rtnetlink::{Error, Handle, LinkMessageBuilder, LinkUnspec, LinkVxlan};

use super::{
    DEVICE, PROTOCOL,
    state::Route,
    steps::{Step, metric},
};

/// What the kernel says of something to remove that is not there.
const GONE: [i32; 4] = [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL];

/// Does it. `device` is the tunnel's, by the kernel's index, if there is one.
pub(super) async fn apply(handle: &Handle, step: &Step, device: Option<u32>) -> Result<(), Error> {
    match carry_out(handle, step, device).await {
        Err(Error::NetlinkError(message)) if step.removes() && GONE.contains(&message.raw_code().abs()) => {
            Ok(())
        }
        done => done,
    }
}

async fn carry_out(handle: &Handle, step: &Step, device: Option<u32>) -> Result<(), Error> {
    let index = device.unwrap_or_default();
    match step {
        Step::RemoveDevice(index) => handle.link().del(*index).execute().await,
        Step::MakeDevice(tunnel) => handle.link().add(vxlan(tunnel)).execute().await,
        Step::MendDevice(mtu) => {
            let change = LinkMessageBuilder::<LinkUnspec>::new().index(index).mtu(*mtu).up().build();
            handle.link().set(change).execute().await
        }
        Step::AddAddress(address) => {
            let mut request = handle.address().add(index, *address, single(*address)).replace();
            // Nobody else can have it, and it is needed at once.
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            request.execute().await
        }
        Step::RemoveAddress(address) => handle.address().del(address_of(index, *address)).execute().await,
        Step::SetNeighbour(address, mac) => {
            handle.neighbours().add(index, *address).link_layer_address(mac).replace().execute().await
        }
        Step::RemoveNeighbour(address) => handle.neighbours().del(neighbour(index, *address)).execute().await,
        Step::SetForwarding(mac, address) => set_forwarding(handle, index, mac, *address).await,
        Step::RemoveForwarding(mac, address) => {
            handle.neighbours().del(forwarding(index, mac, *address)).execute().await
        }
        Step::SetRoute(network, target) => {
            handle.route().add(route(*network, *target, index)).replace().execute().await
        }
        Step::RemoveRoute(found) => handle.route().del(found_route(found)).execute().await,
    }
}

fn single(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Nothing is learnt: every other end is told. The Ethernet address is explicit, so that nobody exchanges it.
fn vxlan(tunnel: &Tunnel) -> LinkMessage {
    let local = match tunnel.local {
        IpAddr::V4(v4) => InfoVxlan::Local(v4),
        IpAddr::V6(v6) => InfoVxlan::Local6(v6),
    };
    LinkVxlan::new(DEVICE, tunnel.vni)
        .append_info_data(local)
        .append_info_data(InfoVxlan::Port(tunnel.port))
        .append_info_data(InfoVxlan::Learning(false))
        .mtu(tunnel.mtu)
        .address(tunnel.mac.to_vec())
        .up()
        .build()
}

fn address_of(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.index = index;
    message.header.prefix_len = single(address);
    message.attributes.push(AddressAttribute::Local(address));
    message
}

fn neighbour(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(outer(address)));
    message
}

fn outer(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }
}

fn forwarding(index: u32, mac: &[u8; 6], address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(outer(address)));
    message
}

async fn set_forwarding(handle: &Handle, index: u32, mac: &[u8; 6], address: IpAddr) -> Result<(), Error> {
    let mut request = handle.neighbours().add_bridge(index, mac).replace();
    *request.message_mut() = forwarding(index, mac, address);
    request.execute().await
}

fn route(network: IpNetwork, target: Target, tunnel: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(network.ip());
    message.header.destination_prefix_length = network.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Destination(route_address(network.network())));
    let (gateway, device) = match target {
        Target::Direct { gateway, device } => (gateway, device),
        Target::Tunnel { gateway } => {
            message.header.flags = RouteFlags::Onlink;
            (gateway, tunnel)
        }
        Target::Unreachable => {
            message.header.kind = RouteType::Unreachable;
            message.attributes.push(RouteAttribute::Priority(metric(network, target)));
            return message;
        }
    };
    message.attributes.push(RouteAttribute::Gateway(route_address(gateway)));
    message.attributes.push(RouteAttribute::Oif(device));
    message.attributes.push(RouteAttribute::Priority(metric(network, target)));
    message
}

/// Names it closely enough that no other goes in its place.
fn found_route(found: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(found.network.ip());
    message.header.destination_prefix_length = found.network.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.scope = RouteScope::NoWhere;
    message.attributes.push(RouteAttribute::Destination(route_address(found.network.network())));
    message.attributes.extend(found.gateway.map(|gateway| RouteAttribute::Gateway(route_address(gateway))));
    message.attributes.extend(found.device.map(RouteAttribute::Oif));
    message.attributes.push(RouteAttribute::Priority(found.metric));
    message
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}
