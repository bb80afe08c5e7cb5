//! The guard at the host's end of a pod: nothing comes out of a pod under another's name, nor faster than it may.
//!
//! It stands before the packet path, so that what that sees of a pod is the pod's. The devices are veth: every packet
//! has an Ethernet header. Must not know Services or who wrote the record.

use aya_ebpf::bindings::{
    __sk_buff,
    tcx_action_base::{TCX_DROP, TCX_NEXT},
};
use proxy_common::{Address, Counter, EndpointValue, Ipv4Be, Ipv6Be, addr::wire};
use proxy_packet::Packet as _;

use crate::{maps, neighbour, rate, skb::Skb, verdict::count};

/// Where an Ethernet header has the sender.
const SENDER_AT: u32 = 6;
/// Where what it carries begins.
pub const NETWORK_AT: u32 = 14;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

const ICMP: u8 = 1;
/// UDP in both families.
pub const UDP: u8 = 17;
/// ICMP types of a router: redirect (RFC 792) and advertisement (RFC 1256).
const ROUTER_MESSAGES: [u8; 2] = [5, 9];
/// The bits of a fragment's place.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// A packet that comes out of a pod.
#[inline(always)]
pub fn from_pod(context: *mut __sk_buff) -> i32 {
    let mut skb = Skb::new(context, 0);
    let Some(at) = maps::ENDPOINTS.get_ptr_mut(skb.device()) else { return drop(Counter::DroppedPodUnknown) };
    // SAFETY: valid for the length of the program; nobody changes what is read here, an update is a new record.
    let endpoint = unsafe { &*at };
    if let Some(reason) = objection(&mut skb, endpoint) {
        return drop(reason);
    }
    let rate =
        rate::Rate { bytes: endpoint.from_rate, burst: endpoint.from_burst, patience: maps::pacing_ns() };
    // SAFETY: as above.
    let due = unsafe { &raw mut (*at).from_due };
    if rate.admits(&skb, skb.length(), due) { TCX_NEXT } else { drop(Counter::DroppedPodSendLimit) }
}

/// A packet that goes into a pod.
#[inline(always)]
pub fn to_pod(context: *mut __sk_buff) -> i32 {
    let skb = Skb::new(context, 0);
    let Some(at) = maps::ENDPOINTS.get_ptr_mut(skb.device()) else { return drop(Counter::DroppedPodUnknown) };
    // SAFETY: as in `from_pod`.
    let (rate, due) = unsafe {
        let rate = rate::Rate { bytes: (*at).to_rate, burst: (*at).to_burst, patience: 0 };
        (rate, &raw mut (*at).to_due)
    };
    if rate.admits(&skb, skb.wire_length(), due) { TCX_NEXT } else { drop(Counter::DroppedPodReceiveLimit) }
}

#[inline(always)]
fn drop(reason: Counter) -> i32 {
    count(reason);
    TCX_DROP
}

/// Why the packet cannot be the pod's own.
#[inline(always)]
fn objection(skb: &mut Skb, endpoint: &EndpointValue) -> Option<Counter> {
    if skb.is_of_vlan() {
        return Some(Counter::DroppedPodProtocol);
    }
    let mut sender = [0; 6];
    if !skb.load(SENDER_AT, &mut sender) {
        return Some(Counter::DroppedMalformed);
    }
    if sender != endpoint.mac {
        return Some(Counter::DroppedPodMac);
    }
    match wire::half(skb.ethertype().to_ne_bytes()) {
        ETHERTYPE_IPV4 => ipv4(skb, endpoint),
        ETHERTYPE_IPV6 => neighbour::ipv6(skb, endpoint),
        ETHERTYPE_ARP => arp(skb, endpoint),
        _ => Some(Counter::DroppedPodProtocol),
    }
}

/// Its own source; no message of a router.
#[inline(always)]
fn ipv4(skb: &mut Skb, endpoint: &EndpointValue) -> Option<Counter> {
    let mut header = [0; 20];
    if !skb.load(NETWORK_AT, &mut header) {
        return Some(Counter::DroppedMalformed);
    }
    let [first, _, _, _, _, _, f0, f1, _, protocol, _, _, source @ .., _, _, _, _] = header;
    let source = Ipv4Be::from_network_bits(u32::from_ne_bytes(source));
    if source == Ipv4Be::UNSPECIFIED {
        return Some(Counter::DroppedPodUnspecified);
    }
    if source != endpoint.address4 {
        return Some(Counter::DroppedPodAddress);
    }
    if wire::half([f0, f1]) & FRAGMENT_OFFSET != 0 {
        return None;
    }
    let at = NETWORK_AT + u32::from(first & 0xf) * 4;
    match protocol {
        ICMP => router(skb, at),
        UDP => tunnel(skb, at),
        _ => None,
    }
}

#[inline(always)]
fn router(skb: &mut Skb, at: u32) -> Option<Counter> {
    let mut kind = [0];
    if !skb.load(at, &mut kind) {
        return Some(Counter::DroppedMalformed);
    }
    ROUTER_MESSAGES.contains(&kind[0]).then_some(Counter::DroppedPodRouter)
}

/// A datagram to the tunnel's port would come out of the tunnel, at this node or another, as a packet of whomever it says
/// inside.
#[inline(always)]
pub fn tunnel(skb: &mut Skb, at: u32) -> Option<Counter> {
    let port = maps::tunnel_port();
    if port == 0 {
        return None;
    }
    let mut ports = [0; 4];
    if !skb.load(at, &mut ports) {
        return Some(Counter::DroppedMalformed);
    }
    let [_, _, high, low] = ports;
    (u32::from(wire::half([high, low])) == port).then_some(Counter::DroppedPodTunnel)
}

/// ARP for IPv4 over Ethernet (RFC 826) that tells of nobody else.
#[inline(always)]
fn arp(skb: &mut Skb, endpoint: &EndpointValue) -> Option<Counter> {
    /// Hardware Ethernet, protocol IPv4, with the lengths of their addresses.
    const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let mut message = [0; 18];
    if !skb.load(NETWORK_AT, &mut message) {
        return Some(Counter::DroppedMalformed);
    }
    let [k0, k1, k2, k3, k4, k5, _, _, h0, h1, h2, h3, h4, h5, address @ ..] = message;
    let address = Ipv4Be::from_network_bits(u32::from_ne_bytes(address));
    let own = [k0, k1, k2, k3, k4, k5] == KIND
        && [h0, h1, h2, h3, h4, h5] == endpoint.mac
        && address != Ipv4Be::UNSPECIFIED
        && address == endpoint.address4;
    (!own).then_some(Counter::DroppedPodNeighbour)
}

/// The address that the kernel of a pod makes for itself: `fe80::` with the modified EUI-64 of its MAC address
/// (RFC 4291, appendix A).
#[inline(always)]
pub fn link_local(endpoint: &EndpointValue) -> Ipv6Be {
    let [a, b, c, d, e, f] = endpoint.mac;
    Ipv6Be::from_network_words([
        u32::from_ne_bytes([0xfe, 0x80, 0, 0]),
        0,
        u32::from_ne_bytes([a ^ 2, b, c, 0xff]),
        u32::from_ne_bytes([0xfe, d, e, f]),
    ])
}
