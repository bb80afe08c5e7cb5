//! What one reading of the kernel's links, addresses and routes says, reduced to what decisions need.
//!
//! Must not know how it was read, nor what is decided.

use std::{collections::BTreeMap, net::IpAddr};

use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteType},
};

/// The devices of one network namespace at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// By the kernel's index.
    pub links: BTreeMap<u32, Link>,
    /// In the kernel's order.
    pub addresses: Vec<DeviceAddress>,
    /// Of the main table, in the kernel's order.
    pub default_routes: Vec<DefaultRoute>,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// The loopback device.
    pub is_loopback: bool,
    /// A bridge.
    pub is_bridge: bool,
    /// One end of a pair (veth, netkit) whose other end is in another network namespace.
    pub leads_elsewhere: bool,
    /// The device that this one is a port of.
    pub controller: Option<u32>,
    /// Its queue (root qdisc).
    pub queue: String,
}

/// An address on a device that clients elsewhere could use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceAddress {
    /// The kernel's index of the device.
    pub device: u32,
    /// The address.
    pub address: IpAddr,
    /// It says nothing of a network: /32 or /128.
    pub is_single: bool,
    /// A further address of a network that has one already, or a temporary one.
    pub is_secondary: bool,
    /// No new connection should use it.
    pub is_deprecated: bool,
    /// When it was given to the device, in hundredths of a second since boot.
    pub since: u32,
}

/// A route for everything that no other route is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The kernel's index of the device.
    pub device: u32,
    /// For IPv6.
    pub is_v6: bool,
    /// The least counts.
    pub metric: u32,
    /// The source address that its packets get, if somebody decided.
    pub preferred_source: Option<IpAddr>,
}

impl Link {
    /// Whether its addresses are those of Services: kube-proxy in ipvs mode puts every one on `kube-ipvs0`, the
    /// node-local DNS cache kube-dns's ClusterIP on `nodelocaldns`. kube-proxy's NodePorts are not served on
    /// `kube-ipvs0` either.
    pub fn holds_service_addresses(&self) -> bool {
        self.name == "kube-ipvs0" || self.name.starts_with("nodelocaldns")
    }

    /// Whether it is the tunnel that `routing` makes.
    pub fn is_tunnel(&self) -> bool {
        self.name == crate::routing::DEVICE
    }

    pub(super) fn of(message: &LinkMessage) -> Self {
        let mut link =
            Self { is_loopback: message.header.flags.contains(LinkFlags::Loopback), ..Self::default() };
        let (mut is_pair, mut peer_is_elsewhere) = (false, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Qdisc(queue) => link.queue.clone_from(queue),
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::LinkNetNsId(_) => peer_is_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => {
                    let is = |kind: &InfoKind| infos.contains(&LinkInfo::Kind(kind.clone()));
                    link.is_bridge = is(&InfoKind::Bridge);
                    is_pair = is(&InfoKind::Veth) || is(&InfoKind::Netkit);
                }
                _ => {}
            }
        }
        link.leads_elsewhere = is_pair && peer_is_elsewhere;
        link
    }
}

impl DeviceAddress {
    /// `None` for an address that is only for this host, this link, or not (any more) ours to use.
    pub(crate) fn of(message: &AddressMessage) -> Option<Self> {
        let flags = flags(message);
        let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed;
        if message.header.scope != AddressScope::Universe || flags.intersects(unusable) {
            return None;
        }
        let address = own(&message.attributes).filter(|address| !is_confined(*address))?;
        let single = if address.is_ipv4() { 32 } else { 128 };
        Some(Self {
            device: message.header.index,
            address,
            is_single: message.header.prefix_len == single,
            is_secondary: flags.contains(AddressFlags::Secondary),
            is_deprecated: flags.contains(AddressFlags::Deprecated),
            since: since(&message.attributes),
        })
    }
}

/// The attribute has more flags than the header, which is only what came before it.
fn flags(message: &AddressMessage) -> AddressFlags {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    attribute.unwrap_or_else(|| AddressFlags::from_bits_retain(message.header.flags.bits().into()))
}

/// On a point-to-point device `Address` is the peer's and `Local` ours (ip-address(8), IFA_LOCAL).
fn own(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let find = |pick: fn(&AddressAttribute) -> Option<IpAddr>| attributes.iter().find_map(pick);
    let local = find(|attribute| if let AddressAttribute::Local(ip) = attribute { Some(*ip) } else { None });
    local.or_else(|| {
        find(|attribute| if let AddressAttribute::Address(ip) = attribute { Some(*ip) } else { None })
    })
}

fn since(attributes: &[AddressAttribute]) -> u32 {
    let stamp = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::CacheInfo(info) => Some(info.cstamp),
        _ => None,
    });
    stamp.unwrap_or_default()
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

/// Whether the message is about a route for everything.
pub(super) fn is_default(message: &RouteMessage) -> bool {
    message.header.destination_prefix_length == 0
}

impl DefaultRoute {
    /// One for each of its next hops; none if the route is for something, of another table, or refuses.
    pub(super) fn of(message: &RouteMessage) -> Vec<Self> {
        if !is_default(message)
            || message.header.kind != RouteType::Unicast
            || message.header.table != RouteHeader::RT_TABLE_MAIN
        {
            return Vec::new();
        }
        let (mut devices, mut metric, mut preferred_source) = (Vec::new(), 0, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => devices.push(*index),
                RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(hop_device)),
                RouteAttribute::Priority(priority) => metric = *priority,
                RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => preferred_source = Some((*ip).into()),
                RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => preferred_source = Some((*ip).into()),
                _ => {}
            }
        }
        let is_v6 = message.header.address_family == netlink_packet_route::AddressFamily::Inet6;
        devices.into_iter().map(|device| Self { device, is_v6, metric, preferred_source }).collect()
    }
}

fn hop_device(hop: &RouteNextHop) -> u32 {
    hop.interface_index
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{
        AddressFamily,
        address::{AddressHeader, AddressHeaderFlags},
    };

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
        message.header = AddressHeader { scope, flags, prefix_len: 24, index: 7, ..AddressHeader::default() };
        message.attributes = attributes;
        message
    }

    fn usable(message: &AddressMessage) -> Option<IpAddr> {
        DeviceAddress::of(message).map(|found| found.address)
    }

    #[test]
    fn only_global_addresses_that_are_ours_to_use_count() {
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
    fn the_flags_of_an_address_are_those_of_the_attribute_if_there_is_one() {
        let attributes = vec![
            AddressAttribute::Address(ip("2001:db8::1")),
            AddressAttribute::Flags(AddressFlags::Deprecated | AddressFlags::Noprefixroute),
        ];
        let found =
            DeviceAddress::of(&message(AddressScope::Universe, AddressHeaderFlags::Secondary, attributes));
        let found = found.unwrap();
        assert_eq!((found.is_deprecated, found.is_secondary, found.device), (true, false, 7));
        assert!(!found.is_single);
    }

    fn link(kind: InfoKind, elsewhere: bool) -> Link {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName("x".to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
            LinkAttribute::Controller(4),
        ];
        if elsewhere {
            message.attributes.push(LinkAttribute::LinkNetNsId(0));
        }
        Link::of(&message)
    }

    #[test]
    fn an_end_of_a_pair_leads_elsewhere_when_the_other_end_is_in_another_namespace() {
        let cases = [
            (InfoKind::Veth, true, true),
            (InfoKind::Veth, false, false),
            (InfoKind::Netkit, true, true),
            (InfoKind::Vxlan, true, false),
        ];
        for (kind, elsewhere, expected) in cases {
            assert_eq!(link(kind.clone(), elsewhere).leads_elsewhere, expected, "{kind:?}");
        }
        assert!(link(InfoKind::Bridge, false).is_bridge);
        assert_eq!(link(InfoKind::Veth, true).controller, Some(4));
    }

    fn route(prefix: u8, kind: RouteType, table: u8, attributes: Vec<RouteAttribute>) -> Vec<DefaultRoute> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = prefix;
        message.header.kind = kind;
        message.header.table = table;
        message.attributes = attributes;
        DefaultRoute::of(&message)
    }

    #[test]
    fn only_a_default_route_of_the_main_table_that_leads_somewhere_counts() {
        let oif = || vec![RouteAttribute::Oif(3), RouteAttribute::Priority(100)];
        let expected = DefaultRoute { device: 3, is_v6: false, metric: 100, preferred_source: None };
        assert_eq!(route(0, RouteType::Unicast, 254, oif()), [expected]);
        assert!(route(24, RouteType::Unicast, 254, oif()).is_empty());
        assert!(route(0, RouteType::Unreachable, 254, oif()).is_empty());
        assert!(route(0, RouteType::Unicast, 100, oif()).is_empty());
    }

    #[test]
    fn a_route_over_several_devices_counts_for_each() {
        let hop = |index| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = index;
            hop
        };
        let source = RouteAttribute::PrefSource(RouteAddress::Inet([192, 0, 2, 1].into()));
        let found =
            route(0, RouteType::Unicast, 254, vec![RouteAttribute::MultiPath(vec![hop(3), hop(4)]), source]);
        assert_eq!(found.iter().map(|route| route.device).collect::<Vec<_>>(), [3, 4]);
        assert!(found.iter().all(|route| route.preferred_source == Some(ip("192.0.2.1"))));
    }
}
