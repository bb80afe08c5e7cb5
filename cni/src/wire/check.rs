//! Looks whether a pod's network is still as it was made.
//!
//! What a later plugin of a chain may change is not looked at: MAC addresses, kernel settings, the MTU of the pod's end, the
//! pod's routes but for there being a default route at all, and a further interface having its own. Must not change
//! anything.

use std::net::IpAddr;

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::AddressAttribute,
    link::{LinkAttribute, LinkFlags, LinkMessage},
    neighbour::NeighbourAttribute,
    route::RouteAttribute,
};

use super::{
    WireError, filter, guard,
    kernel::{find, pod_socket},
    message,
    netlink::Rtnetlink,
    netns::Namespace,
    plan, way_out,
};
use crate::{facts::Pins, record::Attachment};

/// What differs, a sentence each.
pub(super) fn check(attachment: &Attachment, pins: &Pins) -> Result<Vec<String>, WireError> {
    let path = &attachment.netns_path;
    let Some(namespace) = Namespace::open(path)? else {
        return Ok(vec![format!("{} is no network namespace any more", path.display())]);
    };
    if namespace.id != attachment.netns {
        return Ok(vec![format!("{} is another network namespace now", path.display())]);
    }
    let mut host = Rtnetlink::open().map_err(WireError::Socket)?;
    let Some(device) = find(&mut host, &attachment.host_device)? else {
        return Ok(vec![format!("device {} does not exist on the host", attachment.host_device)]);
    };
    let index = device.header.index;
    let mut found: Vec<String> = down(&attachment.host_device, &device).into_iter().collect();
    found.extend(other_mtu(&attachment.host_device, &device, attachment.mtu));
    found.extend(host_side(&mut host, attachment, index)?);
    found.extend(guarded(&mut host, attachment, pins, index)?);
    found.extend(pod_side(&namespace, attachment, index)?);
    Ok(found)
}

/// What is missing at the host's end, a sentence each; nothing if that end does not exist. Second, its index.
pub(super) fn missing_on_host(attachment: &Attachment) -> Result<(Vec<String>, u32), WireError> {
    let mut host = Rtnetlink::open().map_err(WireError::Socket)?;
    let Some(device) = find(&mut host, &attachment.host_device)? else { return Ok((Vec::new(), 0)) };
    let index = device.header.index;
    let mut missing: Vec<String> = down(&attachment.host_device, &device).into_iter().collect();
    missing.extend(host_side(&mut host, attachment, index)?);
    Ok((missing, index))
}

fn down(name: &str, link: &LinkMessage) -> Option<String> {
    (!link.header.flags.contains(LinkFlags::Up)).then(|| format!("device {name} is down"))
}

fn other_mtu(name: &str, link: &LinkMessage, mtu: u32) -> Option<String> {
    let mut attributes = link.attributes.iter();
    let has = attributes.find_map(|it| if let LinkAttribute::Mtu(mtu) = it { Some(*mtu) } else { None });
    (has != Some(mtu)).then(|| format!("the MTU of {name} is {} instead of {mtu}", has.unwrap_or_default()))
}

fn host_side(host: &mut Rtnetlink, attachment: &Attachment, index: u32) -> Result<Vec<String>, WireError> {
    let mut found = Vec::new();
    for address in attachment.addresses.iter().copied() {
        if !leads_to(host, address, index) {
            found.push(format!("the host's route to {address} does not lead to {}", attachment.host_device));
        }
        if neighbour(host, address, index)? != Some(attachment.pod_mac.0.to_vec()) {
            let device = &attachment.host_device;
            found.push(format!("the host does not know {} as {address} on {device}", attachment.pod_mac));
        }
    }
    Ok(found)
}

fn leads_to(host: &mut Rtnetlink, address: IpAddr, index: u32) -> bool {
    let way = host.get(message::way_to(address));
    matches!(way, Ok(RouteNetlinkMessage::NewRoute(way)) if way.attributes.contains(&RouteAttribute::Oif(index)))
}

fn neighbour(host: &mut Rtnetlink, address: IpAddr, index: u32) -> Result<Option<Vec<u8>>, WireError> {
    let mac = |attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => Some(mac),
        _ => None,
    };
    match host.get(message::neighbour_question(index, address)) {
        Ok(RouteNetlinkMessage::NewNeighbour(found)) => Ok(found.attributes.into_iter().find_map(mac)),
        Ok(_) => Ok(None),
        Err(refusal) if refusal.is(libc::ENOENT) => Ok(None),
        Err(refusal) => Err(WireError::kernel(format!("look for the neighbour {address}"))(refusal)),
    }
}

fn guarded(
    host: &mut Rtnetlink,
    attachment: &Attachment,
    pins: &Pins,
    index: u32,
) -> Result<Vec<String>, WireError> {
    let mut found = Vec::new();
    if !guard::is_recorded(pins, index, &plan::endpoint(attachment))? {
        found.push(format!("the guard of {} does not know the pod's addresses", attachment.host_device));
    }
    for side in plan::sides(attachment) {
        if !filter::is_attached(host, index, side)? {
            found.push(format!("no guard is attached to {} ({side:?})", attachment.host_device));
        }
    }
    if attachment.socket_lb_off && !guard::is_exempt(pins, attachment.netns.cookie)? {
        found.push("the pod's sockets are translated".to_owned());
    }
    Ok(found)
}

fn pod_side(namespace: &Namespace, attachment: &Attachment, peer: u32) -> Result<Vec<String>, WireError> {
    let mut pod = pod_socket(namespace)?;
    let name = attachment.id.ifname.as_str();
    let Some(link) = find(&mut pod, name)? else {
        return Ok(vec![format!("interface {name} does not exist in the pod")]);
    };
    if !link.attributes.contains(&LinkAttribute::Link(peer)) {
        return Ok(vec![format!("interface {name} is not the other end of {}", attachment.host_device)]);
    }
    let mut found: Vec<String> = down(name, &link).into_iter().collect();
    let present = addresses(&mut pod, link.header.index)?;
    for address in attachment.addresses.iter().copied() {
        if !present.contains(&address) {
            found.push(format!("interface {name} does not have the address {address}"));
        }
        let by_rule = attachment.by_rule.contains(&address);
        found.extend(way_out::missing(&mut pod, link.header.index, address, by_rule)?);
    }
    Ok(found)
}

fn addresses(pod: &mut Rtnetlink, index: u32) -> Result<Vec<IpAddr>, WireError> {
    let all =
        pod.dump(&message::addresses()).map_err(WireError::kernel("list the pod's addresses".into()))?;
    let ours = all.into_iter().filter_map(|found| match found {
        RouteNetlinkMessage::NewAddress(found) if found.header.index == index => Some(found),
        _ => None,
    });
    let address = |attribute| match attribute {
        AddressAttribute::Address(address) | AddressAttribute::Local(address) => Some(address),
        _ => None,
    };
    Ok(ours.flat_map(|found| found.attributes).filter_map(address).collect())
}
