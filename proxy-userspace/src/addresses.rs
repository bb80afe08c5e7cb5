//! The addresses of this node's network devices, on which NodePorts are served, from rtnetlink.
//!
//! Level-triggered: any notification leads to a complete new reading, so that a lost one costs nothing but time.
//! Must not know what the addresses are used for.

use std::{collections::BTreeSet, io, net::IpAddr, time::Duration};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
};
use netlink_sys::{
    AsyncSocket, AsyncSocketExt as _, Socket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
};
use proxy_core::model::Event;
use tokio::{sync::mpsc, time};
use tracing::{debug, warn};

/// `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR` (linux/rtnetlink.h): an address came, went or changed its flags.
const GROUPS: [u32; 2] = [5, 9];

/// A device that comes up brings several notifications; they are answered by one reading.
const SETTLE: Duration = Duration::from_millis(20);

/// Pause after an error.
const RETRY: Duration = Duration::from_secs(5);

/// The kernel's index of a device and an address of it.
type Placed = (u32, IpAddr);

/// Sends the complete set of addresses at the start and after each change, until the receiver is dropped.
///
/// An error is logged and tried again; the last set stays with the receiver.
pub async fn run(events: mpsc::Sender<Event>) {
    let mut last = None;
    while !events.is_closed() {
        if let Err(error) = follow(&events, &mut last).await {
            warn!(%error, "cannot read the node's addresses; trying again in {} s", RETRY.as_secs());
            time::sleep(RETRY).await;
        }
    }
}

/// Returns without an error when the receiver is gone.
async fn follow(events: &mpsc::Sender<Event>, last: &mut Option<BTreeSet<IpAddr>>) -> io::Result<()> {
    // Subscribed before the first reading: a change in between is seen by one of both.
    let mut notifications = subscribe()?;
    loop {
        let addresses = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
        if last.as_ref() != Some(&addresses) {
            debug!(?addresses, "addresses of this node");
            *last = Some(addresses.clone());
            if events.send(Event::Addresses(addresses)).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            () = events.closed() => return Ok(()),
            changed = notified(&mut notifications) => changed?,
        }
        time::sleep(SETTLE).await;
    }
}

fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind_auto()?;
    for group in GROUPS {
        socket.socket_mut().add_membership(group)?;
    }
    Ok(socket)
}

/// Returns at the next notification, or when some were lost.
async fn notified(socket: &mut TokioSocket) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(8192);
    match socket.recv(&mut buffer).await {
        Err(error) if error.raw_os_error() != Some(nix::errno::Errno::ENOBUFS as i32) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// All addresses in this network namespace that clients elsewhere could use. An address that only devices of Service
/// addresses (`holds_service_addresses`) have is not one.
///
/// # Errors
/// The netlink socket failed or the kernel refused the dump.
pub fn read() -> io::Result<BTreeSet<IpAddr>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(), 0)?;
    let mut addresses = BTreeSet::new();
    loop {
        let (packet, _) = socket.recv_from_full()?;
        if collect(&packet, &mut addresses)? {
            return Ok(of_the_node(&addresses, device_name));
        }
    }
}

/// The addresses of devices that are not for Service addresses.
fn of_the_node(addresses: &BTreeSet<Placed>, name: impl Fn(u32) -> Option<String>) -> BTreeSet<IpAddr> {
    let is_own = |device: u32| !name(device).is_some_and(|name| holds_service_addresses(&name));
    let devices: BTreeSet<u32> =
        addresses.iter().map(|(device, _)| *device).filter(|it| is_own(*it)).collect();
    addresses.iter().filter(|(device, _)| devices.contains(device)).map(|(_, address)| *address).collect()
}

/// Whether a device has this name because its addresses are those of Services: kube-proxy in ipvs mode puts every one
/// on `kube-ipvs0`, the node-local DNS cache kube-dns's ClusterIP on `nodelocaldns`. kube-proxy's NodePorts are not
/// served on `kube-ipvs0` either.
fn holds_service_addresses(device: &str) -> bool {
    device == "kube-ipvs0" || device.starts_with("nodelocaldns")
}

/// `None` if the device is gone: so is its address, and a notification of that is under way.
fn device_name(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index).ok()?.into_string().ok()
}

fn request() -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::GetAddress(AddressMessage::default()));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Takes the addresses out of one packet of a dump; `true` at the end of the dump.
fn collect(mut packet: &[u8], addresses: &mut BTreeSet<Placed>) -> io::Result<bool> {
    while !packet.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(packet).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(address)) => {
                addresses.extend(usable(&address).map(|usable| (address.header.index, usable)));
            }
            _ => {}
        }
        // Messages are aligned to 4 bytes; a length of 0 would never end.
        let length = usize::try_from(message.header.length)
            .map_or(usize::MAX, |length| length.max(16).next_multiple_of(4));
        packet = packet.get(length..).unwrap_or_default();
    }
    Ok(false)
}

/// The address, unless it is only for this host, this link, or not (any more) ours to use.
fn usable(message: &AddressMessage) -> Option<IpAddr> {
    let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    if message.header.scope != AddressScope::Universe || message.header.flags.intersects(unusable) {
        return None;
    }
    let find = |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    // On a point-to-point device `Address` is the peer's and `Local` ours (ip-address(8), IFA_LOCAL).
    let local = find(|attribute| if let AddressAttribute::Local(ip) = attribute { Some(*ip) } else { None });
    let address =
        || find(|attribute| if let AddressAttribute::Address(ip) = attribute { Some(*ip) } else { None });
    local.or_else(address).filter(|address| !is_confined(*address))
}

/// Loopback and link-local addresses, whatever scope they were given.
fn is_confined(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local() || address.is_unspecified(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unicast_link_local() || address.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::address::AddressHeader;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn message(
        scope: AddressScope,
        flags: AddressHeaderFlags,
        attributes: Vec<AddressAttribute>,
    ) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header = AddressHeader { scope, flags, ..AddressHeader::default() };
        message.attributes = attributes;
        message
    }

    #[test]
    fn only_global_addresses_that_are_ours_to_use_serve_node_ports() {
        let none = AddressHeaderFlags::empty();
        let of = |address| vec![AddressAttribute::Address(ip(address))];
        let cases = [
            (message(AddressScope::Universe, none, of("192.0.2.1")), Some(ip("192.0.2.1"))),
            (
                message(AddressScope::Universe, AddressHeaderFlags::Permanent, of("2001:db8::1")),
                Some(ip("2001:db8::1")),
            ),
            (message(AddressScope::Universe, AddressHeaderFlags::Tentative, of("2001:db8::1")), None),
            (message(AddressScope::Universe, AddressHeaderFlags::Dadfailed, of("2001:db8::1")), None),
            (message(AddressScope::Host, none, of("127.0.0.1")), None),
            (message(AddressScope::Universe, none, of("127.0.0.2")), None),
            (message(AddressScope::Link, none, of("fe80::1")), None),
            (message(AddressScope::Universe, none, of("169.254.7.7")), None),
        ];
        for (message, expected) in cases {
            assert_eq!(usable(&message), expected, "{message:?}");
        }
    }

    #[test]
    fn on_a_point_to_point_device_our_own_end_counts() {
        let attributes =
            vec![AddressAttribute::Address(ip("192.0.2.2")), AddressAttribute::Local(ip("192.0.2.1"))];
        let message = message(AddressScope::Universe, AddressHeaderFlags::empty(), attributes);
        assert_eq!(usable(&message), Some(ip("192.0.2.1")));
    }

    #[test]
    fn addresses_of_services_on_a_device_of_their_own_serve_no_node_ports() {
        let names = |index| {
            [Some("eth0"), Some("kube-ipvs0"), Some("nodelocaldns"), None].get(index as usize).copied()
        };
        let name = |index| names(index).flatten().map(str::to_owned);
        let placed = |of: &[(u32, &str)]| of.iter().map(|(device, text)| (*device, ip(text))).collect();
        let found: BTreeSet<Placed> = placed(&[
            (0, "192.0.2.1"),
            (0, "2001:db8::1"),
            (1, "10.96.0.1"),
            (1, "192.0.2.1"),
            (2, "10.96.0.10"),
            (3, "192.0.2.3"),
        ]);
        let expected = ["192.0.2.1", "2001:db8::1", "192.0.2.3"].map(ip);
        assert_eq!(of_the_node(&found, name), BTreeSet::from(expected));
        assert!(!holds_service_addresses("kube-ipvs01") && !holds_service_addresses("eth0"));
    }

    #[test]
    fn a_reading_of_this_machine_has_no_loopback_address() {
        assert!(read().unwrap().into_iter().all(|address| !is_confined(address)));
    }
}
