//! Generated states: settings, Services, flows and remembered affinity, out of small pools so that things meet.
//!
//! Must not know packets.

use proptest::prelude::*;
use proptest::sample::select;
use proxy_common::{
    AffinityKey, AffinityValue, BackendFlags, FlowFlags, FlowPlace, FlowState, FlowValue, Ipv4Be, Ipv6Be,
    PortBe, Scope, ServiceFlags, ServiceKey, ServiceValue, SourceRangeKey, names::PROBE_SLOT,
};
use proxy_packet::simulation::Simulation;

use super::egress::{ECHO, Egress, egress, outside};
use super::world::{CLUSTER_IPS, Device, Ip, LOCAL, Named, OWN, node};

/// An address by name, and a port.
pub type End = (&'static str, u16);

/// What clients ask for.
pub const FRONTENDS: [End; 7] =
    [("lb", 80), ("lb2", 80), ("vip", 53), ("vip2", 80), ("node", 30_080), ("onward", 80), ("lb", 81)];
/// Who answers.
pub const BACKENDS: [End; 9] = [
    ("local", 8_080),
    ("local", 80),
    ("local2", 8_080),
    ("remote", 8_080),
    ("remote2", 80),
    ("far", 8_080),
    ("narrow", 8_080),
    ("node", 8_080),
    ("lost", 8_080),
];
/// Who asks.
pub const CLIENTS: [&str; 6] = ["client", "client2", "stranger", "local", "local2", "remote"];
/// From which ports.
pub const PORTS: [u16; 6] = [40_000, 40_001, 1_024, 1_025, 30_080, 80];
/// Protocols that Services have.
pub const PROTOCOLS: [u8; 3] = [6, 17, 132];

/// Ages of flows in seconds, none of them near the end of a state's time.
const AGES: [u32; 8] = [0, 0, 0, 5, 14, 50, 75, 110];

/// A Service.
#[derive(Clone, Debug)]
pub struct Service {
    pub protocol: u8,
    pub frontend: End,
    pub scopes: Vec<Scope>,
    pub backends: Vec<End>,
    pub kept: Vec<End>,
    pub flags: u32,
    pub ranges: Vec<&'static str>,
    pub generation: u32,
}

/// A flow that is there already.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Whether it is one of a Service of the scene: then protocol, frontend and backend are the Service's.
    pub linked: bool,
    pub protocol: u8,
    pub client: End,
    pub frontend: End,
    pub backend: End,
    /// The node's port that the backend sees, if it does not see the client.
    pub node_port: Option<u16>,
    pub state: FlowState,
    pub flags: u8,
    pub age: u32,
    pub generation: u32,
    pub completing_ack: u32,
}

/// What a client's affinity remembers.
#[derive(Clone, Debug)]
pub struct Affinity {
    pub client: &'static str,
    pub service: usize,
    pub backend: End,
    pub age: u32,
    pub current: bool,
}

/// What a node is set to.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub masquerade_all: bool,
    pub host_by_packet: bool,
    /// Egress masquerade.
    pub egress: bool,
    pub source_ports: u32,
    /// Places for flows.
    pub flows_max: u32,
}

/// A state of the node.
#[derive(Clone, Debug)]
pub struct Scene {
    pub ip: Ip,
    pub settings: Settings,
    pub egress: Option<Egress>,
    pub services: Vec<Service>,
    pub flows: Vec<Flow>,
    pub affinity: Vec<Affinity>,
}

fn end(pool: &'static [End]) -> impl Strategy<Value = End> {
    select(pool)
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(6), 4 => Just(17), 1 => Just(132)]
}

fn scopes() -> impl Strategy<Value = Vec<Scope>> {
    let (inside, outside) = (Scope::Internal, Scope::External);
    prop_oneof![3 => Just(vec![inside, outside]), 1 => Just(vec![inside]), 2 => Just(vec![outside])]
}

fn flags() -> impl Strategy<Value = u32> {
    let affinity = ServiceFlags::AFFINITY;
    prop_oneof![
        6 => Just(0),
        2 => Just(affinity),
        1 => Just(ServiceFlags::SOURCE_RANGES),
        1 => Just(ServiceFlags::HOST_NETNS_ONLY),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    let ends = |range| prop::collection::vec(end(&BACKENDS), range);
    (
        protocol(),
        end(&FRONTENDS),
        scopes(),
        prop_oneof![5 => ends(1..4).boxed(), 1 => ends(0..1).boxed()],
        ends(0..2),
        flags(),
        prop::collection::vec(select(&["client", "stranger"][..]), 0..2),
        (1_u32..3, any::<bool>()),
    )
        .prop_map(|(protocol, frontend, scopes, backends, kept, flags, ranges, (generation, drop))| {
            let when_empty =
                if drop { ServiceFlags::DROP_WHEN_EMPTY } else { ServiceFlags::REJECT_WHEN_EMPTY };
            let flags = if backends.is_empty() { flags | when_empty } else { flags };
            Service { protocol, frontend, scopes, backends, kept, flags, ranges, generation }
        })
}

fn flow() -> impl Strategy<Value = Flow> {
    let states = &FlowState::ALL[1..];
    (
        protocol(),
        (select(&CLIENTS[..]), select(&PORTS[..])),
        end(&FRONTENDS),
        end(&BACKENDS),
        prop::option::weighted(0.5, 1_024_u16..1_027),
        (any::<bool>(), select(states)),
        prop_oneof![
            4 => Just(0),
            1 => Just(FlowFlags::CLIENT_ENDED),
            1 => Just(FlowFlags::BACKEND_ENDED),
            1 => Just(FlowFlags::REBUILT),
        ],
        (select(&AGES[..]), 1_u32..3, any::<bool>()),
    )
        .prop_map(
            |(protocol, client, frontend, backend, node_port, state, flags, (age, generation, known))| Flow {
                linked: state.0,
                protocol,
                client,
                frontend,
                backend,
                node_port,
                state: state.1,
                flags,
                age,
                generation,
                completing_ack: if known { 1_000 } else { 0 },
            },
        )
}

fn affinity() -> impl Strategy<Value = Affinity> {
    (select(&CLIENTS[..]), 0_usize..4, end(&BACKENDS), select(&[1_u32, 30][..]), any::<bool>()).prop_map(
        |(client, service, backend, age, current)| Affinity { client, service, backend, age, current },
    )
}

/// Any state with these settings, in either family.
pub fn scene(settings: Settings) -> impl Strategy<Value = Scene> {
    (
        select(&Ip::BOTH[..]),
        prop_oneof![1 => Just(Vec::new()).boxed(), 9 => prop::collection::vec(service(), 1..4).boxed()],
        prop::collection::vec((flow(), outside()), 0..7),
        prop::collection::vec(affinity(), 0..3),
        egress(),
    )
        .prop_map(move |(ip, services, flows, affinity, egress)| {
            let egress = settings.egress.then_some(egress);
            let number = |(number, (mut flow, outside)): (usize, (Flow, Option<End>))| {
                match outside.filter(|_| settings.egress) {
                    Some(outside) => flow.masquerade(outside),
                    None => flow.link(&services, number),
                }
                flow
            };
            let flows = flows.into_iter().enumerate().map(number).collect();
            Scene { ip, settings, egress, services, flows, affinity }
        })
}

/// Any state with any settings, and so many places for flows.
pub fn any_scene(places: impl Strategy<Value = u32>) -> impl Strategy<Value = Scene> {
    (any::<(bool, bool, bool)>(), prop_oneof![Just(1), 1_u32..4, Just(500)], places).prop_flat_map(
        |((masquerade_all, host_by_packet, egress), source_ports, flows_max)| {
            scene(Settings { masquerade_all, host_by_packet, egress, source_ports, flows_max })
        },
    )
}

impl Scene {
    /// The node in this state.
    pub fn world(&self) -> Simulation {
        let mut world = node();
        world.settings.masquerade_all = self.settings.masquerade_all.into();
        world.settings.host_by_packet = self.settings.host_by_packet.into();
        world.settings.source_port_count = self.settings.source_ports;
        world.settings.flows = self.settings.flows_max;
        match self.ip {
            Ip::V4 => self.fill::<Ipv4Be>(&mut world),
            Ip::V6 => self.fill::<Ipv6Be>(&mut world),
        }
        world
    }

    fn fill<A: Named>(&self, world: &mut Simulation) {
        if let Some(egress) = &self.egress {
            egress.apply::<A>(world);
        }
        for (number, service) in (1_u32..).zip(&self.services) {
            service.publish::<A>(number, world);
        }
        for flow in &self.flows {
            flow.enter::<A>(self.ip, world);
        }
        for affinity in self.affinity.iter().filter(|affinity| affinity.service < self.services.len()) {
            affinity.remember::<A>(&self.services[affinity.service], world);
        }
    }
}

fn place<A: Named>(end: End) -> (A, PortBe) {
    (A::named(end.0), PortBe::from_host(end.1))
}

/// The id of a backend, which is entered if it is new.
pub fn backend_id<A: Named>(world: &mut Simulation, end: End, protocol: u8) -> u32 {
    let (address, port) = place::<A>(end);
    let known = A::tables(world)
        .backends
        .iter()
        .find(|(_, known)| (known.address, known.port, known.protocol) == (address, port, protocol));
    if let Some((id, _)) = known {
        return *id;
    }
    let local = LOCAL.contains(&end.0) || OWN.contains(&end.0);
    let flags = if local { BackendFlags::LOCAL } else { 0 };
    world.add_backend(address, end.1, protocol, flags)
}

impl Service {
    fn publish<A: Named>(&self, id: u32, world: &mut Simulation) {
        let ids = |ends: &[End], world: &mut Simulation| {
            ends.iter().map(|end| backend_id::<A>(world, *end, self.protocol)).collect::<Vec<_>>()
        };
        let (chosen, kept) = (ids(&self.backends, world), ids(&self.kept, world));
        let (address, port) = place::<A>(self.frontend);
        let value = ServiceValue {
            service_id: id,
            generation: self.generation,
            flags: self.flags,
            affinity_seconds: if self.flags & ServiceFlags::AFFINITY == 0 { 0 } else { 10 },
            ..ServiceValue::EMPTY
        };
        for scope in &self.scopes {
            let key = ServiceKey { address, port, protocol: self.protocol, scope: *scope as u8 };
            world.serve(key, value, &chosen, &kept);
        }
        let refuses = CLUSTER_IPS.contains(&self.frontend.0);
        let flags = if refuses { ServiceFlags::REFUSE_UNKNOWN_PORT } else { 0 };
        world.note_address(address, Scope::Internal, flags);
        for range in &self.ranges {
            let key = SourceRangeKey { service_id: id, client: A::named(range).to_mapped() };
            world.source_ranges.push((key, if A::FAMILY == 4 { 96 + 24 } else { 64 }));
        }
    }
}

impl Flow {
    /// Makes the flow one of a Service.
    fn link(&mut self, services: &[Service], number: usize) {
        let Some(service) = services.get(number % services.len().max(1)).filter(|_| self.linked) else {
            return;
        };
        let Some(backend) = service.backends.get(number % service.backends.len().max(1)) else { return };
        (self.protocol, self.frontend, self.backend) = (service.protocol, service.frontend, *backend);
    }

    /// The ports of a source that is the node's.
    pub fn source(&self) -> End {
        let own = if matches!(self.backend.0, "far" | "second-neighbour") { "second" } else { "node" };
        self.node_port.map_or(self.client, |port| (own, port))
    }

    fn enter<A: Named>(&self, ip: Ip, world: &mut Simulation) {
        let flow = self.value::<A>(ip, world);
        let places = world.settings.flows;
        let tables = A::tables(world);
        let free = (0..places).find(|slot| !tables.flows.contains_key(slot));
        let keys = [flow.forward_key(), flow.reply_key()];
        // What the path itself never makes is not there either: two flows with one key.
        if let Some(slot) = free.filter(|_| keys.iter().all(|key| !tables.flow_keys.contains_key(key))) {
            let flow = FlowValue { serial: slot + 1, ..flow };
            for key in keys {
                tables.flow_keys.insert(key, FlowPlace { slot, serial: flow.serial });
            }
            tables.flows.insert(slot, flow);
            world.note_flow(&flow);
        }
    }

    fn value<A: Named>(&self, ip: Ip, world: &mut Simulation) -> FlowValue<A> {
        let (client, client_port) = place(self.client);
        let (frontend, frontend_port) = place(self.frontend);
        let (backend, backend_port) = place(self.backend);
        let (source, source_port) = place(self.source());
        let node = if self.node_port.is_some() { FlowFlags::SOURCE_IS_NODE } else { 0 };
        let key = ServiceKey {
            address: frontend,
            port: frontend_port,
            protocol: self.protocol,
            scope: Scope::External as u8,
        };
        let service_id = A::tables(world).services.get(&key).map_or(9, |service| service.service_id);
        debug_assert!(matches!((ip, A::FAMILY), (Ip::V4, 4) | (Ip::V6, 6)));
        let masqueraded = self.is_masqueraded();
        FlowValue {
            client,
            frontend,
            backend,
            source,
            client_port,
            frontend_port,
            backend_port,
            source_port,
            protocol: if self.protocol == ECHO { A::ICMP } else { self.protocol },
            state: self.state as u8,
            flags: self.flags | node,
            scope: if masqueraded { Scope::Internal } else { Scope::External } as u8,
            serial: 0,
            service_id: if masqueraded { 0 } else { service_id },
            generation: if masqueraded { 0 } else { self.generation },
            backend_id: if masqueraded {
                PROBE_SLOT
            } else {
                backend_id::<A>(world, self.backend, self.protocol)
            },
            completing_ack: self.completing_ack,
            seen_s: u32::try_from(world.clock_ns / 1_000_000_000).unwrap_or(0).wrapping_sub(self.age),
            device: 0,
        }
    }
}

impl Affinity {
    fn remember<A: Named>(&self, service: &Service, world: &mut Simulation) {
        let (address, port) = place::<A>(service.frontend);
        let key = ServiceKey { address, port, protocol: service.protocol, scope: service.scopes[0] as u8 };
        let Some(record) = A::tables(world).services.get(&key).copied() else { return };
        let key = AffinityKey::of_address(A::named(self.client).to_mapped(), record.service_id, A::FAMILY);
        // A tag is current only for a backend that could be chosen under it.
        let backend_id = backend_id::<A>(world, self.backend, service.protocol);
        let chosen = world.ring.iter().skip(record.ring_base as usize).take(record.ring_len as usize);
        let current = self.current && chosen.into_iter().any(|id| *id == backend_id);
        let generation = if current { record.generation } else { record.generation.wrapping_sub(1) };
        let value = AffinityValue {
            backend_id,
            tag: key.tag(generation),
            last_used_ns: world.clock_ns - u64::from(self.age) * 1_000_000_000,
        };
        world.affinity.insert(key, value);
    }
}

/// Devices at which a hook may be.
pub const NODE_DEVICES: [Device; 2] = [Device::Eth0, Device::Eth1];
/// Likewise of pods.
pub const POD_DEVICES: [Device; 2] = [Device::Pod0, Device::Pod1];
