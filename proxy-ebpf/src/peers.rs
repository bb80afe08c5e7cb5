//! Lists the sockets that are connected to a Service, of every network namespace.
//!
//! sock_diag returns socket storage for TCP only, so this is how the agent proves that a UDP socket was translated by
//! us before it destroys it. Must not know what the list is for.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::seq_file,
    helpers::generated::{bpf_get_socket_cookie, bpf_seq_write},
};
use proxy_common::{SocketPeer, TranslatedSocket};

/// The kernel's `struct bpf_iter__bpf_sk_storage_map`: four pointers, each in 8 bytes, part of its interface.
#[repr(C)]
pub struct SocketStorage {
    meta: *const Meta,
    map: *const c_void,
    socket: *mut c_void,
    peer: *const SocketPeer,
}

/// The beginning of the kernel's `struct bpf_iter_meta`.
#[repr(C)]
struct Meta {
    output: *mut seq_file,
}

/// Writes one [`TranslatedSocket`]; writes nothing on the call without a socket that ends every listing.
#[inline(always)]
pub fn list(ctx: *const SocketStorage) -> i32 {
    // SAFETY: the kernel passes the context of this iterator type; the verifier checks each access.
    let (meta, socket, peer) = unsafe { ((*ctx).meta, (*ctx).socket, (*ctx).peer) };
    if socket.is_null() || peer.is_null() {
        return 0;
    }
    // SAFETY: both were checked for null; the helper takes a socket pointer in tracing programs (kernel 5.12).
    let record = unsafe { TranslatedSocket { cookie: bpf_get_socket_cookie(socket), peer: ptr::read(peer) } };
    // SAFETY: the record is on the stack and has no padding; the output is valid for the call.
    unsafe {
        bpf_seq_write((*meta).output, (&raw const record).cast(), size_of::<TranslatedSocket>() as u32)
    };
    0
}
