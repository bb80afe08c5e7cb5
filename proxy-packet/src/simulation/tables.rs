//! The tables of one family, as ordered maps.
//!
//! Must not know packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use proxy_common::{
    AffinityKey, AffinityValue, BackendId, BackendValue, Bit, DeviceValue, FlowFlags, FlowKey, FlowPlace,
    FlowValue, FragmentKey, FragmentValue, Ipv4Be, Ipv6Be, MasqueradeKey, MasqueradeKind, PacketSettings,
    PodRanges, PortBe, Scope, ServiceKey, ServiceValue, SourceRangeKey, addr::wire,
};

use super::Simulation;
use crate::{
    Work,
    env::{Env, Reached, Read, Step, Tables},
    wire::Wire,
    work::Route,
};

/// What there is of each table of a family.
#[derive(Clone, Debug, Default)]
pub struct Family<A> {
    /// `services4` or `services6`.
    pub services: BTreeMap<ServiceKey<A>, ServiceValue>,
    /// `backends4` or `backends6`.
    pub backends: BTreeMap<BackendId, BackendValue<A>>,
    /// `flow_keys4` or `flow_keys6`.
    pub flow_keys: BTreeMap<FlowKey<A>, FlowPlace>,
    /// `flows4` or `flows6`; what is not there is free.
    pub flows: BTreeMap<u32, FlowValue<A>>,
    /// `fragments4` or `fragments6`.
    pub fragments: BTreeMap<FragmentKey<A>, FragmentValue>,
    /// Routes; the longest prefix wins.
    pub routes: Vec<Path<A>>,
    /// Address, port and protocol of the host's sockets; the unspecified address means every one.
    pub sockets: BTreeSet<(A, PortBe, u8)>,
    /// Records that are being written: a reader sees no whole copy.
    pub torn: BTreeSet<ServiceKey<A>>,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<A> {
    /// Destinations.
    pub network: A,
    /// How many bits of them count.
    pub bits: u32,
    /// The device, or 0: to the host itself.
    pub device: u32,
    /// The router, if there is one.
    pub router: Option<A>,
    /// The most that the link takes.
    pub mtu: u32,
}

/// A family of a [`Simulation`].
pub trait Simulated: Wire + Ord {
    /// Its tables.
    fn tables(simulation: &mut Simulation) -> &mut Family<Self>;
}

impl Simulated for Ipv4Be {
    fn tables(simulation: &mut Simulation) -> &mut Family<Self> {
        &mut simulation.four
    }
}

impl Simulated for Ipv6Be {
    fn tables(simulation: &mut Simulation) -> &mut Family<Self> {
        &mut simulation.six
    }
}

impl Simulation {
    /// Adds a backend; its id is the next one.
    pub fn add_backend<A: Simulated>(&mut self, address: A, port: u16, protocol: u8, flags: u8) -> BackendId {
        let backends = &mut A::tables(self).backends;
        let id = backends.last_key_value().map_or(1, |(last, _)| last + 1);
        let mut value = BackendValue::sealed(id, address, PortBe::from_host(port), protocol);
        value.flags = flags;
        value.check = value.check_word(id);
        backends.insert(id, value);
        id
    }

    /// Writes a service record that chooses from `backends`, while those of `kept` only keep the flows they have.
    /// Place and number in the ring are set here.
    pub fn serve<A: Simulated>(
        &mut self,
        key: ServiceKey<A>,
        mut service: ServiceValue,
        backends: &[BackendId],
        kept: &[BackendId],
    ) {
        service.ring_base = count(self.ring.len());
        service.ring_len = count(backends.len());
        service.keep_len = count(kept.len());
        self.ring.extend_from_slice(backends);
        self.ring.extend_from_slice(kept);
        A::tables(self).services.insert(key, service.sealed(&key));
    }

    /// Writes the address record of a Service address.
    pub fn note_address<A: Simulated>(&mut self, address: A, scope: Scope, flags: u32) {
        let key = ServiceKey::address_record(address, scope);
        let record = ServiceValue { flags, ..ServiceValue::EMPTY };
        A::tables(self).services.insert(key, record.sealed(&key));
    }

    /// Has `pod_ranges` hold the first prefix of each family that is pods' in `masquerade`, and nothing else, as the agent has
    /// it. IPv6's must not be longer than 64 bits.
    pub fn confine_pods(&mut self) {
        // An address that none has behind the mask of no bits.
        let (four_unused, six_unused) = ([1, 0], [1, 0, 0, 0]);
        let (mut four, mut six) = (four_unused, six_unused);
        for (key, bits, _) in self.masquerade.iter().filter(|(_, _, kind)| *kind == MasqueradeKind::Pod) {
            let [a, b, _, last] = key.address.network_words();
            let mask = |bits: u32| first_bits(bits.min(32));
            if *bits > 96 {
                four = [last & mask(bits - 96), mask(bits - 96)];
            } else {
                let second = mask(bits.saturating_sub(32));
                six = [a & mask(*bits), b & second, mask(*bits), second];
            }
        }
        let (four, six) = ([four, four_unused], [six, six_unused]);
        self.pod_ranges = PodRanges { exact: 1, full: 0, four, six };
    }

    /// Sets the bit of a flow that is put into the tables from outside.
    pub fn note_flow<A: Simulated>(&mut self, flow: &FlowValue<A>) {
        self.flow_filter.insert(Bit::of_flow(flow));
        if flow.flags().has(FlowFlags::MASQUERADED) {
            self.flow_filter.insert(Bit::of_masqueraded(flow.frontend));
        }
    }

    /// Adds a route through a device.
    pub fn add_route<A: Simulated>(
        &mut self,
        network: A,
        bits: u32,
        device: u32,
        router: Option<A>,
        mtu: u32,
    ) {
        A::tables(self).routes.push(Path { network, bits, device, router, mtu });
    }

    /// Makes an address the host's own.
    pub fn add_host_address<A: Simulated>(&mut self, address: A) {
        let bits = if A::FAMILY == 4 { 32 } else { 128 };
        A::tables(self).routes.push(Path { network: address, bits, device: 0, router: None, mtu: u32::MAX });
    }
}

impl<A: Simulated> Tables<A> for Simulation {
    fn service(&mut self, key: &ServiceKey<A>, to: &mut ServiceValue) -> Read {
        let tables = A::tables(self);
        match tables.services.get(key) {
            None => Read::Missing,
            Some(value) if tables.torn.contains(key) || value.check != value.check_word(key) => Read::Torn,
            Some(value) => {
                *to = *value;
                Read::Whole
            }
        }
    }

    fn may_be_served(&mut self, address: A) -> bool {
        let bit = Bit::of_address(address);
        A::tables(self).services.keys().any(|key| Bit::of_address(key.address) == bit)
    }

    fn may_be_pod(&mut self, address: A) -> bool {
        let PodRanges { exact, full, four, six } = self.pod_ranges;
        let head = [exact, full];
        let words: Vec<u32> = [&head[..], four.as_flattened(), six.as_flattened()].concat();
        PodRanges::may_hold(address.words(), A::FAMILY == 4, |at| words.get(at).copied().unwrap_or(0))
    }

    fn is_noted(&mut self, bit: Bit) -> bool {
        self.flow_filter.contains(&bit)
    }

    fn note(&mut self, bit: Bit) {
        self.flow_filter.insert(bit);
    }

    fn ring(&mut self, position: u32, to: &mut BackendId) -> bool {
        copy(self.ring.get(position as usize), to)
    }

    fn backend(&mut self, id: BackendId, to: &mut BackendValue<A>) -> bool {
        let backends = &A::tables(self).backends;
        copy(backends.get(&id).filter(|backend| backend.is_whole(id)), to)
    }

    fn lists(&mut self, base: u32, length: u32, id: BackendId) -> bool {
        self.ring.iter().skip(base as usize).take(length as usize).any(|listed| *listed == id)
    }

    fn admitted(&mut self, key: &SourceRangeKey) -> bool {
        self.source_ranges.iter().any(|(range, bits)| {
            range.service_id == key.service_id && same(range.client.words(), key.client.words(), *bits)
        })
    }

    fn affinity(&mut self, key: &AffinityKey, to: &mut AffinityValue) -> bool {
        copy(self.affinity.get(key), to)
    }

    fn set_affinity(&mut self, key: &AffinityKey, value: &AffinityValue) {
        self.affinity.insert(*key, *value);
    }

    fn flow_place(&mut self, key: &FlowKey<A>, to: &mut FlowPlace) -> bool {
        copy(A::tables(self).flow_keys.get(key), to)
    }

    fn enter_flow_key(&mut self, key: &FlowKey<A>, place: &FlowPlace) -> bool {
        let keys = &mut A::tables(self).flow_keys;
        !keys.contains_key(key) && keys.insert(*key, *place).is_none()
    }

    fn remove_flow_key(&mut self, key: &FlowKey<A>) {
        A::tables(self).flow_keys.remove(key);
    }

    fn flow(&mut self, slot: u32, to: &mut FlowValue<A>) -> bool {
        if slot >= self.settings.flows {
            return false;
        }
        *to = A::tables(self).flows.get(&slot).copied().unwrap_or(FlowValue::FREE);
        true
    }

    fn set_flow(&mut self, slot: u32, flow: &FlowValue<A>) {
        if slot < self.settings.flows {
            A::tables(self).flows.insert(slot, *flow);
        }
    }

    fn touch_flow(&mut self, slot: u32, flow: &FlowValue<A>) {
        if let Some(there) = A::tables(self).flows.get_mut(&slot)
            && there.serial == flow.serial
        {
            there.state = there.state.max(flow.state);
            there.flags = there.flags & !FlowFlags::REBUILT | flow.flags;
            there.service_id = flow.service_id;
            there.generation = flow.generation;
            there.completing_ack = flow.completing_ack;
            there.seen_s = flow.seen_s;
        }
    }

    fn fragment(&mut self, key: &FragmentKey<A>, to: &mut FragmentValue) -> bool {
        copy(A::tables(self).fragments.get(key), to)
    }

    fn set_fragment(&mut self, key: &FragmentKey<A>, value: &FragmentValue) {
        A::tables(self).fragments.insert(*key, *value);
    }

    fn device_of(&mut self, index: u32, to: &mut DeviceValue) -> bool {
        copy(self.devices.get(&index), to)
    }

    fn masquerade(&mut self, key: &MasqueradeKey) -> u32 {
        let fits = |(prefix, bits, _): &&(MasqueradeKey, u32, _)| {
            same(prefix.address.words(), key.address.words(), *bits)
        };
        let longest = self.masquerade.iter().filter(fits).max_by_key(|(_, bits, _)| *bits);
        longest.map_or(0, |(_, _, kind)| *kind as u32)
    }

    fn route(&mut self, route: &mut Route<A>) -> Reached {
        let wanted = route.destination.words();
        let fits = |path: &&Path<A>| same(path.network.words(), wanted, path.bits);
        let Some(path) = A::tables(self).routes.iter().filter(fits).max_by_key(|path| path.bits) else {
            return Reached::Nowhere;
        };
        if path.device == 0 {
            return Reached::Host;
        }
        route.device = path.device;
        if route.length > path.mtu {
            route.mtu = path.mtu;
            return Reached::TooBig;
        }
        route.destination = path.router.unwrap_or(route.destination);
        Reached::Device
    }

    fn face_pod(&mut self, device: u32) -> bool {
        self.endpoints.contains(&device)
    }

    fn host_socket(&mut self, key: &FlowKey<A>) -> bool {
        let sockets = &A::tables(self).sockets;
        let used = |address| sockets.contains(&(address, key.destination_port, key.protocol));
        used(key.destination) || used(A::UNSPECIFIED)
    }

    fn search<S: Step<A, Self>>(&mut self, work: &mut Work<A>, attempts: u32) -> bool {
        (0..attempts).any(|number| S::attempt(self, work, number))
    }
}

impl<A: Simulated> Env<A> for Simulation {
    fn setting(&self, word: usize) -> u32 {
        // SAFETY: a shared struct is repr(C), has no padding (its SCHEMA proves it) and here consists of words.
        let words: [u32; size_of::<PacketSettings>() / 4] = unsafe { core::mem::transmute(self.settings) };
        words.get(word).copied().unwrap_or(0)
    }
}

fn copy<T: Copy>(from: Option<&T>, to: &mut T) -> bool {
    from.map(|value| *to = *value).is_some()
}

/// Whether two addresses are the same in their first bits.
fn same(one: [u32; 4], other: [u32; 4], bits: u32) -> bool {
    one.iter().zip(other).enumerate().all(|(index, (one, other))| {
        let counted = bits.saturating_sub(count(index) * 32).min(32);
        let mask = u32::MAX.checked_shl(32 - counted).unwrap_or(0);
        (u32::from_be(*one) ^ u32::from_be(other)) & mask == 0
    })
}

/// The first bits of a word, network byte order.
fn first_bits(bits: u32) -> u32 {
    u32::from_ne_bytes(wire::word_bytes(u32::MAX.checked_shl(32 - bits).unwrap_or(0)))
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proxy_common::{Address as _, Protocol};

    use super::*;

    fn v4(last: u8) -> Ipv4Be {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    fn key() -> ServiceKey<Ipv4Be> {
        ServiceKey {
            address: v4(1),
            port: PortBe::from_host(80),
            protocol: Protocol::Tcp as u8,
            scope: Scope::Internal as u8,
        }
    }

    #[test]
    fn a_service_is_read_with_its_place_in_the_ring() {
        let mut simulation = Simulation::new();
        let ids = [1, 2, 3].map(|last| simulation.add_backend(v4(last), 8_080, 6, 0));
        simulation.serve(key(), ServiceValue { service_id: 9, ..ServiceValue::EMPTY }, &ids[..1], &[]);
        let other = ServiceKey { port: PortBe::from_host(81), ..key() };
        simulation.serve(other, ServiceValue::EMPTY, &ids[1..2], &ids[2..]);
        let mut record = ServiceValue::EMPTY;
        assert_eq!(simulation.service(&other, &mut record), Read::Whole);
        assert_eq!((record.ring_base, record.ring_len, record.keep_len), (1, 1, 1));
        let lists = |base, length, id| Tables::<Ipv4Be>::lists(&mut simulation.clone(), base, length, id);
        assert_eq!([ids[0], ids[1], ids[2]].map(|id| lists(1, 2, id)), [false, true, true]);
        simulation.four.torn.insert(other);
        assert_eq!(simulation.service(&other, &mut record), Read::Torn);
        assert_eq!(simulation.service(&ServiceKey { scope: 1, ..key() }, &mut record), Read::Missing);
    }

    #[test]
    fn the_longest_prefix_decides_the_way() {
        let mut simulation = Simulation::new();
        simulation.add_route(v4(0), 0, 2, Some(v4(254)), 1_400);
        simulation.add_route(v4(0), 24, 3, None, 1_500);
        simulation.add_host_address(v4(9));
        let far = Ipv4Addr::new(198, 51, 100, 1).into();
        let cases = [
            (v4(7), 1_500, Reached::Device, 3, v4(7)),
            (v4(9), 9_000, Reached::Host, 0, v4(9)),
            (far, 1_400, Reached::Device, 2, v4(254)),
            (far, 1_401, Reached::TooBig, 2, far),
        ];
        for (destination, length, expected, device, next) in cases {
            let mut route = Route { destination, length, ..Route::NONE };
            assert_eq!(simulation.route(&mut route), expected);
            assert_eq!((route.device, route.destination), (device, next));
        }
        let mut route = Route { destination: Ipv6Be::from_network_words([1; 4]), ..Route::NONE };
        assert_eq!(simulation.route(&mut route), Reached::Nowhere);
    }

    #[test]
    fn source_ranges_admit_by_service_and_prefix() {
        let mut simulation = Simulation::new();
        let client = |last| v4(last).to_mapped();
        simulation.source_ranges.push((SourceRangeKey { service_id: 5, client: client(128) }, 96 + 25));
        for (service_id, last, expected) in [(5, 200, true), (5, 100, false), (6, 200, false)] {
            let key = SourceRangeKey { service_id, client: client(last) };
            assert_eq!(Tables::<Ipv4Be>::admitted(&mut simulation, &key), expected, "{last}");
        }
    }

    #[test]
    fn settings_are_found_by_their_names() {
        let mut simulation = Simulation::new();
        simulation.settings.loopback = 7;
        simulation.settings.refusals_per_s = 11;
        let env: &dyn Fn(usize) -> u32 = &|word| Env::<Ipv4Be>::setting(&simulation, word);
        let word = |at: usize| env(at / 4);
        assert_eq!(word(core::mem::offset_of!(PacketSettings, loopback)), 7);
        assert_eq!(word(core::mem::offset_of!(PacketSettings, refusals_per_s)), 11);
    }

    #[test]
    fn a_flow_of_another_serial_is_not_touched() {
        let mut simulation = Simulation::new();
        let flow = FlowValue::<Ipv4Be> { serial: 1, state: 1, ..FlowValue::FREE };
        simulation.set_flow(3, &flow);
        simulation.touch_flow(3, &FlowValue { serial: 2, state: 3, ..flow });
        let mut read = FlowValue::FREE;
        assert!(simulation.flow(3, &mut read));
        assert_eq!(read, flow);
        simulation.touch_flow(3, &FlowValue { state: 3, client: v4(1), ..flow });
        assert!(simulation.flow(3, &mut read));
        assert_eq!(read, FlowValue { state: 3, ..flow });
        assert!(!simulation.flow(simulation.settings.flows, &mut read));
    }
}
