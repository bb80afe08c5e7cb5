//! The source that a backend sees: the client's own, or this node's where the reply would not come back otherwise.
//!
//! A translated source is one to one: the reply key that it makes is entered in the table, which refuses a second one.
//! Must not know how a packet is rewritten.

use proxy_common::{BackendFlags, Counter, FlowFlags, PortBe, device::NODE_DEFAULT};

use crate::{
    Work,
    entry::Place,
    env::{Env, Reached, Step},
    flow,
    onward::ask_route,
    setting,
    wire::Wire,
};

/// How many source ports are tried towards a backend.
const ATTEMPTS: u32 = 128;

/// What became of it: one word; the reason of a failure is a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Assigned {
    /// The flow has its source, and the reply key is entered.
    Yes,
    /// [`Counter::DroppedNoRoute`].
    NoRoute,
    /// [`Counter::DroppedNoSourceAddress`].
    NoAddress,
    /// [`Counter::DroppedNoSourcePort`].
    NoPort,
    /// [`Counter::DroppedFlowTableFull`].
    NoPlace,
}

impl Assigned {
    /// The counter of a failure.
    #[inline(always)]
    pub(crate) fn counter(self) -> Counter {
        match self {
            Self::NoRoute => Counter::DroppedNoRoute,
            Self::NoAddress => Counter::DroppedNoSourceAddress,
            Self::NoPlace => Counter::DroppedFlowTableFull,
            Self::Yes | Self::NoPort => Counter::DroppedNoSourcePort,
        }
    }
}

/// Gives the flow in `Work::flow` its source and enters its reply key.
#[inline(always)]
pub(crate) fn assign<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, place: Place) -> Assigned {
    if wants_node_address(env, work, place) {
        match node_source(env, work) {
            Reached::Nowhere => return Assigned::NoRoute,
            Reached::Device | Reached::TooBig if work.flow.source == A::UNSPECIFIED => {
                return Assigned::NoAddress;
            }
            Reached::Device | Reached::TooBig if work.flow.flags().has(FlowFlags::SOURCE_IS_NODE) => {
                return free_port(env, work);
            }
            // A process of the host has an address of it already. Or the backend is this host: its replies are ours to
            // translate whatever they are addressed to.
            Reached::Device | Reached::TooBig | Reached::Host => (),
        }
    }
    work.other_key = work.flow.reply_key();
    if flow::claim(env, work) { Assigned::Yes } else { free_port(env, work) }
}

/// Whether the reply would not return through this node, or is wanted to (services.md 3.7).
#[inline(always)]
fn wants_node_address<A: Wire, E: Env<A>>(env: &mut E, work: &Work<A>, place: Place) -> bool {
    let is_local = BackendFlags(work.backend.flags).has(BackendFlags::LOCAL);
    if work.from_host != 0 {
        return !is_local;
    }
    let hairpin = work.outer.source == work.backend.address;
    let elsewhere = matches!(place, Place::Node) && !is_local;
    hairpin || elsewhere || work.from_outside != 0 || setting!(env, masquerade_all) != 0
}

/// Sets the flow's source to the node's address on the device that leads to the backend. What a process of the host
/// sends has an address of the node: that of the way to the Service. It gets another only where the backend is behind the
/// tunnel, for answers to the node's outer address would come past it, and be masqueraded there.
#[inline(never)]
fn node_source<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Reached {
    // As the packet will leave: for a client's link-local address the kernel has no route but to itself.
    let source = if work.from_host != 0 { work.outer.source } else { address_on(env, work, NODE_DEFAULT) };
    let destination = work.backend.address;
    // Length 0: whether the packet fits is a question of each packet, not of the flow.
    let reached = ask_route(env, work, source, destination, 0);
    if matches!(reached, Reached::Device | Reached::TooBig) {
        let address = address_on(env, work, work.route.device);
        let tunnels = env.device_of(work.route.device, &mut work.device) && work.device.is_tunnel != 0;
        if work.from_host == 0 || (tunnels && address != A::UNSPECIFIED) {
            work.flow.source = address;
            work.flow.flags |= FlowFlags::SOURCE_IS_NODE;
        }
    }
    let lost = matches!(reached, Reached::Host) && work.from_host == 0 && !is_here(env, work);
    if lost { Reached::Nowhere } else { reached }
}

/// Whether the backend is this host itself. The kernel's answer for "this host" is the same as for "no route": while a
/// route is missing, a flow to a backend elsewhere must not begin with the client's source.
#[inline(always)]
fn is_here<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    let device = env.device();
    BackendFlags(work.backend.flags).has(BackendFlags::LOCAL)
        || address_on(env, work, device) == work.backend.address
        || address_on(env, work, NODE_DEFAULT) == work.backend.address
}

/// This node's address for packets through a device.
#[inline(always)]
pub(crate) fn address_on<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, device: u32) -> A {
    if env.device_of(device, &mut work.device) && A::of_device(&work.device) != A::UNSPECIFIED {
        return A::of_device(&work.device);
    }
    if env.device_of(NODE_DEFAULT, &mut work.device) { A::of_device(&work.device) } else { A::UNSPECIFIED }
}

/// Gives the flow the node's address on the device at which the packet is, and enters its reply key.
#[inline(always)]
pub(crate) fn masquerade<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Assigned {
    let device = env.device();
    work.flow.source = address_on(env, work, device);
    work.flow.flags |= FlowFlags::SOURCE_IS_NODE;
    if work.flow.source == A::UNSPECIFIED { Assigned::NoAddress } else { free_port(env, work) }
}

/// Leaves the flow its own source, and enters its reply key.
#[inline(always)]
pub(crate) fn keep<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Assigned {
    work.other_key = work.flow.reply_key();
    if flow::claim(env, work) { Assigned::Yes } else { Assigned::NoPort }
}

#[inline(always)]
fn free_port<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Assigned {
    if env.search::<FreePort>(work, ATTEMPTS) { Assigned::Yes } else { Assigned::NoPort }
}

/// One source port: the first that is tried follows from the client's end, so that a lost flow finds its port again.
struct FreePort;

impl<A: Wire, E: Env<A>> Step<A, E> for FreePort {
    #[expect(clippy::cast_possible_truncation, reason = "the settings end at 65535")]
    #[inline(always)]
    fn attempt(env: &mut E, work: &mut Work<A>, number: u32) -> bool {
        let count = setting!(env, source_port_count);
        if count == 0 {
            return false;
        }
        let port = setting!(env, source_port_first).wrapping_add(work.hash.wrapping_add(number) % count);
        work.flow.source_port = PortBe::from_host(port as u16);
        work.other_key = work.flow.reply_key();
        let taken = work.flow.flags().has(FlowFlags::SOURCE_IS_NODE) && env.host_socket(&work.other_key);
        if taken {
            return false;
        }
        // Half of the ports first: a handshake that is under way should not lose its own.
        if number < ATTEMPTS / 2 { flow::claim(env, work) } else { flow::wrest(env, work) }
    }
}

/// Whether a port is one that [`assign`] gives out.
#[inline(always)]
pub(crate) fn is_ours<A: Wire, E: Env<A>>(env: &E, port: PortBe) -> bool {
    u32::from(port.to_host()).wrapping_sub(setting!(env, source_port_first))
        < setting!(env, source_port_count)
}
