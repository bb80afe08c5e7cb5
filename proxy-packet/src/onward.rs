//! Sending a packet on past the kernel's stack: route, hop limit, size, and the ICMP errors a router owes.
//!
//! Needed where the stack would refuse the packet: one whose source is an address of this node. Must not know flows.

use proxy_common::{Counter, ServiceFlags, device::NODE_DEFAULT};

use crate::{
    Work, answer,
    answer::Answer,
    checksum,
    env::{Env, Packet, Reached, Sum},
    parse::Headers,
    setting,
    state::TCP,
    wire::Wire,
    work::{Route, Verdict},
};

/// Where a packet that is about to be translated can go. One word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Onward {
    /// Out, as `Work::route` says.
    Out,
    /// To this host.
    Host,
    /// Nowhere; it was turned into an ICMP error for its sender.
    Answered,
    /// Nowhere.
    Dropped,
}

impl Onward {
    /// The verdict for a packet that goes nowhere.
    #[inline(always)]
    pub(crate) fn verdict(self) -> Verdict {
        if matches!(self, Self::Answered) { Verdict::Bounce } else { Verdict::Drop }
    }
}

/// Asks for the route of a packet with these addresses and `length` bytes.
#[inline(always)]
pub(crate) fn ask_route<A: Wire, E: Env<A>>(
    env: &mut E,
    work: &mut Work<A>,
    source: A,
    destination: A,
    length: u32,
) -> Reached {
    work.route = Route {
        source,
        destination,
        device: env.device(),
        length,
        mtu: 0,
        leaving: work.from_host,
        protocol: u32::from(work.outer.protocol),
    };
    env.route(&mut work.route)
}

/// Finds the way of the packet when it will have these addresses. It has its own still: an error quotes those.
#[inline(never)]
pub(crate) fn look_onward<A: Wire, E: Env<A>>(
    env: &mut E,
    work: &mut Work<A>,
    source: A,
    destination: A,
) -> Onward {
    let length = longest_packet(env, &work.outer);
    match ask_route(env, work, source, destination, length) {
        Reached::Device if work.outer.hop_limit <= 1 && work.from_host == 0 => {
            answer(env, work, Answer::TimeExceeded, Counter::DroppedHopLimit)
        }
        Reached::Device => Onward::Out,
        Reached::Host => Onward::Host,
        Reached::TooBig if would_narrow_tunnel(env, work) => {
            env.count(Counter::DroppedTooBig);
            Onward::Dropped
        }
        Reached::TooBig => answer(env, work, Answer::TooBig, Counter::DroppedTooBig),
        Reached::Nowhere => {
            env.count(Counter::DroppedNoRoute);
            Onward::Dropped
        }
    }
}

/// Whether the host itself would be told how little fits the way to an address that can be another node's, while tunnels
/// lead to other nodes. They go to that address, too: the kernel would make them narrower by what a tunnel takes off, and
/// so on with each packet. A ClusterIP is nobody's, and no tunnel leads to the node's own addresses, to which packets go
/// by the loopback device.
#[inline(always)]
fn would_narrow_tunnel<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    let may_be_nodes = !ServiceFlags(work.address_flags).has(ServiceFlags::REFUSE_UNKNOWN_PORT);
    work.from_host != 0
        && may_be_nodes
        && env.device() != setting!(env, loopback)
        && env.device_of(NODE_DEFAULT, &mut work.device)
        && work.device.is_tunnel != 0
}

#[inline(always)]
fn answer<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, error: Answer, reason: Counter) -> Onward {
    answer::note(env, work, error, reason);
    Onward::Answered
}

/// Length of the longest IP packet that leaves: of a GSO packet, that of a segment. Its own length would be compared
/// with the MTU, which no GSO packet fits.
#[inline(always)]
pub(crate) fn longest_packet<A: Wire, E: Packet>(env: &mut E, headers: &Headers<A>) -> u32 {
    let segment = env.segment();
    if segment == 0 {
        return headers.end.wrapping_sub(headers.l3);
    }
    let transport = if headers.protocol == TCP { u32::from(headers.tcp_header) } else { 8 };
    headers.l4.wrapping_sub(headers.l3).wrapping_add(transport).wrapping_add(segment)
}

/// One hop less (RFC 1812, 5.3.1; RFC 8200, 3).
#[inline(always)]
pub(crate) fn count_hop<A: Wire, E: Packet>(env: &mut E, headers: &Headers<A>) -> bool {
    let aged = headers.hop_limit.wrapping_sub(1);
    if A::FAMILY == 6 {
        let word = |hops: u8| u32::from_ne_bytes([0, 0, headers.protocol, hops]);
        // No checksum in the packet makes up for it.
        env.note_change(checksum::difference(&[word(headers.hop_limit)], &[word(aged)]));
        return env.store(headers.l3.wrapping_add(7), &[aged]);
    }
    let word = |hops: u8| u32::from_ne_bytes([hops, headers.protocol, 0, 0]);
    let difference = checksum::difference(&[word(headers.hop_limit)], &[word(aged)]);
    env.update_sum::<A>(headers.l3.wrapping_add(10), difference, Sum::Ip)
        && env.store(headers.l3.wrapping_add(8), &[aged])
}
