//! What a pod may send with IPv6: from its own addresses, and of neighbour discovery (RFC 4861) only what concerns itself.
//!
//! Must not know limits.

use proxy_common::{Address, Counter, EndpointValue, Ipv6Be};
use proxy_packet::Packet as _;

use crate::{
    guard::{NETWORK_AT, UDP, link_local, tunnel},
    skb::Skb,
};

/// Where the header has the destination.
const DESTINATION_AT: u32 = NETWORK_AT + 24;
const HEADER: u32 = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMP: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
/// As many extension headers as the packet path follows.
const EXTENSIONS: u32 = 6;

const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Why the packet cannot be the pod's own.
#[inline(always)]
pub fn ipv6(skb: &mut Skb, endpoint: &EndpointValue) -> Option<Counter> {
    let mut header = [0; 24];
    if !skb.load(NETWORK_AT, &mut header) {
        return Some(Counter::DroppedMalformed);
    }
    let [_, _, _, _, _, _, next, _, source @ ..] = header;
    let source = address(source);
    if source == Ipv6Be::UNSPECIFIED {
        return Some(Counter::DroppedPodUnspecified);
    }
    if source != endpoint.address6 && !(source == link_local(endpoint) && stays_on_link(skb)) {
        return Some(Counter::DroppedPodAddress);
    }
    if follows(next) || next == ICMP || next == UDP { message(skb, endpoint, next) } else { None }
}

/// To a link-local address or a multicast group: what no router forwards from a link-local source.
#[inline(always)]
fn stays_on_link(skb: &mut Skb) -> bool {
    let mut start = [0; 2];
    skb.load(DESTINATION_AT, &mut start)
        && (start[0] == 0xff || (start[0] == 0xfe && start[1] & 0xc0 == 0x80))
}

#[inline(always)]
fn address(bytes: [u8; 16]) -> Ipv6Be {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    let word = u32::from_ne_bytes;
    Ipv6Be::from_network_words([
        word([a, b, c, d]),
        word([e, f, g, h]),
        word([i, j, k, l]),
        word([m, n, o, p]),
    ])
}

/// Extension headers behind which a message could hide.
#[inline(always)]
fn follows(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// Finds the ICMPv6 message or the datagram, if there is one, behind however many headers.
#[inline(always)]
fn message(skb: &mut Skb, endpoint: &EndpointValue, next: u8) -> Option<Counter> {
    let (mut next, mut at) = (next, NETWORK_AT + HEADER);
    for _ in 0..EXTENSIONS {
        if !follows(next) {
            break;
        }
        let mut extension = [0; 4];
        if !skb.load(at, &mut extension) {
            return Some(Counter::DroppedMalformed);
        }
        let [following, length, high, low] = extension;
        at += match next {
            // The place is in the upper 13 bits; what is not the first fragment has no more headers.
            FRAGMENT if high != 0 || low & 0xf8 != 0 => return None,
            FRAGMENT => 8,
            AUTHENTICATION => (u32::from(length) + 2) * 4,
            _ => (u32::from(length) + 1) * 8,
        };
        next = following;
    }
    if follows(next) {
        return Some(Counter::DroppedHeaders);
    }
    match next {
        ICMP => icmp(skb, endpoint, at),
        UDP => tunnel(skb, at),
        _ => None,
    }
}

/// No message of a router, no claim to another's address.
#[inline(always)]
fn icmp(skb: &mut Skb, endpoint: &EndpointValue, at: u32) -> Option<Counter> {
    let mut kind = [0];
    if !skb.load(at, &mut kind) {
        return Some(Counter::DroppedMalformed);
    }
    match kind[0] {
        ROUTER_ADVERTISEMENT | REDIRECT => Some(Counter::DroppedPodRouter),
        NEIGHBOUR_ADVERTISEMENT => claim(skb, endpoint, at),
        _ => None,
    }
}

#[inline(always)]
fn claim(skb: &mut Skb, endpoint: &EndpointValue, at: u32) -> Option<Counter> {
    let mut target = [0; 16];
    if !skb.load(at + 8, &mut target) {
        return Some(Counter::DroppedMalformed);
    }
    let target = address(target);
    let own = target != Ipv6Be::UNSPECIFIED && target == endpoint.address6 || target == link_local(endpoint);
    (!own).then_some(Counter::DroppedPodNeighbour)
}
