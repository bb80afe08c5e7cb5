//! Which addresses pods of this node have, by the kernel's word: where its routes lead.
//!
//! For when what was remembered of a pod is lost. Must not know where addresses come from.

use std::net::IpAddr;

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::LinkAttribute,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
};

use super::{SHEAVE_PROTOCOL, WireError, message, netlink::Rtnetlink};
use crate::record::{Attachment, HOST_DEVICE_PREFIX};

/// An address and the device of the pod that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The address.
    pub address: IpAddr,
    /// Name of the host's end.
    pub host_device: String,
}

/// If the kernel has one of the attachment's addresses lead to another pod: all addresses of the families concerned that
/// lead to other pods. Otherwise nothing.
pub(super) fn by_others(attachment: &Attachment) -> Result<Vec<Held>, WireError> {
    let mut host = Rtnetlink::open().map_err(WireError::Socket)?;
    let mut all = Vec::new();
    for address in attachment.addresses.iter().copied() {
        let way = host.get(message::way_to(address));
        let Ok(RouteNetlinkMessage::NewRoute(way)) = way else { continue };
        if other_pod(&mut host, &way, attachment).is_some() {
            all.extend(every(&mut host, address, attachment)?);
        }
    }
    Ok(all)
}

fn every(host: &mut Rtnetlink, like: IpAddr, attachment: &Attachment) -> Result<Vec<Held>, WireError> {
    let attempt = WireError::kernel("list the host's routes to pods".to_owned());
    let routes = host.dump(&message::routes_like(like)).map_err(attempt)?;
    let mut held = Vec::new();
    for route in routes {
        let RouteNetlinkMessage::NewRoute(route) = route else { continue };
        let ours = route.header.protocol == RouteProtocol::from(SHEAVE_PROTOCOL);
        let Some(address) = destination(&route).filter(|_| ours) else { continue };
        let device = other_pod(host, &route, attachment);
        held.extend(device.map(|host_device| Held { address, host_device }));
    }
    Ok(held)
}

fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

/// The host's end of another pod, if the way goes through one.
fn other_pod(host: &mut Rtnetlink, way: &RouteMessage, attachment: &Attachment) -> Option<String> {
    let out =
        |attribute: &RouteAttribute| if let RouteAttribute::Oif(it) = attribute { Some(*it) } else { None };
    let index = way.attributes.iter().find_map(out)?;
    // One that is gone by now has no pod.
    let Ok(RouteNetlinkMessage::NewLink(link)) = host.get(message::link(index)) else { return None };
    let name = link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })?;
    (name.starts_with(HOST_DEVICE_PREFIX) && name != attachment.host_device).then_some(name)
}
