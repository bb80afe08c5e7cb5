//! The one text of frontends and their backends: of desired state, of the kernel maps, of the scenario tests.
//!
//! One line for each frontend, sorted by address, port, protocol and scope:
//!
//! ```text
//! 10.96.0.10:53/UDP internal affinity=10800 -> 10.244.1.5:53 10.244.2.7:53
//! 10.96.0.11:80/TCP internal -> reject
//! 192.0.2.4:80/TCP external sources=10.0.0.0/8,172.16.0.0/12 -> 10.244.1.9:8080 keep 10.244.1.8:8080
//! 127.0.0.1:30080/TCP internal host-only -> drop
//! ```
//!
//! After `keep` come the backends that get no new flow but keep those they have. With ids, a line has also
//! `id=SERVICE gen=GENERATION ring=BASE+SELECTABLE+KEEP`, and `#ID` after each backend. In the kernel's lines, `torn` in place
//! of the backends is a record that its readers refuse, and `free` among them a place that holds no backend.
//! Must not know how a list came to be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
};

use ipnetwork::IpNetwork;
use proxy_common::{BackendId, Protocol, Scope, ServiceFlags, ServiceValue};

use super::{
    BackendKey, RecordKey, RingSlice,
    record::{RecordKind, canonical, list},
};
use crate::{
    desired::{Backend, DesiredService, DesiredServicePort, Family, Frontend, WhenEmpty},
    diff::{RealisedDump, ServiceOp},
};

/// Whether lines show what differs between two runs with the same input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Only what follows from the API objects.
    Hidden,
    /// Service ids, generations, ring positions and backend ids as well. Desired state has none.
    Shown,
}

/// One frontend and its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendLine {
    /// Its identity.
    pub key: RecordKey,
    /// Session affinity time-out in seconds; 0 = none.
    pub affinity_seconds: u32,
    /// Admitted clients, sorted; empty = all.
    pub source_ranges: Vec<IpNetwork>,
    /// Only clients in the host's network namespace.
    pub host_netns_only: bool,
    /// Where its backends are in the ring, if it comes from the kernel and ids are shown.
    pub slice: Option<RingSlice>,
    /// What follows the arrow.
    pub target: Target,
}

/// What a frontend leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Backends.
    Backends {
        /// Those that new flows may choose.
        selectable: Vec<BackendText>,
        /// Those that only keep the flows they have.
        keep: Vec<BackendText>,
        /// What a client gets; only if there is none to choose.
        when_empty: Option<WhenEmpty>,
    },
    /// No whole record.
    Torn,
}

/// One backend of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendText {
    /// Its address and port; `None` if the place holds no whole record.
    pub address: Option<SocketAddr>,
    /// Its id, if it comes from the kernel and ids are shown.
    pub id: Option<BackendId>,
}

/// The lines of desired state.
pub fn of_desired<'a>(services: impl IntoIterator<Item = &'a DesiredService>) -> Vec<FrontendLine> {
    let ports = services.into_iter().flat_map(|service| &service.ports);
    let mut lines: Vec<FrontendLine> = ports
        .flat_map(|port| port.frontends.iter().map(move |frontend| desired_line(port, frontend)))
        .collect();
    lines.sort_by_key(|line| line.key);
    lines
}

/// The lines of the kernel maps. Address records have none: they follow from the frontends.
pub fn of_dump(dump: &RealisedDump, ids: Ids) -> Vec<FrontendLine> {
    let maps = Maps::new(dump, ids);
    let v4 = dump.services4.iter().map(|(key, value)| ServiceOp::V4(*key, Some(*value)));
    let v6 = dump.services6.iter().map(|(key, value)| ServiceOp::V6(*key, Some(*value)));
    let mut lines: Vec<FrontendLine> = v4.chain(v6).filter_map(|record| maps.line(&record)).collect();
    lines.sort_by_key(|line| line.key);
    lines
}

/// Lines as text, each ended by a line feed.
pub fn print(lines: &[FrontendLine]) -> String {
    lines.iter().fold(String::new(), |text, line| text + &line.to_string() + "\n")
}

fn desired_line(port: &DesiredServicePort, frontend: &Frontend) -> FrontendLine {
    let (selectable, keep) = list(&port.lists, frontend.list, port.family);
    let text = |backends: Vec<Backend>| {
        let address = |backend: Backend| Some(SocketAddr::new(backend.address, backend.port));
        backends.into_iter().map(|backend| BackendText { address: address(backend), id: None }).collect()
    };
    let source_ranges: BTreeSet<IpNetwork> = frontend.source_ranges.iter().map(canonical).collect();
    FrontendLine {
        key: RecordKey::from(&frontend.key),
        affinity_seconds: port.affinity_seconds,
        source_ranges: source_ranges.into_iter().collect(),
        host_netns_only: frontend.host_netns_only,
        slice: None,
        target: Target::Backends {
            when_empty: selectable.is_empty().then_some(frontend.when_empty),
            selectable: text(selectable),
            keep: text(keep),
        },
    }
}

/// What resolving a record needs.
struct Maps<'a> {
    ring: &'a [BackendId],
    backends: BTreeMap<(Family, BackendId), BackendKey>,
    ranges: BTreeMap<u32, BTreeSet<IpNetwork>>,
    ids: Ids,
}

impl<'a> Maps<'a> {
    fn new(dump: &'a RealisedDump, ids: Ids) -> Self {
        let v4 = dump.backends4.iter().map(|(id, value)| ((Family::V4, *id), BackendKey::of_v4(*id, value)));
        let v6 = dump.backends6.iter().map(|(id, value)| ((Family::V6, *id), BackendKey::of_v6(*id, value)));
        let backends = v4.chain(v6).filter_map(|(place, key)| Some((place, key?))).collect();
        let mut ranges: BTreeMap<u32, BTreeSet<IpNetwork>> = BTreeMap::new();
        for (id, network) in &dump.source_ranges {
            ranges.entry(*id).or_default().insert(canonical(network));
        }
        Self { ring: &dump.ring, backends, ranges, ids }
    }

    fn line(&self, record: &ServiceOp) -> Option<FrontendLine> {
        let (key, value) = (record.key(), record.value()?);
        if key.kind() == RecordKind::Address {
            return None;
        }
        let flags = value.flags();
        let restricted = flags.has(ServiceFlags::SOURCE_RANGES);
        let ranges = self.ranges.get(&value.service_id).filter(|_| restricted);
        Some(FrontendLine {
            key,
            affinity_seconds: value.affinity_seconds,
            source_ranges: ranges.into_iter().flatten().copied().collect(),
            host_netns_only: flags.has(ServiceFlags::HOST_NETNS_ONLY),
            slice: (self.ids == Ids::Shown).then(|| slice(value)),
            target: self.target(key.family(), value).filter(|_| record.is_whole()).unwrap_or(Target::Torn),
        })
    }

    fn target(&self, family: Family, value: &ServiceValue) -> Option<Target> {
        let drop = value.flags().has(ServiceFlags::DROP_WHEN_EMPTY);
        let when_empty = if drop { WhenEmpty::Drop } else { WhenEmpty::Reject };
        let keep = value.ring_base.checked_add(value.ring_len)?;
        Some(Target::Backends {
            selectable: self.backends(family, value.ring_base, value.ring_len)?,
            keep: self.backends(family, keep, value.keep_len)?,
            when_empty: (value.ring_len == 0).then_some(when_empty),
        })
    }

    fn backends(&self, family: Family, base: u32, length: u32) -> Option<Vec<BackendText>> {
        let end = base.checked_add(length)?;
        let ids = self.ring.get(base as usize..end as usize)?;
        Some(ids.iter().map(|id| self.backend(family, *id)).collect())
    }

    fn backend(&self, family: Family, id: BackendId) -> BackendText {
        let key = self.backends.get(&(family, id));
        let address = key.map(|key| SocketAddr::new(key.address, key.port));
        BackendText { address, id: (self.ids == Ids::Shown).then_some(id) }
    }
}

fn slice(value: &ServiceValue) -> RingSlice {
    RingSlice {
        service_id: value.service_id,
        generation: value.generation,
        base: value.ring_base,
        selectable: value.ring_len,
        keep: value.keep_len,
    }
}

impl fmt::Display for FrontendLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecordKey { address, port, protocol, scope } = self.key;
        write!(f, "{}/", SocketAddr::new(address, port))?;
        named(f, Protocol::from_number(protocol).map(Protocol::as_str), protocol)?;
        f.write_str(" ")?;
        named(f, self.key.scope().map(Scope::as_str), scope)?;
        if self.affinity_seconds > 0 {
            write!(f, " affinity={}", self.affinity_seconds)?;
        }
        if !self.source_ranges.is_empty() {
            let ranges: Vec<String> = self.source_ranges.iter().map(ToString::to_string).collect();
            write!(f, " sources={}", ranges.join(","))?;
        }
        if self.host_netns_only {
            f.write_str(" host-only")?;
        }
        if let Some(RingSlice { service_id, generation, base, selectable, keep }) = self.slice {
            write!(f, " id={service_id} gen={generation} ring={base}+{selectable}+{keep}")?;
        }
        write!(f, " ->{}", self.target)
    }
}

/// A number that should have a name, and is shown as it is if it has none.
fn named(f: &mut fmt::Formatter<'_>, name: Option<&str>, number: u8) -> fmt::Result {
    match name {
        Some(name) => f.write_str(name),
        None => write!(f, "{number}"),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Backends { selectable, keep, when_empty } = self else {
            return f.write_str(" torn");
        };
        match when_empty {
            None => selectable.iter().try_for_each(|backend| write!(f, " {backend}"))?,
            Some(WhenEmpty::Reject) => f.write_str(" reject")?,
            Some(WhenEmpty::Drop) => f.write_str(" drop")?,
        }
        if !keep.is_empty() {
            f.write_str(" keep")?;
        }
        keep.iter().try_for_each(|backend| write!(f, " {backend}"))
    }
}

impl fmt::Display for BackendText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => address.fmt(f)?,
            None => f.write_str("free")?,
        }
        self.id.map_or(Ok(()), |id| write!(f, "#{id}"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proxy_common::{BackendValue, PortBe};

    use super::*;
    use crate::{
        desired::{BackendLists, FrontendKey, FrontendKind, ListKind, ServicePortName},
        diff::BackendOp,
        model::ObjectName,
    };

    fn frontend(address: &str, port: u16, scope: Scope) -> Frontend {
        let address = address.parse().unwrap();
        Frontend {
            key: FrontendKey { address, port, protocol: Protocol::Udp, scope },
            kind: FrontendKind::ClusterIp,
            list: ListKind::Cluster,
            when_empty: WhenEmpty::Reject,
            host_netns_only: false,
            owns_address: true,
            source_ranges: Vec::new(),
        }
    }

    fn service(
        frontends: Vec<Frontend>,
        affinity_seconds: u32,
        cluster: &[u8],
        keep: &[u8],
    ) -> DesiredService {
        let backend = |last: &u8| Backend { address: [10, 244, 0, *last].into(), port: 53, local: false };
        let name = ServicePortName {
            service: ObjectName::new("kube-system", "dns"),
            port_name: String::new(),
            protocol: Protocol::Udp,
        };
        let lists = BackendLists {
            cluster: cluster.iter().map(backend).collect(),
            local: BTreeSet::new(),
            keep: keep.iter().map(backend).collect(),
        };
        let family = Family::V4;
        let port =
            DesiredServicePort { name, family, affinity_seconds, frontends, unbound: Vec::new(), lists };
        DesiredService { ports: vec![port], ..DesiredService::default() }
    }

    /// Maps with these backend ids from position 1 on, and one record that names the first of them.
    fn dump(ids: &[BackendId], selectable: u32, keep: u32) -> RealisedDump {
        let key = RecordKey::from(&frontend("10.96.0.10", 53, Scope::Internal).key);
        let value = ServiceValue {
            service_id: 7,
            generation: 2,
            flags: ServiceFlags::DROP_WHEN_EMPTY,
            affinity_seconds: 0,
            ring_base: 1,
            ring_len: selectable,
            keep_len: keep,
            check: 0,
        };
        let (ServiceOp::V4(key, Some(value)), address) = (key.write(Some(value)), key.address_record())
        else {
            unreachable!()
        };
        let ServiceOp::V4(address, _) = address.write(None) else { unreachable!() };
        let backend = |last: u8| {
            let address = Ipv4Addr::new(10, 244, 0, last).into();
            (u32::from(last), BackendValue::sealed(last.into(), address, PortBe::from_host(53), 17))
        };
        RealisedDump {
            services4: vec![(key, value), (address, value.sealed(&address))],
            ring: [0].into_iter().chain(ids.iter().copied()).collect(),
            backends4: vec![backend(4), backend(5)],
            ..RealisedDump::default()
        }
    }

    #[test]
    fn desired_lines_are_sorted_and_say_all_that_clients_can_notice() {
        let mut outside = frontend("192.0.2.4", 53, Scope::External);
        outside.source_ranges = ["172.16.9.9/12", "10.0.0.0/8"].map(|text| text.parse().unwrap()).to_vec();
        let mut loopback = frontend("127.0.0.1", 30_053, Scope::Internal);
        (loopback.host_netns_only, loopback.when_empty, loopback.list) =
            (true, WhenEmpty::Drop, ListKind::Local);
        let cluster = frontend("10.96.0.10", 53, Scope::Internal);
        let services = [
            service(vec![outside, loopback], 10_800, &[7, 5], &[9, 5]),
            service(vec![cluster], 0, &[], &[]),
            DesiredService::default(),
        ];
        let text = "\
            10.96.0.10:53/UDP internal -> reject\n\
            127.0.0.1:30053/UDP internal affinity=10800 host-only -> drop keep 10.244.0.5:53 10.244.0.9:53\n\
            192.0.2.4:53/UDP external affinity=10800 sources=10.0.0.0/8,172.16.0.0/12 -> 10.244.0.5:53 10.244.0.7:53 \
            keep 10.244.0.9:53\n";
        assert_eq!(print(&of_desired(&services)), text);
    }

    #[test]
    fn the_kernel_has_the_same_lines_and_can_add_the_ids() {
        let dump = dump(&[5, 4], 1, 1);
        let desired =
            of_desired(&[service(vec![frontend("10.96.0.10", 53, Scope::Internal)], 0, &[5], &[4])]);
        assert_eq!(of_dump(&dump, Ids::Hidden), desired);
        let text =
            "10.96.0.10:53/UDP internal id=7 gen=2 ring=1+1+1 -> 10.244.0.5:53#5 keep 10.244.0.4:53#4\n";
        assert_eq!(print(&of_dump(&dump, Ids::Shown)), text);
    }

    #[test]
    fn what_should_not_be_is_shown_as_it_is() {
        let lines = |dump: &RealisedDump| print(&of_dump(dump, Ids::Shown));
        let prefix = "10.96.0.10:53/UDP internal id=7 gen=2";
        assert_eq!(lines(&dump(&[], 0, 0)), format!("{prefix} ring=1+0+0 -> drop\n"));
        assert_eq!(lines(&dump(&[5, 6], 2, 0)), format!("{prefix} ring=1+2+0 -> 10.244.0.5:53#5 free#6\n"));
        assert_eq!(lines(&dump(&[5], 2, 0)), format!("{prefix} ring=1+2+0 -> torn\n"));
        assert_eq!(lines(&dump(&[5], 1, u32::MAX)), format!("{prefix} ring=1+1+4294967295 -> torn\n"));
        let mut torn = dump(&[5], 1, 0);
        torn.services4[0].1.check ^= 1;
        assert_eq!(lines(&torn), format!("{prefix} ring=1+1+0 -> torn\n"));
        let mut foreign = dump(&[], 0, 0);
        (foreign.services4[0].0.protocol, foreign.services4[0].0.scope) = (99, 9);
        foreign.services4[0].1 = foreign.services4[0].1.sealed(&foreign.services4[0].0);
        assert_eq!(lines(&foreign), "10.96.0.10:53/99 9 id=7 gen=2 ring=1+0+0 -> drop\n");
    }

    #[test]
    fn source_ranges_count_only_where_the_record_says_so() {
        let mut dump = dump(&[5], 1, 0);
        dump.source_ranges = vec![(7, "10.0.0.0/8".parse().unwrap()), (8, "11.0.0.0/8".parse().unwrap())];
        assert!(!print(&of_dump(&dump, Ids::Hidden)).contains("sources"));
        let (key, value) = &mut dump.services4[0];
        value.flags = ServiceFlags::SOURCE_RANGES;
        *value = value.sealed(key);
        let text = "10.96.0.10:53/UDP internal sources=10.0.0.0/8 -> 10.244.0.5:53\n";
        assert_eq!(print(&of_dump(&dump, Ids::Hidden)), text);
    }

    #[test]
    fn ipv6_addresses_stand_in_brackets() {
        let backend = Backend { address: "fd00::5".parse().unwrap(), port: 53, local: true };
        let key = BackendKey::new(backend, Protocol::Udp);
        let BackendOp::V6(id, value) = key.put(3) else { unreachable!() };
        let line = FrontendLine {
            key: RecordKey::from(&frontend("fd01::a", 53, Scope::Internal).key),
            affinity_seconds: 0,
            source_ranges: Vec::new(),
            host_netns_only: false,
            slice: None,
            target: Target::Backends {
                selectable: vec![BackendText {
                    address: BackendKey::of_v6(id, &value).map(|key| SocketAddr::new(key.address, key.port)),
                    id: None,
                }],
                keep: Vec::new(),
                when_empty: None,
            },
        };
        assert_eq!(line.to_string(), "[fd01::a]:53/UDP internal -> [fd00::5]:53");
    }
}
