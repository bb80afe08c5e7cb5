//! Frontends: to and from the keys and values of `services4` and `services6`.
//!
//! Must not know where in the ring a list is.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use proxy_common::{Ipv4Be, Ipv6Be, PortBe, Scope, ServiceFlags, ServiceKey, ServiceValue};

use crate::{
    desired::{
        Backend, BackendLists, DesiredServicePort, Family, Frontend, FrontendKey, ListKind, WhenEmpty,
    },
    diff::ServiceOp,
};

/// Key of a service record or address record, of either family. Sorted by address first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey {
    /// Address a client uses.
    pub address: IpAddr,
    /// Port a client uses, in host byte order; 0 in an address record.
    pub port: u16,
    /// IP protocol number; 0 in an address record.
    pub protocol: u8,
    /// See [`Scope`].
    pub scope: u8,
}

/// Where in the ring the backends of a record are, and under which identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RingSlice {
    /// See [`ServiceValue::service_id`].
    pub service_id: u32,
    /// See [`ServiceValue::generation`].
    pub generation: u32,
    /// First position; 0 if there is no backend at all.
    pub base: u32,
    /// Number of backends to choose from.
    pub selectable: u32,
    /// Number of further backends that keep their flows.
    pub keep: u32,
}

/// The two kinds of record that share a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// Says that an address is ours.
    Address,
    /// A frontend.
    Frontend,
}

impl RecordKey {
    /// The key of the address record that this key's lookup meets first. Both scopes share it: whose client it is, is
    /// asked only when the address is known to be ours.
    pub fn address_record(&self) -> Self {
        Self { port: 0, protocol: 0, scope: Scope::Internal as u8, ..*self }
    }

    pub(crate) fn kind(&self) -> RecordKind {
        if self.port == 0 && self.protocol == 0 { RecordKind::Address } else { RecordKind::Frontend }
    }

    /// Which map the record is in.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// The scope, if it is one.
    pub fn scope(&self) -> Option<Scope> {
        [Scope::Internal, Scope::External].into_iter().find(|scope| *scope as u8 == self.scope)
    }

    /// From a key of `services4`.
    pub fn of_v4(key: &ServiceKey<Ipv4Be>) -> Self {
        let address = IpAddr::V4(Ipv4Addr::from(key.address));
        Self { address, port: key.port.to_host(), protocol: key.protocol, scope: key.scope }
    }

    /// From a key of `services6`.
    pub fn of_v6(key: &ServiceKey<Ipv6Be>) -> Self {
        let address = IpAddr::V6(Ipv6Addr::from(key.address));
        Self { address, port: key.port.to_host(), protocol: key.protocol, scope: key.scope }
    }

    /// The write that puts `value`, with its check word, or deletes the record.
    pub fn write(&self, value: Option<ServiceValue>) -> ServiceOp {
        let Self { port, protocol, scope, .. } = *self;
        let port = PortBe::from_host(port);
        match self.address {
            IpAddr::V4(address) => {
                let key = ServiceKey { address: address.into(), port, protocol, scope };
                ServiceOp::V4(key, value.map(|value| value.sealed(&key)))
            }
            IpAddr::V6(address) => {
                let key = ServiceKey { address: address.into(), port, protocol, scope };
                ServiceOp::V6(key, value.map(|value| value.sealed(&key)))
            }
        }
    }
}

impl From<&FrontendKey> for RecordKey {
    fn from(key: &FrontendKey) -> Self {
        Self { address: key.address, port: key.port, protocol: key.protocol as u8, scope: key.scope as u8 }
    }
}

impl ServiceOp {
    /// The key it writes.
    pub fn key(&self) -> RecordKey {
        match self {
            Self::V4(key, _) => RecordKey::of_v4(key),
            Self::V6(key, _) => RecordKey::of_v6(key),
        }
    }

    /// What it puts, or `None` if it deletes.
    pub fn value(&self) -> Option<&ServiceValue> {
        match self {
            Self::V4(_, value) | Self::V6(_, value) => value.as_ref(),
        }
    }

    /// Whether what it puts has the check word that belongs to it; true for a deletion.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::V4(key, value) => value.is_none_or(|value| value.check == value.check_word(key)),
            Self::V6(key, value) => value.is_none_or(|value| value.check == value.check_word(key)),
        }
    }
}

/// The service record of a frontend, without its check word.
pub(crate) fn record(port: &DesiredServicePort, frontend: &Frontend, slice: RingSlice) -> ServiceValue {
    ServiceValue {
        service_id: slice.service_id,
        generation: slice.generation,
        flags: flags(port, frontend, slice.selectable == 0).0,
        affinity_seconds: port.affinity_seconds,
        ring_base: slice.base,
        ring_len: slice.selectable,
        keep_len: slice.keep,
        check: 0,
    }
}

fn flags(port: &DesiredServicePort, frontend: &Frontend, empty: bool) -> ServiceFlags {
    let when_empty = match frontend.when_empty {
        WhenEmpty::Reject => ServiceFlags::REJECT_WHEN_EMPTY,
        WhenEmpty::Drop => ServiceFlags::DROP_WHEN_EMPTY,
    };
    let flags = [
        (empty, when_empty),
        (port.affinity_seconds > 0, ServiceFlags::AFFINITY),
        (!frontend.source_ranges.is_empty(), ServiceFlags::SOURCE_RANGES),
        (frontend.host_netns_only, ServiceFlags::HOST_NETNS_ONLY),
    ];
    ServiceFlags(flags.into_iter().filter(|(set, _)| *set).fold(0, |bits, (_, bit)| bits | bit))
}

/// The backends of a list in the order of the ring: those to choose from, then those that only keep their flows.
/// Backends of another family have no place in this family's arrays and are left out.
pub(crate) fn list(lists: &BackendLists, kind: ListKind, family: Family) -> (Vec<Backend>, Vec<Backend>) {
    let selectable = match kind {
        ListKind::Cluster => &lists.cluster,
        ListKind::Local => &lists.local,
    };
    let of_family = |backends: &mut dyn Iterator<Item = &Backend>| {
        backends.filter(|backend| Family::of(backend.address) == family).copied().collect()
    };
    (of_family(&mut selectable.iter()), of_family(&mut lists.keep.difference(selectable)))
}

/// The clients that the frontends of a port admit, as the kernel keeps them.
pub(crate) fn masked_ranges(port: &DesiredServicePort) -> BTreeSet<IpNetwork> {
    port.frontends.iter().flat_map(|frontend| frontend.source_ranges.iter().map(canonical)).collect()
}

/// The network with its host bits cleared: the trie keeps one entry for all ways to write it.
pub(crate) fn canonical(network: &IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(*network)
}

#[cfg(test)]
mod tests {
    use proxy_common::Protocol;

    use super::*;
    use crate::{
        desired::{FrontendKind, ServicePortName},
        model::ObjectName,
    };

    fn frontend(address: &str) -> Frontend {
        Frontend {
            key: FrontendKey {
                address: address.parse().unwrap(),
                port: 53,
                protocol: Protocol::Udp,
                scope: Scope::External,
            },
            kind: FrontendKind::LoadBalancer,
            list: ListKind::Local,
            when_empty: WhenEmpty::Drop,
            host_netns_only: false,
            owns_address: false,
            source_ranges: Vec::new(),
        }
    }

    fn port(frontend: Frontend, affinity_seconds: u32) -> DesiredServicePort {
        let service = ObjectName::new("kube-system", "dns");
        DesiredServicePort {
            name: ServicePortName { service, port_name: "dns".into(), protocol: Protocol::Udp },
            family: Family::of(frontend.key.address),
            affinity_seconds,
            frontends: vec![frontend],
            unbound: Vec::new(),
            lists: BackendLists::default(),
        }
    }

    #[test]
    fn a_key_survives_the_kernel_form() {
        for (address, family) in
            [("192.0.2.1", Family::V4), ("2001:db8::1", Family::V6), ("::ffff:1.2.3.4", Family::V6)]
        {
            let key = RecordKey::from(&frontend(address).key);
            let op = key.write(Some(record(
                &port(frontend(address), 0),
                &frontend(address),
                RingSlice::default(),
            )));
            assert_eq!((op.key(), op.key().family(), op.is_whole()), (key, family, true));
            assert_eq!((key.kind(), key.scope()), (RecordKind::Frontend, Some(Scope::External)));
            assert_eq!(key.address_record().kind(), RecordKind::Address);
            assert!(key.write(None).value().is_none());
        }
    }

    #[test]
    fn flags_follow_the_frontend_and_whether_it_has_backends() {
        use ServiceFlags as F;
        let plain = frontend("192.0.2.1");
        let reject = Frontend { when_empty: WhenEmpty::Reject, ..plain.clone() };
        let host = Frontend { host_netns_only: true, ..plain.clone() };
        let ranges = Frontend { source_ranges: vec!["10.0.0.0/8".parse().unwrap()], ..plain.clone() };
        let cases = [
            (plain.clone(), 0, 0, F::DROP_WHEN_EMPTY),
            (plain, 0, 2, 0),
            (reject, 10, 0, F::REJECT_WHEN_EMPTY | F::AFFINITY),
            (host, 0, 1, F::HOST_NETNS_ONLY),
            (ranges, 0, 1, F::SOURCE_RANGES),
        ];
        for (frontend, affinity_seconds, selectable, flags) in cases {
            let slice = RingSlice { service_id: 3, generation: 4, base: 5, selectable, keep: 1 };
            let value = record(&port(frontend.clone(), affinity_seconds), &frontend, slice);
            assert_eq!((value.flags, value.affinity_seconds), (flags, affinity_seconds), "{frontend:?}");
            assert_eq!((value.ring_base, value.ring_len, value.keep_len), (5, selectable, 1));
        }
    }

    #[test]
    fn keepers_follow_the_selectable_and_are_not_among_them() {
        let backend = |address: &str| Backend { address: address.parse().unwrap(), port: 80, local: false };
        let (a, b, c) = (backend("10.0.0.1"), backend("10.0.0.2"), backend("fd00::1"));
        let lists = BackendLists { cluster: [b, a].into(), local: [c].into(), keep: [a, b, c].into() };
        assert_eq!(list(&lists, ListKind::Cluster, Family::V4), (vec![a, b], vec![]));
        assert_eq!(list(&lists, ListKind::Local, Family::V4), (vec![], vec![a, b]));
        assert_eq!(list(&lists, ListKind::Local, Family::V6), (vec![c], vec![]));
    }

    #[test]
    fn a_prefix_loses_its_host_bits() {
        for (text, masked) in
            [("10.1.2.3/8", "10.0.0.0/8"), ("2001:db8::1/32", "2001:db8::/32"), ("0.0.0.0/0", "0.0.0.0/0")]
        {
            assert_eq!(canonical(&text.parse().unwrap()), masked.parse().unwrap());
        }
    }
}
