//! Network namespaces by their cookies: numbers that the kernel never gives twice, unlike inodes.
//!
//! Must not know which namespaces there are.

use std::{fs::File, io, os::fd::AsRawFd, path::Path, thread};

use nix::sched::{CloneFlags, setns};

use crate::bpf::size;

/// `SO_NETNS_COOKIE` (asm-generic/socket.h, kernel 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of this thread's network namespace.
///
/// # Errors
/// The kernel is older than 5.14.
pub fn netns_cookie() -> io::Result<u64> {
    // A socket of any family does, and this one needs no loopback device that is up.
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut length = size::<u64>();
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, and any bytes are a u64.
    let result = unsafe {
        let value = (&raw mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, value, &raw mut length)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// The cookie of the network namespace at this path, by a thread that enters it.
///
/// # Errors
/// There is no network namespace there, or this process may not enter it.
pub fn netns_cookie_of(path: &Path) -> io::Result<u64> {
    let namespace = File::open(path)?;
    let enter = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        netns_cookie()
    };
    let broken = |_| io::Error::other("the thread that enters the namespace broke down");
    thread::Builder::new().name("netns-cookie".to_owned()).spawn(enter)?.join().map_err(broken)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_has_a_cookie_and_keeps_it() {
        let cookie = netns_cookie().unwrap();
        assert_ne!(cookie, 0);
        assert_eq!(netns_cookie().unwrap(), cookie);
    }
}
