//! The connection table of the packet path, read: every flow for people, how many there are for metrics.
//!
//! The programs go on writing meanwhile: a record that changes while it is read may be shown half old. Must not know
//! when a flow ends.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aya::Pod;
use nix::time::{ClockId, clock_gettime};
use proxy_common::{
    Address, FlowFlags, FlowKey, FlowPlace, FlowState, FlowValue, Ipv4Be, Ipv6Be, PacketSettings, PortBe,
    Protocol, names,
};

use super::{ApplyError, handles::MapHandles};

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// Who asked.
    pub client: SocketAddr,
    /// What it asked for.
    pub frontend: SocketAddr,
    /// Who answers.
    pub backend: SocketAddr,
    /// Whom the backend sees.
    pub source: SocketAddr,
    /// How far it is.
    pub state: FlowState,
    /// It is over: its place may be given to another flow at any time.
    pub is_expired: bool,
    /// See [`FlowFlags`].
    pub flags: FlowFlags,
    /// See [`proxy_common::ServiceValue::service_id`].
    pub service_id: u32,
    /// Since the last packet, in whole seconds.
    pub idle: Duration,
}

/// How many flows of one family there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowCounts {
    /// Alive, by the number of the state.
    alive: [u64; FlowState::ALL.len()],
    /// Over, with their places not given to another flow yet.
    pub expired: u64,
}

impl FlowCounts {
    /// Alive and in this state.
    pub fn of(&self, state: FlowState) -> u64 {
        self.alive.get(state as usize).copied().unwrap_or_default()
    }

    /// Alive.
    pub fn alive(&self) -> u64 {
        self.alive.iter().sum()
    }

    fn add<A: Address>(&mut self, value: &FlowValue<A>, clock: Clock) {
        let Some(state) = in_use(value) else { return };
        if clock.is_over(value, state) {
            self.expired += 1;
        } else if let Some(count) = self.alive.get_mut(state as usize) {
            *count += 1;
        }
    }
}

/// What tells whether a flow is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The programs' clock, `bpf_ktime_get_ns`, in whole seconds.
    now_s: u64,
    settings: PacketSettings,
}

impl Clock {
    pub(super) fn new(settings: PacketSettings) -> Self {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok();
        let now_s = now.and_then(|now| u64::try_from(now.tv_sec()).ok()).unwrap_or_default();
        Self { now_s, settings }
    }

    fn idle_s<A: Address>(self, flow: &FlowValue<A>) -> u64 {
        self.now_s.saturating_sub(flow.seen_s.into())
    }

    /// As the programs see it (`lifetime_s` in proxy-packet/src/state.rs).
    fn is_over<A: Address>(self, flow: &FlowValue<A>, state: FlowState) -> bool {
        let settings = self.settings;
        let lifetime_s = if flow.protocol == Protocol::Tcp as u8 {
            match state {
                FlowState::Established => settings.tcp_established_s,
                FlowState::HalfClosed => settings.tcp_half_closed_s,
                FlowState::Closing => settings.tcp_closing_s,
                FlowState::Free | FlowState::New | FlowState::Answered => settings.tcp_new_s,
            }
        } else if state == FlowState::New {
            settings.datagram_new_s
        } else {
            settings.datagram_s
        };
        self.idle_s(flow) > u64::from(lifetime_s)
    }
}

/// `None` for a free place.
fn in_use<A: Address>(flow: &FlowValue<A>) -> Option<FlowState> {
    let state = FlowState::ALL.into_iter().find(|state| *state as u8 == flow.state)?;
    (state != FlowState::Free).then_some(state)
}

/// What the connection table holds. Of each pair the first is IPv4's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Census {
    pub(super) flows: [FlowCounts; 2],
    /// Keys, also those of flows that are over.
    pub(super) keys: [u64; 2],
}

/// A census that took some time is repeated at the earliest after so many times as much: it costs at most 5 % of one
/// CPU, however large the table is and however often somebody asks.
const REST: u32 = 20;

/// Counts now and then.
#[derive(Debug, Default)]
pub(super) struct Counter {
    /// The last census, and until when it is good enough.
    last: Mutex<Option<(Instant, Census)>>,
}

impl Counter {
    /// How many flows there are, or were a moment ago.
    pub(super) fn census(
        &self,
        handles: &MapHandles,
        settings: PacketSettings,
    ) -> Result<Census, ApplyError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        if let Some((until, census)) = *last
            && start < until
        {
            return Ok(census);
        }
        let clock = Clock::new(settings);
        let census = Census {
            flows: [count::<Ipv4Be>(handles, clock)?, count::<Ipv6Be>(handles, clock)?],
            keys: [count_keys::<Ipv4Be>(handles)?, count_keys::<Ipv6Be>(handles)?],
        };
        let end = Instant::now();
        *last = Some((end + (end - start) * REST, census));
        Ok(census)
    }
}

/// A family whose addresses people can read.
pub(super) trait Shown: Address + Into<IpAddr> {
    /// Name of its table.
    const FLOWS: &'static str;
    /// Name of the keys' map.
    const KEYS: &'static str;
}

impl Shown for Ipv4Be {
    const FLOWS: &'static str = names::FLOWS4;
    const KEYS: &'static str = names::FLOW_KEYS4;
}

impl Shown for Ipv6Be {
    const FLOWS: &'static str = names::FLOWS6;
    const KEYS: &'static str = names::FLOW_KEYS6;
}

/// Every flow of both families.
pub(super) fn list(handles: &MapHandles, settings: PacketSettings) -> Result<Vec<Flow>, ApplyError> {
    let (clock, mut flows) = (Clock::new(settings), Vec::new());
    list_family::<Ipv4Be>(handles, clock, &mut flows)?;
    list_family::<Ipv6Be>(handles, clock, &mut flows)?;
    Ok(flows)
}

fn list_family<A: Shown>(handles: &MapHandles, clock: Clock, flows: &mut Vec<Flow>) -> Result<(), ApplyError>
where
    FlowValue<A>: Pod,
{
    handles.for_each(A::FLOWS, |_: u32, value: FlowValue<A>| flows.extend(flow(&value, clock)))
}

fn count<A: Shown>(handles: &MapHandles, clock: Clock) -> Result<FlowCounts, ApplyError>
where
    FlowValue<A>: Pod,
{
    let mut counts = FlowCounts::default();
    handles.for_each(A::FLOWS, |_: u32, value: FlowValue<A>| counts.add(&value, clock))?;
    Ok(counts)
}

fn count_keys<A: Shown>(handles: &MapHandles) -> Result<u64, ApplyError>
where
    FlowKey<A>: Pod,
{
    let mut number = 0;
    handles.for_each(A::KEYS, |_: FlowKey<A>, _: FlowPlace| number += 1)?;
    Ok(number)
}

/// `None` for a free place.
pub(super) fn flow<A: Shown>(value: &FlowValue<A>, clock: Clock) -> Option<Flow> {
    let state = in_use(value)?;
    let end = |address: A, port: PortBe| SocketAddr::new(address.into(), port.to_host());
    Some(Flow {
        protocol: value.protocol,
        client: end(value.client, value.client_port),
        frontend: end(value.frontend, value.frontend_port),
        backend: end(value.backend, value.backend_port),
        source: end(value.source, value.source_port),
        state,
        is_expired: clock.is_over(value, state),
        flags: value.flags(),
        service_id: value.service_id,
        idle: Duration::from_secs(clock.idle_s(value)),
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn value(state: FlowState) -> FlowValue<Ipv4Be> {
        let address = |last| Ipv4Be::from(Ipv4Addr::new(192, 0, 2, last));
        FlowValue {
            client: address(1),
            client_port: PortBe::from_host(4_000),
            backend: address(2),
            protocol: Protocol::Tcp as u8,
            state: state as u8,
            seen_s: 1_000,
            ..FlowValue::FREE
        }
    }

    fn at(now_s: u64) -> Clock {
        Clock { now_s, settings: PacketSettings::DEFAULT }
    }

    #[test]
    fn a_record_is_read_and_a_free_place_is_none() {
        let found = flow(&value(FlowState::Established), at(1_010)).unwrap();
        assert_eq!(found.client, "192.0.2.1:4000".parse().unwrap());
        assert_eq!((found.state, found.idle), (FlowState::Established, Duration::from_secs(10)));
        assert_eq!(flow(&value(FlowState::New), at(900)).unwrap().idle, Duration::ZERO);
        assert_eq!(flow(&FlowValue::<Ipv4Be>::FREE, at(0)), None);
        assert_eq!(flow(&FlowValue { state: 77, ..value(FlowState::New) }, at(0)), None);
    }

    #[test]
    fn a_flow_is_over_when_it_was_idle_for_longer_than_its_state_lasts() {
        let udp = |state| FlowValue { protocol: Protocol::Udp as u8, ..value(state) };
        let default = PacketSettings::DEFAULT;
        let cases = [
            (value(FlowState::New), default.tcp_new_s),
            (value(FlowState::Answered), default.tcp_new_s),
            (value(FlowState::Established), default.tcp_established_s),
            (value(FlowState::HalfClosed), default.tcp_half_closed_s),
            (value(FlowState::Closing), default.tcp_closing_s),
            (udp(FlowState::New), default.datagram_new_s),
            (udp(FlowState::Answered), default.datagram_s),
            (udp(FlowState::Established), default.datagram_s),
        ];
        for (record, lifetime_s) in cases {
            let expired = |idle_s| flow(&record, at(1_000 + idle_s)).unwrap().is_expired;
            assert!(!expired(u64::from(lifetime_s)) && expired(u64::from(lifetime_s) + 1), "{record:?}");
        }
    }

    #[test]
    fn living_flows_are_counted_by_state_and_the_others_apart() {
        let mut counts = FlowCounts::default();
        for state in [FlowState::Free, FlowState::New, FlowState::Established, FlowState::Established] {
            counts.add(&value(state), at(1_061));
        }
        assert_eq!((counts.of(FlowState::Established), counts.of(FlowState::New)), (2, 0));
        assert_eq!((counts.alive(), counts.expired), (2, 1));
    }
}
