//! `connect(2)`: translate once, remember what the program asked for.
//!
//! Must not know how a record is read or a backend chosen.

use aya_ebpf::programs::SockAddrContext;
use proxy_common::{Address, Counter, Hook, Protocol, ServiceValue, SocketPeer};

use crate::{
    family::{Family, V4, V6},
    lookup::{Found, find},
    maps,
    select::{Choice, choose},
    send::flow_so_far,
    sock_addr::SockAddr,
    verdict::{Decision, PROCEED, proceed, refuse},
};

/// Connect of an IPv4 socket.
#[inline(always)]
pub fn connect4(ctx: &SockAddr<'_>) -> i32 {
    connect::<V4>(ctx, ctx.address4(), || ctx.source4(), |address| ctx.set_address4(address))
}

/// Connect of an IPv6 socket; an IPv4-mapped destination is an IPv4 Service's.
#[inline(always)]
pub fn connect6(ctx: &SockAddr<'_>) -> i32 {
    let address = ctx.address6();
    match address.mapped() {
        Some(mapped) => {
            connect::<V4>(ctx, mapped, || ctx.source4(), |backend| ctx.set_address6(backend.to_mapped()))
        }
        None => connect::<V6>(ctx, address, || ctx.source6(), |backend| ctx.set_address6(backend)),
    }
}

#[inline(always)]
fn connect<F: Family>(
    ctx: &SockAddr<'_>,
    address: F::Address,
    source: impl Fn() -> F::Address,
    set_address: impl Fn(F::Address),
) -> i32 {
    let Some(protocol) = ctx.protocol() else {
        return PROCEED;
    };
    let (mut service, mut choice) = (ServiceValue::EMPTY, Choice::NONE);
    let port = ctx.port();
    let asked = (address.to_mapped(), port);
    let outcome = match find::<F>(address, port, protocol, || ctx.netns_cookie(), source, &mut service) {
        Found::NotOurs => {
            forget(ctx.context());
            return PROCEED;
        }
        Found::Refused(reason) => Err(reason),
        Found::Service
            if protocol == Protocol::Udp && flow_so_far::<F>(ctx, &service, asked, &mut choice) =>
        {
            Ok(())
        }
        Found::Service => choose::<F>(&service, || ctx.netns_cookie(), &mut choice),
    };
    let decision = Decision::new::<F>(Hook::Connect, protocol, (address, port), &service, &choice);
    if let Err(reason) = outcome {
        return refuse(ctx, &decision, reason);
    }
    remember(ctx.context(), &decision);
    set_address(choice.backend.address);
    ctx.set_port(choice.backend.port);
    let success = if matches!(protocol, Protocol::Udp) { Counter::ConnectUdp } else { Counter::ConnectTcp };
    proceed(ctx, &decision, success)
}

/// Keeps what the program asked for with the socket. Out of memory, the connection works all the same and
/// `getpeername` shows the backend.
#[inline(always)]
fn remember(ctx: &SockAddrContext, decision: &Decision) {
    let mut peer = decision.peer();
    // SAFETY: the context's socket is valid for the length of the program.
    let at = unsafe { maps::SOCK_PEERS.get_or_insert_ptr_mut(ctx, Some(&mut peer)) };
    if !at.is_null() {
        // SAFETY: not null; storage of this socket, which is locked by the system call.
        unsafe { *at = peer };
    }
}

/// A socket that is connected to something else than a Service now does not talk to that Service any more.
#[inline(always)]
fn forget(ctx: &SockAddrContext) {
    // SAFETY: the context's socket is valid for the length of the program.
    let at = unsafe { maps::SOCK_PEERS.get_ptr_mut(ctx) };
    if !at.is_null() {
        // SAFETY: not null; storage of this socket, which is locked by the system call.
        unsafe { *at = SocketPeer::NONE };
    }
}
