//! Sockets of local clients: which of them talk to a backend that left, and their end; the network namespaces they are
//! in.
//!
//! A connected UDP socket goes on sending to the backend its first datagram went to. When that backend is gone, the
//! socket is destroyed: the program's next receive says ECONNABORTED, its next send EDESTADDRREQ, and it connects anew.
//! That happens only to sockets we translated: see [`destroy_udp`]. Must not know aya, nor why a backend left.

mod destroy;
mod diag;
mod netns;

pub use destroy::{DestroyReport, destroy_udp};
pub use netns::{inhabited_namespaces, netns_cookies, netns_paths};
pub use proxy_kernel::netns_cookie_of;
