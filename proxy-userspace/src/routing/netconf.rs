//! Hears that somebody has switched forwarding off: the kernel's notifications of network settings, which rtnetlink(7)'s
//! library does not read.
//!
//! Works on the network namespace of the thread that subscribes. Must not know how it is switched on again.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use tokio::io::unix::AsyncFd;

/// `RTNLGRP_IPV4_NETCONF` and `RTNLGRP_IPV6_NETCONF` (linux/rtnetlink.h).
const GROUPS: [u32; 2] = [24, 25];
/// `RTM_NEWNETCONF`.
const NEW_NETCONF: u16 = 80;
/// Before the attributes: `nlmsghdr`, and `netconfmsg` with its padding (linux/netconf.h).
const HEADER: usize = 16 + 4;
/// `NETCONFA_IFINDEX` and `NETCONFA_FORWARDING`.
const INDEX: u16 = 1;
const FORWARDING: u16 = 2;
/// `NETCONFA_IFINDEX_ALL`: the switch of all devices.
const ALL: i32 = -1;

struct Source(Socket);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The notifications.
pub(super) struct Switches(AsyncFd<Source>);

impl Switches {
    /// What changes from now on is told.
    pub(super) fn subscribe() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        GROUPS.into_iter().try_for_each(|group| socket.add_membership(group))?;
        socket.set_non_blocking(true)?;
        // SAFETY: the descriptor is owned by the source, always the same, and closed only with it.
        Ok(Self(unsafe { AsyncFd::register(Source(socket)) }?))
    }

    /// Returns when forwarding was switched off for a family, or when notifications were lost. Cancel by dropping it.
    pub(super) async fn off(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|source| source.get_ref().0.recv_from_full()) {
                Err(_) => {}
                Ok(Ok((packet, _))) if !says_off(&packet) => {}
                Ok(Err(error)) if error.raw_os_error() != Some(libc::ENOBUFS) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
    }
}

/// Whether one of the messages of a packet says that forwarding is off for all devices.
fn says_off(mut packet: &[u8]) -> bool {
    while let Some((length, kind)) = header(packet) {
        let message = packet.get(..length).unwrap_or(packet);
        let attributes = message.get(HEADER..).unwrap_or_default();
        if kind == NEW_NETCONF
            && attribute(attributes, INDEX) == Some(ALL)
            && attribute(attributes, FORWARDING) == Some(0)
        {
            return true;
        }
        packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// Length and type of the first message; `None` at the end, and for a length that cannot be.
fn header(packet: &[u8]) -> Option<(usize, u16)> {
    let length = usize::try_from(u32::from_ne_bytes(*packet.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*packet.get(4..)?.first_chunk()?);
    (length >= HEADER - 4).then_some((length, kind))
}

/// The number in the first attribute of this type.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<i32> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        if kind == wanted {
            return Some(i32::from_ne_bytes(*attributes.get(4..)?.first_chunk()?));
        }
        // A length below that of its own header would never end.
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, attributes: &[(u16, i32)]) -> Vec<u8> {
        let length = HEADER + 8 * attributes.len();
        let mut bytes = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER, 0);
        for (kind, value) in attributes {
            bytes.extend([8_u16.to_ne_bytes(), kind.to_ne_bytes()].concat());
            bytes.extend(value.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn only_the_switch_of_all_devices_that_is_off_matters() {
        let off = message(NEW_NETCONF, &[(INDEX, ALL), (3, 1), (FORWARDING, 0)]);
        let others = [
            message(NEW_NETCONF, &[(INDEX, ALL), (FORWARDING, 1)]),
            message(NEW_NETCONF, &[(INDEX, ALL), (3, 0)]),
            message(NEW_NETCONF, &[(INDEX, 7), (FORWARDING, 0)]),
            message(81, &[(INDEX, ALL), (FORWARDING, 0)]),
        ];
        assert!(says_off(&off));
        assert!(others.iter().all(|other| !says_off(other)));
        assert!(says_off(&[others.concat(), off.clone()].concat()), "the last of several");
        for end in 0..off.len() {
            assert!(!says_off(&off[..end]), "a cut message says nothing");
        }
    }

    #[test]
    fn messages_without_a_length_end_the_reading() {
        assert!(!says_off(&[0; 64]) && attribute(&[0; 64], INDEX).is_none());
    }
}
