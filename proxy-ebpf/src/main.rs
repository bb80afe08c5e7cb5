//! Entry points: one program for each hook, two lines each. What they do is in the modules.
//!
//! Must not decide anything.
#![feature(asm_experimental_arch)]
#![no_std]
#![no_main]

mod action;
mod connect;
mod copy;
mod family;
mod frame;
mod guard;
mod limit;
mod linear;
mod lookup;
mod maps;
mod membership;
mod neighbour;
mod packet;
mod peers;
mod ranges;
mod rate;
mod reply;
mod route;
mod select;
mod send;
mod skb;
mod sock_addr;
mod sum;
mod tables;
mod verdict;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier},
    programs::{SockAddrContext, TcContext},
};
use proxy_packet::Place;

use crate::{
    packet::{Direction, meet},
    sock_addr::SockAddr,
};

/// `connect(2)` on an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect::connect4(&SockAddr::new(&ctx))
}

/// `connect(2)` on an IPv6 socket, IPv4-mapped addresses included.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect::connect6(&SockAddr::new(&ctx))
}

/// `sendmsg(2)` with an IPv4 destination on an unconnected UDP socket; the kernel also comes here for an IPv4-mapped
/// destination of an IPv6 socket (`udpv6_sendmsg`).
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    send::sendmsg4(&SockAddr::new(&ctx))
}

/// `sendmsg(2)` with an IPv6 destination on an unconnected UDP socket.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send::sendmsg6(&SockAddr::new(&ctx))
}

/// `recvmsg(2)` on an IPv4 UDP socket.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    reply::recvmsg4(&SockAddr::new(&ctx))
}

/// `recvmsg(2)` on an IPv6 UDP socket.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    reply::recvmsg6(&SockAddr::new(&ctx))
}

/// `getpeername(2)` on an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    reply::getpeername4(&SockAddr::new(&ctx))
}

/// `getpeername(2)` on an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    reply::getpeername6(&SockAddr::new(&ctx))
}

/// A packet that comes to the node through one of its devices.
#[classifier]
pub fn node_ingress(ctx: TcContext) -> i32 {
    meet(ctx.skb.skb, Direction::Arrives, Place::Node)
}

/// A packet that leaves the node through one of its devices.
#[classifier]
pub fn node_egress(ctx: TcContext) -> i32 {
    meet(ctx.skb.skb, Direction::Leaves, Place::Node)
}

/// A packet that comes out of a pod.
#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    meet(ctx.skb.skb, Direction::Arrives, Place::Pod)
}

/// A packet that goes into a pod.
#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    meet(ctx.skb.skb, Direction::Leaves, Place::Pod)
}

/// A packet that comes out of a pod that our plugin wired, before [`pod_ingress`].
#[classifier]
pub fn guard_ingress(ctx: TcContext) -> i32 {
    guard::from_pod(ctx.skb.skb)
}

/// A packet that goes into such a pod, if that has a limit in this direction.
#[classifier]
pub fn guard_egress(ctx: TcContext) -> i32 {
    guard::to_pod(ctx.skb.skb)
}

/// One socket of `sock_peers`, when the agent lists them.
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
#[unsafe(no_mangle)]
pub extern "C" fn list_sockets(ctx: *const peers::SocketStorage) -> i32 {
    peers::list(ctx)
}

/// Unreachable: nothing here panics, and the verifier would refuse a program that could loop for ever.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Read by the loader. GPL-compatible as the kernel demands of programs that use GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
