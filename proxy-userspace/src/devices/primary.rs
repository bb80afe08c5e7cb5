//! Which of several addresses the node sends from.
//!
//! Must not know which devices get programs.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proxy_common::{DeviceValue, Ipv4Be, Ipv6Be};

use super::snapshot::{DefaultRoute, DeviceAddress, Snapshot};

/// At most one address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Primary {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Primary {
    fn new(find: impl Fn(bool) -> Option<IpAddr>) -> Self {
        let v4 = find(false).and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
        let v6 = find(true).and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None });
        Self { v4, v6 }
    }

    /// Of one device.
    pub(super) fn of_device(snapshot: &Snapshot, device: u32) -> Self {
        Self::new(|is_v6| best(snapshot, is_v6, |address| address.device == device))
    }

    /// Of the node: the source that its default route prefers, else that of the default route's device, else that of
    /// the first of `devices` that has one, else any but those of `excluded`.
    pub(super) fn of_node(snapshot: &Snapshot, devices: &[u32], excluded: &BTreeSet<u32>) -> Self {
        let on = |is_v6, device| best(snapshot, is_v6, |address| address.device == device);
        Self::new(|is_v6| {
            let route = default_route(snapshot, is_v6);
            route
                .and_then(|route| preferred(snapshot, route))
                .or_else(|| route.and_then(|route| on(is_v6, route.device)))
                .or_else(|| devices.iter().find_map(|device| on(is_v6, *device)))
                .or_else(|| best(snapshot, is_v6, |address| !excluded.contains(&address.device)))
        })
    }

    /// With the addresses of `other` where there is none.
    pub(super) fn or(self, other: Self) -> Self {
        Self { v4: self.v4.or(other.v4), v6: self.v6.or(other.v6) }
    }

    pub(super) fn addresses(self) -> BTreeSet<IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6)).collect()
    }

    pub(super) fn value(self) -> DeviceValue {
        let none = DeviceValue::NONE;
        DeviceValue {
            source4: self.v4.map_or(none.source4, Ipv4Be::from),
            source6: self.v6.map_or(none.source6, Ipv6Be::from),
            ..none
        }
    }
}

/// The one that packets take.
fn default_route(snapshot: &Snapshot, is_v6: bool) -> Option<&DefaultRoute> {
    // The first of equals is the one that the kernel has first.
    snapshot.default_routes.iter().filter(|route| route.is_v6 == is_v6).min_by_key(|route| route.metric)
}

/// The route's source if the node has it.
fn preferred(snapshot: &Snapshot, route: &DefaultRoute) -> Option<IpAddr> {
    route.preferred_source.filter(|source| snapshot.addresses.iter().any(|known| known.address == *source))
}

/// The best of some addresses of a family: not on its way out, not a further one of its network, not a single one
/// (what daemons move between nodes is), and of these the one that has been there longest.
fn best(snapshot: &Snapshot, is_v6: bool, may: impl Fn(&DeviceAddress) -> bool) -> Option<IpAddr> {
    let candidates = snapshot.addresses.iter().filter(|it| it.address.is_ipv6() == is_v6 && may(it));
    let rank = |it: &&DeviceAddress| (it.is_deprecated, it.is_secondary, it.is_single, it.since);
    candidates.min_by_key(rank).map(|it| it.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(device: u32, address: &str) -> DeviceAddress {
        DeviceAddress {
            device,
            address: address.parse().unwrap(),
            is_single: false,
            is_secondary: false,
            is_deprecated: false,
            since: 10,
        }
    }

    fn primary(addresses: Vec<DeviceAddress>) -> Vec<String> {
        let snapshot = Snapshot { addresses, ..Snapshot::default() };
        Primary::of_device(&snapshot, 1).addresses().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_oldest_address_that_stands_for_its_network_is_the_primary_one() {
        let a = || on(1, "192.0.2.1");
        let b = || on(1, "192.0.2.2");
        let cases = [
            (vec![a(), b()], "192.0.2.1", "the kernel's first of equals"),
            (vec![a(), DeviceAddress { since: 9, ..b() }], "192.0.2.2", "older"),
            (vec![DeviceAddress { is_secondary: true, ..a() }, b()], "192.0.2.2", "not secondary"),
            (vec![DeviceAddress { is_deprecated: true, ..a() }, b()], "192.0.2.2", "not deprecated"),
            (vec![DeviceAddress { is_single: true, since: 1, ..a() }, b()], "192.0.2.2", "of a network"),
            (vec![DeviceAddress { is_deprecated: true, ..a() }], "192.0.2.1", "better than none"),
            (vec![on(2, "192.0.2.9"), b()], "192.0.2.2", "of this device"),
        ];
        for (addresses, expected, why) in cases {
            assert_eq!(primary(addresses), [expected], "{why}");
        }
    }

    #[test]
    fn each_family_has_its_own_primary_address() {
        assert_eq!(primary(vec![on(1, "2001:db8::1"), on(1, "192.0.2.1")]), ["192.0.2.1", "2001:db8::1"]);
        assert!(primary(Vec::new()).is_empty());
    }

    #[test]
    fn the_node_s_primary_address_is_that_of_its_default_route() {
        let route = |device, metric, source: Option<&str>| DefaultRoute {
            device,
            is_v6: false,
            metric,
            preferred_source: source.map(|text| text.parse().unwrap()),
        };
        let addresses = || vec![on(1, "192.0.2.1"), on(2, "192.0.2.2"), on(3, "192.0.2.3")];
        let cases = [
            (vec![route(2, 0, None)], "192.0.2.2"),
            (vec![route(2, 100, None), route(3, 50, None)], "192.0.2.3"),
            (vec![route(2, 0, Some("192.0.2.1"))], "192.0.2.1"),
            (vec![route(2, 0, Some("192.0.2.99"))], "192.0.2.2"),
            (vec![route(9, 0, None)], "192.0.2.3"),
            (vec![], "192.0.2.3"),
        ];
        for (default_routes, expected) in cases {
            let snapshot = Snapshot {
                addresses: addresses(),
                default_routes: default_routes.clone(),
                ..Snapshot::default()
            };
            let found = Primary::of_node(&snapshot, &[3, 1], &BTreeSet::new());
            let expected: IpAddr = expected.parse().unwrap();
            assert_eq!(found.addresses(), BTreeSet::from([expected]), "{default_routes:?}");
        }
    }

    #[test]
    fn an_address_on_another_device_is_better_than_none_but_a_pod_s_is_not() {
        let snapshot =
            Snapshot { addresses: vec![on(1, "192.0.2.1"), on(2, "192.0.2.2")], ..Snapshot::default() };
        let of = |excluded: &[u32]| {
            Primary::of_node(&snapshot, &[], &excluded.iter().copied().collect()).addresses().len()
        };
        assert_eq!((of(&[]), of(&[1]), of(&[1, 2])), (1, 1, 0));
    }
}
