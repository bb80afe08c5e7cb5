//! `sendmsg(2)` on an unconnected UDP socket: stay with the backend while it is usable, else choose anew.
//!
//! Must not know how a record is read or a backend chosen.

use proxy_common::{
    Address, Counter, Hook, Ipv6Be, PortBe, Protocol, ServiceValue, SocketPeer, UDP_FLOWS_PER_SOCKET,
    UdpFlow, UdpFlows,
};

use crate::{
    family::{Family, V4, V6},
    lookup::{Found, find},
    maps, membership,
    select::{Choice, choose, now, read_backend},
    sock_addr::SockAddr,
    verdict::{Decision, PROCEED, proceed, refuse},
};

/// Send to an IPv4 destination.
#[inline(always)]
pub fn sendmsg4(ctx: &SockAddr<'_>) -> i32 {
    send::<V4>(ctx, ctx.address4(), || ctx.sent_from4(), |address| ctx.set_address4(address))
}

/// Send to an IPv6 destination; the kernel turns an IPv4-mapped one into an IPv4 send before it asks.
#[inline(always)]
pub fn sendmsg6(ctx: &SockAddr<'_>) -> i32 {
    send::<V6>(ctx, ctx.address6(), || ctx.sent_from6(), |address| ctx.set_address6(address))
}

#[inline(always)]
fn send<F: Family>(
    ctx: &SockAddr<'_>,
    address: F::Address,
    source: impl Fn() -> F::Address,
    set_address: impl Fn(F::Address),
) -> i32 {
    let (mut service, mut choice) = (ServiceValue::EMPTY, Choice::NONE);
    let port = ctx.port();
    let outcome = match find::<F>(address, port, Protocol::Udp, || ctx.netns_cookie(), source, &mut service) {
        Found::NotOurs => {
            forget(ctx, address.to_mapped(), port);
            return PROCEED;
        }
        Found::Refused(reason) => Sent::Refused(reason),
        Found::Service => follow::<F>(ctx, &service, address.to_mapped(), port, &mut choice),
    };
    let decision = Decision::new::<F>(Hook::Sendmsg, Protocol::Udp, (address, port), &service, &choice);
    let success = match outcome {
        Sent::Refused(reason) => return refuse(ctx, &decision, reason),
        Sent::New => Counter::SendNew,
        Sent::Kept => Counter::SendKept,
        Sent::Moved => Counter::SendMoved,
    };
    set_address(choice.backend.address);
    ctx.set_port(choice.backend.port);
    proceed(ctx, &decision, success)
}

/// What became of a datagram. One word, as [`Found`].
enum Sent {
    New,
    Kept,
    Moved,
    Refused(Counter),
}

/// Follows the socket's flow to this frontend, or starts one.
#[inline(always)]
fn follow<F: Family>(
    ctx: &SockAddr<'_>,
    service: &ServiceValue,
    frontend: Ipv6Be,
    port: PortBe,
    choice: &mut Choice<F::Address>,
) -> Sent {
    let netns = || ctx.netns_cookie();
    if connected::<F>(ctx, service, (frontend, port), choice) {
        return Sent::Kept;
    }
    // SAFETY: the context's socket is valid for the length of the program.
    let at = unsafe { maps::UDP_FLOWS.get_or_insert_ptr_mut(ctx.context(), None) };
    if at.is_null() {
        // Out of memory: the datagram goes somewhere, and its reply shows the backend's address.
        return choose::<F>(service, netns, choice).map_or_else(Sent::Refused, |()| Sent::New);
    }
    // SAFETY: not null; storage of this socket. Two threads that send at once may overwrite each other's choice: both
    // are whole records of usable backends.
    let flows = unsafe { &mut *at };
    let (known, flow) = place(flows, frontend, port);
    if known && keep::<F>(service, flow, choice) {
        return Sent::Kept;
    }
    if let Err(reason) = choose::<F>(service, netns, choice) {
        return Sent::Refused(reason);
    }
    *flow = UdpFlow {
        frontend,
        backend: choice.backend.address.to_mapped(),
        frontend_port: port,
        backend_port: choice.backend.port,
        service_id: service.service_id,
        backend_id: choice.id,
        generation: service.generation,
        last_used_ns: now(),
    };
    if known { Sent::Moved } else { Sent::New }
}

/// A socket that is connected to this frontend gets answers from its peer only: the kernel drops all others.
#[inline(always)]
fn connected<F: Family>(
    ctx: &SockAddr<'_>,
    service: &ServiceValue,
    asked: (Ipv6Be, PortBe),
    choice: &mut Choice<F::Address>,
) -> bool {
    // SAFETY: the context's socket is valid for the length of the program.
    let at = unsafe { maps::SOCK_PEERS.get_ptr_mut(ctx.context()) };
    if at.is_null() {
        return false;
    }
    // SAFETY: not null; storage of this socket.
    let peer = unsafe { &*at };
    choice.id = peer.backend_id;
    (peer.frontend, peer.frontend_port) == asked
        && membership::usable(service, choice.id)
        && is_at::<F>(choice, (peer.backend, peer.backend_port))
}

/// Reads the chosen backend, and whether it is still the one remembered: its id may have been given to another since.
#[inline(always)]
fn is_at<F: Family>(choice: &mut Choice<F::Address>, remembered: (Ipv6Be, PortBe)) -> bool {
    read_backend::<F>(choice.id, &mut choice.backend)
        && choice.backend.address.to_mapped() == remembered.0
        && choice.backend.port == remembered.1
}

/// The backend of the flow that an unconnected socket has to a frontend it now connects to, if flows may keep it.
#[inline(always)]
pub fn flow_so_far<F: Family>(
    ctx: &SockAddr<'_>,
    service: &ServiceValue,
    asked: (Ipv6Be, PortBe),
    choice: &mut Choice<F::Address>,
) -> bool {
    // SAFETY: the context's socket is valid for the length of the program.
    let at = unsafe { maps::UDP_FLOWS.get_ptr_mut(ctx.context()) };
    if at.is_null() {
        return false;
    }
    // SAFETY: not null; storage of this socket.
    let (known, flow) = place(unsafe { &mut *at }, asked.0, asked.1);
    known && keep::<F>(service, flow, choice)
}

/// Finds the flow of a frontend (true), else the place used longest ago (false).
#[inline(always)]
fn place(flows: &mut UdpFlows, frontend: Ipv6Be, port: PortBe) -> (bool, &mut UdpFlow) {
    let mut at = 0;
    let mut oldest_use = u64::MAX;
    let mut known = false;
    for index in 0..UDP_FLOWS_PER_SOCKET {
        let flow = &flows.flows[index];
        if flow.last_used_ns != 0 && flow.frontend == frontend && flow.frontend_port == port {
            (at, known) = (index, true);
            break;
        }
        if flow.last_used_ns < oldest_use {
            (at, oldest_use) = (index, flow.last_used_ns);
        }
    }
    (known, &mut flows.flows[at & (UDP_FLOWS_PER_SOCKET - 1)])
}

/// Keeps the flow's backend if flows may keep it.
#[inline(always)]
fn keep<F: Family>(service: &ServiceValue, flow: &mut UdpFlow, choice: &mut Choice<F::Address>) -> bool {
    choice.id = flow.backend_id;
    let unchanged = flow.service_id == service.service_id && flow.generation == service.generation;
    if !unchanged && !membership::usable(service, choice.id) {
        return false;
    }
    let same = is_at::<F>(choice, (flow.backend, flow.backend_port));
    if same {
        flow.service_id = service.service_id;
        flow.generation = service.generation;
        flow.last_used_ns = now();
    }
    same
}

/// The program asks a backend by its own address: its answers are to come from there, and no longer from a Service.
///
/// Not so for a socket that has a peer: an IPv6 socket connected to an IPv4-mapped address comes here with its peer's
/// address for each datagram (`udpv6_sendmsg`), though the program named none.
#[inline(always)]
fn forget(ctx: &SockAddr<'_>, backend: Ipv6Be, port: PortBe) {
    if ctx.is_connected() {
        return;
    }
    // SAFETY: the context's socket is valid for the length of the program.
    let at = unsafe { maps::UDP_FLOWS.get_ptr_mut(ctx.context()) };
    if !at.is_null() {
        // SAFETY: not null; storage of this socket.
        for flow in &mut unsafe { &mut *at }.flows {
            if flow.backend == backend && flow.backend_port == port {
                flow.last_used_ns = 0;
            }
        }
    }
    // SAFETY: the context's socket is valid for the length of the program.
    let at = unsafe { maps::SOCK_PEERS.get_ptr_mut(ctx.context()) };
    if !at.is_null() {
        // SAFETY: not null; storage of this socket.
        unsafe { *at = SocketPeer::NONE };
    }
}
