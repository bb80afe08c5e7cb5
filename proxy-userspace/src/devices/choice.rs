//! Which devices get programs, and which source address each has: a pure function of a snapshot.
//!
//! Must not know how a snapshot is read, nor what becomes of the choice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use cni::record::HOST_DEVICE_PREFIX;
use proxy_common::{DeviceValue, device::NODE_DEFAULT};

use super::{
    pattern::Pattern,
    primary::Primary,
    snapshot::{Link, Snapshot},
};
use crate::dataplane::DeviceRole;

/// What the administrator says about devices.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Selection {
    /// Devices that lead out of the node; empty: those with a default route or an address.
    pub node: Vec<Pattern>,
    /// Devices that lead into pods; empty: pairs whose other end is in another network namespace.
    pub pod: Vec<Pattern>,
    /// The host's own processes are served by packets: the loopback device gets programs, too.
    pub with_loopback: bool,
}

impl Selection {
    /// Whether the devices that our plugin makes get the programs for pods: two names that differ wherever such names do.
    pub fn takes_own_pods(&self) -> bool {
        let rules = Rules { snapshot: &Snapshot::default(), selection: self };
        ["0", "f"].iter().all(|digit| {
            let name = format!("{HOST_DEVICE_PREFIX}{}", digit.repeat(12));
            rules.role(0, &Link { name, leads_elsewhere: true, ..Link::default() }) == Some(DeviceRole::Pod)
        })
    }
}

/// A device that gets programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its name.
    pub name: String,
    /// Which programs.
    pub role: DeviceRole,
}

/// What follows from a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Choice {
    /// The devices that get programs, by the kernel's index.
    pub devices: BTreeMap<u32, Chosen>,
    /// All others of the snapshot, which get none. Of a device that is in neither nothing is decided yet.
    pub others: BTreeSet<u32>,
    /// What the map `devices` should hold: the node devices, and the node itself under [`NODE_DEFAULT`].
    pub values: BTreeMap<u32, DeviceValue>,
    /// All addresses of the node that clients elsewhere could use.
    pub addresses: BTreeSet<IpAddr>,
    /// At most one of each family: what the node sends from where nothing else is said.
    pub primary: BTreeSet<IpAddr>,
}

impl Choice {
    /// Whether nothing differs but which devices get no programs.
    pub(super) fn gives_the_same(&self, other: &Self) -> bool {
        let Self { devices, others: _, values, addresses, primary } = self;
        (devices, values, addresses, primary)
            == (&other.devices, &other.values, &other.addresses, &other.primary)
    }
}

/// Decides. A device that both kinds of pattern fit is a node device.
pub fn choose(snapshot: &Snapshot, selection: &Selection) -> Choice {
    let rules = Rules { snapshot, selection };
    let roles = snapshot.links.iter().filter_map(|(index, link)| Some((*index, rules.role(*index, link)?)));
    let roles: BTreeMap<u32, DeviceRole> = roles.collect();
    let devices = roles.iter().filter_map(|(index, role)| {
        let name = snapshot.links.get(index)?.name.clone();
        Some((*index, Chosen { name, role: *role }))
    });
    let (primary, values) = values(snapshot, &roles);
    let others = snapshot.links.keys().copied().filter(|index| !roles.contains_key(index));
    Choice {
        others: others.collect(),
        devices: devices.collect(),
        values,
        addresses: addresses(snapshot),
        primary: primary.addresses(),
    }
}

/// An address that only devices of Service addresses have is not the node's.
fn addresses(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let is_own =
        |device| !snapshot.links.get(device).is_some_and(|link: &Link| link.holds_service_addresses());
    snapshot.addresses.iter().filter(|it| is_own(&it.device)).map(|it| it.address).collect()
}

fn values(snapshot: &Snapshot, roles: &BTreeMap<u32, DeviceRole>) -> (Primary, BTreeMap<u32, DeviceValue>) {
    let is_loopback = |index: &u32| snapshot.links.get(index).is_some_and(|link| link.is_loopback);
    let is_node = |(index, role): &(&u32, &DeviceRole)| **role == DeviceRole::Node && !is_loopback(index);
    let node_devices: Vec<u32> = roles.iter().filter(is_node).map(|(index, _)| *index).collect();
    let no_sources = |(index, link): &(&u32, &Link)| {
        roles.get(index) == Some(&DeviceRole::Pod) || link.holds_service_addresses()
    };
    let excluded = snapshot.links.iter().filter(no_sources).map(|(index, _)| *index).collect();
    let primary = Primary::of_node(snapshot, &node_devices, &excluded);
    // Where a device has no address of a family, the node's.
    let of_device = |index: u32| {
        let is_tunnel = snapshot.links.get(&index).is_some_and(Link::is_tunnel).into();
        let value = Primary::of_device(snapshot, index).or(primary).value();
        (index, DeviceValue { is_tunnel, ..value })
    };
    let mut values: BTreeMap<u32, DeviceValue> = node_devices.into_iter().map(of_device).collect();
    let is_tunnel = snapshot.links.values().any(Link::is_tunnel).into();
    values.insert(NODE_DEFAULT, DeviceValue { is_tunnel, ..primary.value() });
    (primary, values)
}

struct Rules<'a> {
    snapshot: &'a Snapshot,
    selection: &'a Selection,
}

impl Rules<'_> {
    fn role(&self, index: u32, link: &Link) -> Option<DeviceRole> {
        let fits = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(&link.name));
        let Selection { node, pod, with_loopback } = self.selection;
        if link.is_loopback {
            return with_loopback.then_some(DeviceRole::Node);
        }
        // What comes through the tunnel is for pods, whatever the administrator calls the devices that lead out.
        if fits(node) || link.is_tunnel() {
            return Some(DeviceRole::Node);
        }
        if fits(pod) {
            return Some(DeviceRole::Pod);
        }
        if node.is_empty() && self.leads_out(index, link) {
            return Some(DeviceRole::Node);
        }
        (pod.is_empty() && link.leads_elsewhere).then_some(DeviceRole::Pod)
    }

    /// Whether a device leads out of the node by what it has: a default route, or an address.
    ///
    /// A pair's end with a single address only is a pod's: the plugin `ptp` puts the pods' gateway there. A bridge
    /// without a port that leads out is for pods: they are met at its ports.
    fn leads_out(&self, index: u32, link: &Link) -> bool {
        if self.snapshot.default_routes.iter().any(|route| route.device == index) {
            return true;
        }
        let has_address = self
            .snapshot
            .addresses
            .iter()
            .any(|it| it.device == index && !(link.leads_elsewhere && it.is_single));
        has_address && !link.holds_service_addresses() && !(link.is_bridge && self.is_for_pods(index))
    }

    fn is_for_pods(&self, bridge: u32) -> bool {
        let mut ports = self.snapshot.links.values().filter(|link| link.controller == Some(bridge));
        ports.all(|port| {
            port.leads_elsewhere || self.selection.pod.iter().any(|pattern| pattern.matches(&port.name))
        })
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::{Ipv4Be, Ipv6Be};

    use super::*;
    use crate::devices::{DefaultRoute, DeviceAddress};

    /// Names of devices with what they are.
    type Roles = Vec<(&'static str, DeviceRole)>;

    fn link(name: &str) -> Link {
        Link { name: name.to_owned(), ..Link::default() }
    }

    fn veth(name: &str) -> Link {
        Link { leads_elsewhere: true, ..link(name) }
    }

    fn bridge(name: &str) -> Link {
        Link { is_bridge: true, ..link(name) }
    }

    fn port_of(controller: u32, link: Link) -> Link {
        Link { controller: Some(controller), ..link }
    }

    fn on(device: u32, address: &str) -> DeviceAddress {
        let (address, prefix) = address.split_once('/').unwrap();
        DeviceAddress {
            device,
            address: address.parse().unwrap(),
            is_single: ["32", "128"].contains(&prefix),
            is_secondary: false,
            is_deprecated: false,
            since: 0,
        }
    }

    fn via(device: u32) -> DefaultRoute {
        DefaultRoute { device, is_v6: false, metric: 0, preferred_source: None }
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn snapshot(links: Vec<Link>, addresses: Vec<DeviceAddress>, routes: Vec<DefaultRoute>) -> Snapshot {
        let loopback = Link { is_loopback: true, ..link("lo") };
        let links = (1..).zip(std::iter::once(loopback).chain(links)).collect();
        Snapshot { links, addresses, default_routes: routes }
    }

    fn chosen(snapshot: &Snapshot, selection: &Selection) -> Vec<(String, DeviceRole)> {
        choose(snapshot, selection).devices.into_values().map(|it| (it.name, it.role)).collect()
    }

    #[test]
    fn without_patterns_a_device_is_known_by_what_it_has_and_where_it_leads() {
        use DeviceRole::{Node, Pod};
        let cases: Vec<(&str, Snapshot, Roles)> = vec![
            ("nothing but lo", snapshot(vec![], vec![on(1, "192.0.2.1/32")], vec![]), vec![]),
            (
                "a default route without an address, an address without a default route, neither",
                snapshot(
                    vec![link("eth0"), link("eth1"), link("eth2")],
                    vec![on(3, "192.0.2.1/24")],
                    vec![via(2)],
                ),
                vec![("eth0", Node), ("eth1", Node)],
            ),
            (
                "a pod's pair, a pair within the host, ptp's pair with the gateway's address",
                snapshot(
                    vec![link("eth0"), veth("veth1"), link("veth2"), veth("veth3")],
                    vec![on(5, "10.244.0.1/32"), on(5, "fd00::1/128")],
                    vec![via(2)],
                ),
                vec![("eth0", Node), ("veth1", Pod), ("veth3", Pod)],
            ),
            (
                "a node that is itself in a namespace has pairs for its devices",
                snapshot(vec![veth("eth0"), veth("eth1")], vec![on(3, "192.0.2.1/24")], vec![via(2)]),
                vec![("eth0", Node), ("eth1", Node)],
            ),
            (
                "pods on a bridge are met at its ports",
                snapshot(
                    vec![link("eth0"), bridge("cni0"), port_of(3, veth("veth1"))],
                    vec![on(3, "10.244.0.1/24")],
                    vec![via(2)],
                ),
                vec![("eth0", Node), ("veth1", Pod)],
            ),
            (
                "a bridge that no pod has joined yet",
                snapshot(vec![link("eth0"), bridge("docker0")], vec![on(3, "172.17.0.1/16")], vec![via(2)]),
                vec![("eth0", Node)],
            ),
            (
                "a bridge with the node's device in it",
                snapshot(
                    vec![bridge("br0"), port_of(2, link("eth0")), port_of(2, veth("veth1"))],
                    vec![on(2, "192.0.2.1/24")],
                    vec![],
                ),
                vec![("br0", Node), ("veth1", Pod)],
            ),
            (
                "a bridge with the default route",
                snapshot(vec![bridge("br0"), port_of(2, veth("veth1"))], vec![], vec![via(2)]),
                vec![("br0", Node), ("veth1", Pod)],
            ),
            (
                "a tunnel has an address, a device of Services' addresses does not count",
                snapshot(
                    vec![link("flannel.1"), link("kube-ipvs0")],
                    vec![on(2, "10.244.0.0/32"), on(3, "10.96.0.1/32")],
                    vec![],
                ),
                vec![("flannel.1", Node)],
            ),
        ];
        for (case, snapshot, expected) in cases {
            let expected: Vec<_> = expected.into_iter().map(|(name, role)| (name.to_owned(), role)).collect();
            assert_eq!(chosen(&snapshot, &Selection::default()), expected, "{case}");
        }
    }

    #[test]
    fn patterns_replace_the_rules_each_for_its_role() {
        use DeviceRole::{Node, Pod};
        let snapshot = snapshot(
            vec![link("eth0"), link("eth1"), veth("veth1"), link("tap1")],
            vec![on(2, "192.0.2.1/24")],
            vec![via(2)],
        );
        let cases: Vec<(&[&str], &[&str], Roles)> = vec![
            (&["eth1"], &[], vec![("eth1", Node), ("veth1", Pod)]),
            (&["eth*"], &[], vec![("eth0", Node), ("eth1", Node), ("veth1", Pod)]),
            (&[], &["tap*"], vec![("eth0", Node), ("tap1", Pod)]),
            (&[], &["tap*", "veth*"], vec![("eth0", Node), ("veth1", Pod), ("tap1", Pod)]),
            (&[], &["eth0"], vec![("eth0", Pod)]),
            (&["*"], &["tap*"], vec![("eth0", Node), ("eth1", Node), ("veth1", Node), ("tap1", Node)]),
            (&["none"], &["none"], vec![]),
        ];
        for (node, pod, expected) in cases {
            let selection = Selection { node: patterns(node), pod: patterns(pod), with_loopback: false };
            let expected: Vec<_> = expected.into_iter().map(|(name, role)| (name.to_owned(), role)).collect();
            assert_eq!(chosen(&snapshot, &selection), expected, "{selection:?}");
        }
    }

    #[test]
    fn the_tunnel_is_a_node_device_whatever_the_patterns_say() {
        let snapshot = snapshot(
            vec![link("eth0"), link("sheave.vxlan")],
            vec![on(2, "192.0.2.1/24"), on(3, "10.244.1.0/32")],
            vec![via(2)],
        );
        for (node, pod) in [(&[][..], &[][..]), (&["eth*"], &[]), (&["eth0"], &["*"])] {
            let selection = Selection { node: patterns(node), pod: patterns(pod), with_loopback: false };
            let choice = choose(&snapshot, &selection);
            let roles: Vec<_> = choice.devices.values().map(|it| (it.name.as_str(), it.role)).collect();
            let expected = [("eth0", DeviceRole::Node), ("sheave.vxlan", DeviceRole::Node)];
            assert_eq!(roles, expected, "{selection:?}");
            let source = Ipv4Be::from(std::net::Ipv4Addr::new(10, 244, 1, 0));
            assert_eq!((choice.values[&3].source4, choice.values[&3].is_tunnel), (source, 1));
            assert_eq!((choice.values[&2].is_tunnel, choice.values[&NODE_DEFAULT].is_tunnel), (0, 1));
        }
    }

    #[test]
    fn the_plugin_attaches_only_what_the_patterns_leave_to_pods() {
        let cases: [(&[&str], &[&str], bool); 6] = [
            (&[], &[], true),
            (&["eth*"], &["shv*", "tap*"], true),
            (&[], &["tap*"], false),
            (&[], &["shv0*"], false),
            (&["*"], &[], false),
            (&["shvf*"], &[], false),
        ];
        for (node, pod, expected) in cases {
            let selection = Selection { node: patterns(node), pod: patterns(pod), with_loopback: false };
            assert_eq!(selection.takes_own_pods(), expected, "{selection:?}");
        }
    }

    #[test]
    fn every_device_of_the_snapshot_is_chosen_or_one_of_the_others() {
        let snapshot = snapshot(vec![link("eth0"), veth("veth1"), link("dummy0")], vec![], vec![via(2)]);
        let choice = choose(&snapshot, &Selection::default());
        assert_eq!(choice.devices.into_keys().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(choice.others, BTreeSet::from([1, 4]));
    }

    #[test]
    fn the_loopback_device_is_chosen_only_when_the_host_is_served_by_packets() {
        let selection = Selection { with_loopback: true, ..Selection::default() };
        let snapshot = snapshot(vec![], vec![on(1, "192.0.2.1/32")], vec![]);
        assert_eq!(chosen(&snapshot, &selection), [("lo".to_owned(), DeviceRole::Node)]);
        let any = Selection { node: patterns(&["*"]), ..Selection::default() };
        assert!(chosen(&snapshot, &any).is_empty());
        let choice = choose(&snapshot, &selection);
        assert_eq!(choice.values.keys().copied().collect::<Vec<_>>(), [NODE_DEFAULT]);
        assert_eq!(choice.primary.len(), 1, "an address on lo is the node's where there is no other");
    }

    #[test]
    fn a_node_device_sends_from_its_own_address_and_from_the_node_s_where_it_has_none() {
        let snapshot = snapshot(
            vec![link("eth0"), link("eth1"), veth("veth1")],
            vec![
                on(2, "192.0.2.1/24"),
                on(2, "2001:db8::1/64"),
                on(3, "198.51.100.1/24"),
                on(4, "10.244.0.1/32"),
            ],
            vec![via(2)],
        );
        let choice = choose(&snapshot, &Selection::default());
        let value = |v4: [u8; 4]| DeviceValue {
            source4: Ipv4Be::from(std::net::Ipv4Addr::from(v4)),
            source6: Ipv6Be::from("2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap()),
            is_tunnel: 0,
        };
        let expected = [
            (NODE_DEFAULT, value([192, 0, 2, 1])),
            (2, value([192, 0, 2, 1])),
            (3, value([198, 51, 100, 1])),
        ];
        assert_eq!(choice.values, BTreeMap::from(expected));
        let primary: Vec<_> = choice.primary.iter().map(ToString::to_string).collect();
        assert_eq!(primary, ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(choice.addresses.len(), 4);
    }

    #[test]
    fn addresses_of_services_on_a_device_of_their_own_are_not_the_node_s() {
        let snapshot = snapshot(
            vec![link("eth0"), link("kube-ipvs0"), link("nodelocaldns")],
            vec![
                on(2, "192.0.2.1/24"),
                on(2, "2001:db8::1/64"),
                on(3, "10.96.0.1/32"),
                on(3, "192.0.2.1/32"),
                on(4, "10.96.0.10/32"),
                on(9, "192.0.2.3/32"),
            ],
            vec![],
        );
        let expected: Vec<IpAddr> =
            ["192.0.2.1", "192.0.2.3", "2001:db8::1"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(
            choose(&snapshot, &Selection::default()).addresses.into_iter().collect::<Vec<_>>(),
            expected
        );
        assert!(!link("kube-ipvs01").holds_service_addresses() && !link("eth0").holds_service_addresses());
    }
}
