//! The requests of the wiring as netlink messages.
//!
//! Must not know in which order they are sent, nor to whom.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{DefaultNla, Emitable as _, NLA_F_NESTED};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use super::{SHEAVE_PROTOCOL, plan::Pair};
use crate::record::Mac;

/// Before the rule for the table `main` (32766), and with room on both sides for rules of others.
const RULE_PRIORITY: u32 = 15_800;
/// Settings of a device for IPv4 (linux/if_link.h).
const IFLA_INET_CONF: u16 = 1;
/// linux/ip.h, as the next two.
const IPV4_DEVCONF_FORWARDING: u16 = 1;
const IPV4_DEVCONF_SEND_REDIRECTS: u16 = 6;
const IPV4_DEVCONF_RP_FILTER: u16 = 8;
/// `RT_TABLE_LOCAL` (linux/rtnetlink.h): what a namespace takes in itself.
const TABLE_LOCAL: u8 = 255;
/// Much longer than the kernel takes to make its own.
const LOCAL_ROUTE_SECONDS: u32 = 60;

/// Both ends of a pod in one request: the host's in the namespace that is asked, the pod's in its own.
pub(super) fn pair(pair: &Pair, pod: BorrowedFd<'_>) -> RouteNetlinkMessage {
    let mut peer = LinkMessage::default();
    peer.attributes = end(&pair.ifname, pair.pod_mac, pair.mtu);
    peer.attributes.push(LinkAttribute::NetNsFd(pod.as_raw_fd()));
    let mut host = LinkMessage::default();
    host.attributes = end(&pair.host_device, pair.host_mac, pair.mtu);
    host.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    RouteNetlinkMessage::NewLink(host)
}

/// Explicit addresses, because udev replaces those that the kernel makes; one queue, because the kernel would reserve
/// one for each processor.
fn end(name: &str, mac: Mac, mtu: u32) -> Vec<LinkAttribute> {
    vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
    ]
}

/// Asks for the device of this name.
pub(super) fn link_named(name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    RouteNetlinkMessage::GetLink(message)
}

/// Asks for the device of this index.
pub(super) fn link(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(of_index(index))
}

/// Brings a device up or down.
pub(super) fn link_state(index: u32, up: bool) -> RouteNetlinkMessage {
    let mut message = of_index(index);
    message.header.change_mask = LinkFlags::Up;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    RouteNetlinkMessage::SetLink(message)
}

/// Brings a pod's end up. It does not forward what comes to it from outside; a new namespace may have taken over the host's
/// setting.
pub(super) fn pod_up(index: u32) -> RouteNetlinkMessage {
    let mut message = of_index(index);
    message.header.change_mask = LinkFlags::Up;
    message.header.flags = LinkFlags::Up;
    let settings = ipv4_settings(&[(IPV4_DEVCONF_FORWARDING, 0)]);
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![settings]));
    RouteNetlinkMessage::SetLink(message)
}

/// Settings of the host's end: it forwards IPv4, sends no redirects and leaves checking sources to the guard, which does it
/// better than `rp_filter`: that would also drop what the translation of Services changes. With `ipv6` it makes itself no
/// link-local address; refused (`EAFNOSUPPORT`) if the device has no IPv6.
pub(super) fn host_settings(index: u32, ipv6: bool) -> RouteNetlinkMessage {
    let v4 = [(IPV4_DEVCONF_FORWARDING, 1), (IPV4_DEVCONF_SEND_REDIRECTS, 0), (IPV4_DEVCONF_RP_FILTER, 0)];
    let mut families = vec![ipv4_settings(&v4)];
    if ipv6 {
        families.push(AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]));
    }
    let mut message = of_index(index);
    message.attributes.push(LinkAttribute::AfSpecUnspec(families));
    RouteNetlinkMessage::SetLink(message)
}

fn ipv4_settings(settings: &[(u16, u32)]) -> AfSpecUnspec {
    let each = |(key, value): &(u16, u32)| DefaultNla::new(*key, value.to_ne_bytes().to_vec());
    let settings: Vec<DefaultNla> = settings.iter().map(each).collect();
    let mut nested = vec![0; settings.as_slice().buffer_len()];
    settings.as_slice().emit(&mut nested);
    AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, nested))])
}

/// Removes a device; of a pair both ends go.
pub(super) fn link_removal(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(of_index(index))
}

fn of_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Gives a device an address of its own, at once: nobody else can have it, so nobody is asked (no DAD).
pub(super) fn address(index: u32, address: IpAddr) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.index = index;
    message.header.prefix_len = whole(address);
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    RouteNetlinkMessage::NewAddress(message)
}

/// Asks for all addresses of the namespace.
pub(super) fn addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// Makes known for ever which MAC address belongs to an address.
pub(super) fn neighbour(index: u32, address: IpAddr, mac: Mac) -> RouteNetlinkMessage {
    let mut message = neighbour_of(index, address);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    RouteNetlinkMessage::NewNeighbour(message)
}

/// Asks which MAC address is known of an address.
pub(super) fn neighbour_question(index: u32, address: IpAddr) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetNeighbour(neighbour_of(index, address))
}

fn neighbour_of(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

/// The host's way to one address of a pod.
pub(super) fn host_route(index: u32, address: IpAddr) -> RouteNetlinkMessage {
    let mut message = route(family(address));
    message.header.destination_prefix_length = whole(address);
    if address.is_ipv4() {
        message.header.scope = RouteScope::Link;
    }
    message.attributes = vec![RouteAttribute::Destination(address.into()), RouteAttribute::Oif(index)];
    RouteNetlinkMessage::NewRoute(message)
}

/// The pod's way to everywhere, in a table. The gateway's address is on no device: `onlink` says that it is there all the
/// same.
pub(super) fn default_route(index: u32, gateway: IpAddr, table: u32) -> RouteNetlinkMessage {
    let mut message = route(family(gateway));
    // The attribute goes first; the header has room for small numbers only.
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.header.flags = RouteFlags::Onlink;
    message.attributes = vec![
        RouteAttribute::Gateway(gateway.into()),
        RouteAttribute::Oif(index),
        RouteAttribute::Table(table),
    ];
    RouteNetlinkMessage::NewRoute(message)
}

/// A rule, to be made or removed: what is sent from this address goes by this table.
pub(super) fn rule(address: IpAddr, table: u32) -> RuleMessage {
    let mut message = rules_like(address);
    message.header.src_len = whole(address);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Source(address),
        RuleAttribute::Table(table),
        RuleAttribute::Priority(RULE_PRIORITY),
        RuleAttribute::Protocol(RouteProtocol::from(SHEAVE_PROTOCOL)),
    ];
    message
}

/// All rules of this address's family, to be asked for.
pub(super) fn rules_like(address: IpAddr) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(address);
    message
}

/// What comes to an address is the pod's own, for [`LOCAL_ROUTE_SECONDS`].
pub(super) fn local_route(index: u32, address: IpAddr) -> RouteNetlinkMessage {
    let mut message = route(family(address));
    message.header.kind = RouteType::Local;
    message.header.table = TABLE_LOCAL;
    message.header.destination_prefix_length = whole(address);
    message.attributes = vec![
        RouteAttribute::Destination(address.into()),
        RouteAttribute::Oif(index),
        RouteAttribute::Expires(LOCAL_ROUTE_SECONDS),
    ];
    RouteNetlinkMessage::NewRoute(message)
}

fn route(family: AddressFamily) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(SHEAVE_PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message
}

/// Asks which way the kernel would take to an address.
pub(super) fn way_to(address: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = whole(address);
    message.attributes.push(RouteAttribute::Destination(address.into()));
    RouteNetlinkMessage::GetRoute(message)
}

/// Asks for all routes of this address's family, of every table.
pub(super) fn routes_like(address: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    RouteNetlinkMessage::GetRoute(message)
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Length of the prefix that is one address.
fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
