//! What people see of the kernel maps: records joined to Services, backends and names.
//!
//! One function for a running agent (with names) and for the pinned maps of a dead one (without).
//! Must not know how it is shown.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use proxy_common::{
    Address, BackendId, BackendValue, Hook, Protocol, Scope, ServiceFlags, ServiceKey, ServiceValue,
    SocketEvent, Verdict,
};
use proxy_core::{
    desired::{Family, FrontendKey, FrontendKind},
    diff::RealisedDump,
};
use serde::{Deserialize, Serialize};

use crate::{dataplane::MapUsage, reconcile::FrontendNames};

/// One service record of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// `namespace/name`; absent without an agent to ask.
    pub service: Option<String>,
    /// The port's name.
    pub port_name: Option<String>,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub kind: Option<String>,
    /// Address and port that clients use.
    pub frontend: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `internal` or `external`.
    pub scope: String,
    /// The record's service id.
    pub id: u32,
    /// Address and port of the backends that new connections choose from.
    pub backends: Vec<String>,
    /// Further backends that keep the connections they have.
    pub draining: Vec<String>,
    /// What a client gets without backends: `reject` or `drop`.
    pub when_empty: String,
    /// Session affinity in seconds; 0: none.
    pub affinity_seconds: u32,
    /// Admitted clients; empty: all.
    pub source_ranges: Vec<String>,
}

/// One backend of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    /// Its id in its family.
    pub id: u32,
    /// Address and port.
    pub address: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The Services that use it: their names, or the ids of the service records without an agent to ask.
    pub services: Vec<String>,
}

/// One map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapView {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Entries in use; absent where the kernel does not tell.
    pub used: Option<u64>,
    /// Entries there is room for.
    pub capacity: u64,
    /// Memory in bytes.
    pub bytes: Option<u64>,
}

impl From<MapUsage> for MapView {
    fn from(usage: MapUsage) -> Self {
        let MapUsage { name, kind, used, capacity, bytes } = usage;
        Self { name, kind, used, capacity, bytes }
    }
}

/// One decision at a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    /// Nanoseconds since boot, not counting suspend.
    pub timestamp_ns: u64,
    /// The system call: `connect` or `sendmsg`.
    pub hook: String,
    /// What became of it.
    pub verdict: String,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// Where the program wanted to go.
    pub frontend: String,
    /// Where it went; absent if it was refused.
    pub backend: Option<String>,
    /// `namespace/name`, if known.
    pub service: Option<String>,
    /// Process id.
    pub pid: u32,
    /// The process's command name.
    pub command: String,
    /// Cookie of the process's network namespace.
    pub netns_cookie: u64,
}

/// Services and backends of a dump, sorted.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Views {
    /// Sorted by name, then frontend.
    pub services: Vec<ServiceView>,
    /// Sorted by family and id.
    pub backends: Vec<BackendView>,
}

impl Views {
    /// Joins what the maps hold with the names that the agent knows.
    pub fn new(dump: &RealisedDump, names: &FrontendNames) -> Self {
        let mut join = Join::new(dump, names);
        for (key, value) in &dump.services4 {
            join.record(Family::V4, IpAddr::V4(key.address.into()), key, value);
        }
        for (key, value) in &dump.services6 {
            join.record(Family::V6, IpAddr::V6(key.address.into()), key, value);
        }
        join.finish()
    }
}

/// The places of both families.
type Places = BTreeMap<(Family, BackendId), (SocketAddr, u8)>;

struct Join<'a> {
    dump: &'a RealisedDump,
    names: &'a FrontendNames,
    places: Places,
    source_ranges: HashMap<u32, Vec<String>>,
    services: Vec<((bool, ServiceSort), ServiceView)>,
    users: BTreeMap<(Family, BackendId), BTreeSet<String>>,
}

/// Sort key: name, address, port, protocol, scope.
type ServiceSort = (Option<String>, SocketAddr, String, String);

impl<'a> Join<'a> {
    fn new(dump: &'a RealisedDump, names: &'a FrontendNames) -> Self {
        let v4 = dump.backends4.iter().filter_map(|(id, value)| {
            Some(((Family::V4, *id), place(value, IpAddr::V4(value.address.into()))?))
        });
        let v6 = dump.backends6.iter().filter_map(|(id, value)| {
            Some(((Family::V6, *id), place(value, IpAddr::V6(value.address.into()))?))
        });
        let mut source_ranges: HashMap<u32, Vec<String>> = HashMap::new();
        for (id, network) in &dump.source_ranges {
            source_ranges.entry(*id).or_default().push(network.to_string());
        }
        source_ranges.values_mut().for_each(|ranges| ranges.sort());
        Self {
            dump,
            names,
            places: v4.chain(v6).collect(),
            source_ranges,
            services: Vec::new(),
            users: BTreeMap::new(),
        }
    }

    fn record<A: Address>(
        &mut self,
        family: Family,
        address: IpAddr,
        key: &ServiceKey<A>,
        value: &ServiceValue,
    ) {
        let Some(protocol) = Protocol::from_number(key.protocol) else { return };
        let scope = if key.scope == Scope::External as u8 { Scope::External } else { Scope::Internal };
        let frontend = SocketAddr::new(address, key.port.to_host());
        let name = self.names.get(&FrontendKey { address, port: frontend.port(), protocol, scope });
        let service = name.map(|name| name.port.service.to_string());
        let flags = value.flags();
        let view = ServiceView {
            port_name: name.map(|name| name.port.port_name.clone()),
            kind: name.map(|name| kind_name(name.kind).to_owned()),
            frontend: frontend.to_string(),
            protocol: protocol.to_string(),
            scope: scope.to_string(),
            id: value.service_id,
            backends: self.backends(
                family,
                value.ring_base,
                value.ring_len,
                service.as_deref(),
                value.service_id,
            ),
            draining: self.backends(
                family,
                value.ring_base.saturating_add(value.ring_len),
                value.keep_len,
                service.as_deref(),
                value.service_id,
            ),
            when_empty: if flags.has(ServiceFlags::DROP_WHEN_EMPTY) { "drop" } else { "reject" }.to_owned(),
            affinity_seconds: value.affinity_seconds,
            source_ranges: if flags.has(ServiceFlags::SOURCE_RANGES) {
                self.source_ranges.get(&value.service_id).cloned().unwrap_or_default()
            } else {
                Vec::new()
            },
            service,
        };
        let sort = (view.service.clone(), frontend, view.protocol.clone(), view.scope.clone());
        self.services.push(((view.service.is_none(), sort), view));
    }

    /// Addresses behind a range of the ring, and a note of who uses them.
    fn backends(
        &mut self,
        family: Family,
        base: u32,
        length: u32,
        service: Option<&str>,
        id: u32,
    ) -> Vec<String> {
        let user = service.map_or_else(|| format!("#{id}"), str::to_owned);
        let base = usize::try_from(base).unwrap_or(usize::MAX);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let ids = self.dump.ring.iter().skip(base).take(length);
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for id in ids {
            self.users.entry((family, *id)).or_default().insert(user.clone());
            addresses.extend(self.places.get(&(family, *id)).map(|(address, _)| *address));
        }
        addresses.sort_unstable();
        addresses.iter().map(ToString::to_string).collect()
    }

    fn finish(mut self) -> Views {
        self.services.sort_by(|(a, _), (b, _)| a.cmp(b));
        let backends = self.places.iter().map(|(place, (address, protocol))| BackendView {
            id: place.1,
            address: address.to_string(),
            protocol: protocol_name(*protocol),
            services: self.users.get(place).into_iter().flatten().cloned().collect(),
        });
        Views {
            backends: backends.collect(),
            services: self.services.into_iter().map(|(_, view)| view).collect(),
        }
    }
}

/// What is in a place; `None` if it is free or not whole.
fn place<A: Address>(value: &BackendValue<A>, address: IpAddr) -> Option<(SocketAddr, u8)> {
    (value.protocol != 0).then(|| (SocketAddr::new(address, value.port.to_host()), value.protocol))
}

fn protocol_name(number: u8) -> String {
    Protocol::from_number(number).map_or_else(|| number.to_string(), |protocol| protocol.to_string())
}

/// The kind as `sheave render` prints it.
fn kind_name(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::LoadBalancer => "LoadBalancer",
        FrontendKind::ExternalIp => "ExternalIP",
        FrontendKind::HostPort => "HostPort",
    }
}

impl EventView {
    /// An event of the kernel with the name of its frontend, if there is one.
    pub fn new(event: &SocketEvent, names: &FrontendNames) -> Self {
        let frontend = socket_address(event.frontend.into(), event.frontend_port.to_host());
        let backend = socket_address(event.backend.into(), event.backend_port.to_host());
        let name = Protocol::from_number(event.protocol).and_then(|protocol| {
            let key = FrontendKey {
                address: frontend.ip(),
                port: frontend.port(),
                protocol,
                scope: Scope::Internal,
            };
            names.get(&key)
        });
        let command: Vec<u8> = event.command.iter().copied().take_while(|byte| *byte != 0).collect();
        Self {
            timestamp_ns: event.timestamp_ns,
            hook: hook_name(event.hook).to_owned(),
            verdict: verdict_name(event.verdict).to_owned(),
            protocol: protocol_name(event.protocol),
            frontend: frontend.to_string(),
            backend: (event.backend_port.to_host() != 0).then(|| backend.to_string()),
            service: name.map(|name| name.port.service.to_string()),
            pid: event.pid,
            command: String::from_utf8_lossy(&command).into_owned(),
            netns_cookie: event.netns_cookie,
        }
    }
}

/// IPv4 as a person writes it.
fn socket_address(address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

fn hook_name(hook: u8) -> &'static str {
    if hook == Hook::Sendmsg as u8 { "sendmsg" } else { "connect" }
}

fn verdict_name(verdict: u8) -> &'static str {
    const NAMES: [(Verdict, &str); 6] = [
        (Verdict::Translated, "translated"),
        (Verdict::RefusedNoEndpoint, "refused-no-endpoint"),
        (Verdict::RefusedUnknownPort, "refused-unknown-port"),
        (Verdict::DroppedNoLocalEndpoint, "dropped-no-local-endpoint"),
        (Verdict::RefusedUnstable, "refused-unstable-record"),
        (Verdict::DroppedSourceRange, "dropped-source-range"),
    ];
    NAMES.iter().find(|(known, _)| *known as u8 == verdict).map_or("unknown", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proxy_common::PortBe;
    use proxy_core::{desired::ServicePortName, model::ObjectName};

    use super::*;
    use crate::reconcile::FrontendName;

    fn dump() -> RealisedDump {
        let key = ServiceKey {
            address: Ipv4Addr::new(10, 96, 0, 1).into(),
            port: PortBe::from_host(80),
            protocol: Protocol::Tcp as u8,
            scope: Scope::Internal as u8,
        };
        let value = ServiceValue {
            service_id: 7,
            generation: 1,
            flags: ServiceFlags::REJECT_WHEN_EMPTY,
            affinity_seconds: 0,
            ring_base: 1,
            ring_len: 2,
            keep_len: 1,
            check: 0,
        };
        let backend = |id: u32| {
            let address = Ipv4Addr::new(10, 244, 0, u8::try_from(id).unwrap()).into();
            (id, BackendValue::sealed(id, address, PortBe::from_host(8080), Protocol::Tcp as u8))
        };
        let record = ServiceKey::address_record(key.address, Scope::Internal);
        RealisedDump {
            services4: vec![(key, value), (record, ServiceValue { ring_len: 0, ..value })],
            ring: vec![0, 3, 2, 4],
            backends4: vec![backend(2), backend(3), backend(4)],
            ..RealisedDump::default()
        }
    }

    fn names() -> FrontendNames {
        let address = "10.96.0.1".parse().unwrap();
        let key = FrontendKey { address, port: 80, protocol: Protocol::Tcp, scope: Scope::Internal };
        let service = ObjectName::new("shop", "cart");
        let port = ServicePortName { service, port_name: "http".to_owned(), protocol: Protocol::Tcp };
        FrontendNames::from([(key, FrontendName { port, kind: FrontendKind::ClusterIp })])
    }

    #[test]
    fn a_record_shows_its_backends_and_a_backend_its_services() {
        let views = Views::new(&dump(), &names());
        assert_eq!(views.services.len(), 1, "address records are no Services");
        let service = &views.services[0];
        assert_eq!(service.service.as_deref(), Some("shop/cart"));
        assert_eq!(service.kind.as_deref(), Some("ClusterIP"));
        assert_eq!(service.frontend, "10.96.0.1:80");
        assert_eq!(service.backends, ["10.244.0.2:8080", "10.244.0.3:8080"]);
        assert_eq!(service.draining, ["10.244.0.4:8080"]);
        let users: Vec<_> =
            views.backends.iter().map(|backend| (backend.id, backend.services.concat())).collect();
        assert_eq!(users, [2, 3, 4].map(|id| (id, "shop/cart".to_owned())));
    }

    #[test]
    fn without_an_agent_the_ids_stand_for_the_names() {
        let views = Views::new(&dump(), &FrontendNames::new());
        assert_eq!(views.services[0].service, None);
        assert_eq!(views.services[0].id, 7);
        assert_eq!(views.backends[0].services, ["#7"]);
    }

    #[test]
    fn an_event_shows_ipv4_as_people_write_it_and_the_service_s_name() {
        let mapped = |last| Ipv4Addr::new(10, 96, 0, last).to_ipv6_mapped().into();
        let mut command = [0; 16];
        command[..4].copy_from_slice(b"curl");
        let event = SocketEvent {
            timestamp_ns: 5,
            netns_cookie: 1,
            frontend: mapped(1),
            backend: mapped(9),
            frontend_port: PortBe::from_host(80),
            backend_port: PortBe::from_host(8080),
            service_id: 7,
            pid: 12,
            protocol: Protocol::Tcp as u8,
            hook: Hook::Connect as u8,
            verdict: Verdict::Translated as u8,
            reserved: 0,
            command,
        };
        let view = EventView::new(&event, &names());
        assert_eq!(
            (view.frontend.as_str(), view.backend.as_deref()),
            ("10.96.0.1:80", Some("10.96.0.9:8080"))
        );
        assert_eq!((view.command.as_str(), view.verdict.as_str()), ("curl", "translated"));
        assert_eq!(view.service.as_deref(), Some("shop/cart"));
    }
}
