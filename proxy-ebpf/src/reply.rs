//! `recvmsg(2)` and `getpeername(2)`: show the program the address it asked for.
//!
//! Must not know why a backend was chosen.

use proxy_common::{Address, Counter, Ipv6Be, PortBe, SocketPeer, UDP_FLOWS_PER_SOCKET};

use crate::{
    maps,
    sock_addr::SockAddr,
    verdict::{PROCEED, count},
};

/// An address and port in the one form per-socket state has.
type Endpoint = (Ipv6Be, PortBe);

/// Receive on an IPv4 socket.
#[inline(always)]
pub fn recvmsg4(ctx: &SockAddr<'_>) -> i32 {
    if let Some(frontend) = sender_asked_for(ctx, (ctx.address4().to_mapped(), ctx.port())) {
        show4(ctx, frontend);
        count(Counter::Receive);
    }
    PROCEED
}

/// Receive on an IPv6 socket.
#[inline(always)]
pub fn recvmsg6(ctx: &SockAddr<'_>) -> i32 {
    if let Some(frontend) = sender_asked_for(ctx, (ctx.address6(), ctx.port())) {
        show6(ctx, frontend);
        count(Counter::Receive);
    }
    PROCEED
}

/// Peer of an IPv4 socket.
#[inline(always)]
pub fn getpeername4(ctx: &SockAddr<'_>) -> i32 {
    if let Some(frontend) = peer_asked_for(ctx, (ctx.address4().to_mapped(), ctx.port())) {
        show4(ctx, frontend);
    }
    PROCEED
}

/// Peer of an IPv6 socket.
#[inline(always)]
pub fn getpeername6(ctx: &SockAddr<'_>) -> i32 {
    if let Some(frontend) = peer_asked_for(ctx, (ctx.address6(), ctx.port())) {
        show6(ctx, frontend);
    }
    PROCEED
}

#[inline(always)]
fn show4(ctx: &SockAddr<'_>, (address, port): Endpoint) {
    if let Some(address) = address.mapped() {
        ctx.set_address4(address);
        ctx.set_port(port);
    }
}

#[inline(always)]
fn show6(ctx: &SockAddr<'_>, (address, port): Endpoint) {
    ctx.set_address6(address);
    ctx.set_port(port);
}

/// The Service a connected socket asked for, if it is connected to `backend` because of that.
#[inline(always)]
fn peer_asked_for(ctx: &SockAddr<'_>, backend: Endpoint) -> Option<Endpoint> {
    let peer = peer(ctx, backend)?;
    Some((peer.frontend, peer.frontend_port))
}

/// What a socket that was connected to `backend` remembers.
#[inline(always)]
fn peer<'a>(ctx: &SockAddr<'a>, backend: Endpoint) -> Option<&'a SocketPeer> {
    // SAFETY: the context's socket is valid for the length of the program.
    let at = unsafe { maps::SOCK_PEERS.get_ptr_mut(ctx.context()) };
    if at.is_null() {
        return None;
    }
    // SAFETY: not null; storage of this socket.
    let peer = unsafe { &*at };
    ((peer.backend, peer.backend_port) == backend).then_some(peer)
}

/// The Service that a datagram from `backend` answers, if the socket asked one of that backend. Two Services may share
/// a backend: the one asked last is the one that is answered.
#[inline(always)]
fn sender_asked_for(ctx: &SockAddr<'_>, backend: Endpoint) -> Option<Endpoint> {
    let mut answered = None;
    let mut latest = 0;
    if let Some(peer) = peer(ctx, backend) {
        answered = Some((peer.frontend, peer.frontend_port));
        latest = peer.since_ns;
    }
    // SAFETY: the context's socket is valid for the length of the program.
    let at = unsafe { maps::UDP_FLOWS.get_ptr_mut(ctx.context()) };
    if at.is_null() {
        return answered;
    }
    // SAFETY: not null; storage of this socket.
    let flows = unsafe { &*at };
    for flow in &flows.flows[..UDP_FLOWS_PER_SOCKET] {
        if flow.last_used_ns > latest && (flow.backend, flow.backend_port) == backend {
            latest = flow.last_used_ns;
            answered = Some((flow.frontend, flow.frontend_port));
        }
    }
    answered
}
