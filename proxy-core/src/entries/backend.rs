//! Backends: to and from the values of `backends4` and `backends6`.
//!
//! Must not know who uses a backend.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use proxy_common::{Address, BackendFlags, BackendId, BackendValue, Ipv4Be, Ipv6Be, PortBe, Protocol};

use crate::{
    desired::{Backend, Family},
    diff::BackendOp,
};

/// What identifies a backend in the kernel, apart from its id. Services share backends.
///
/// The flags are part of it: a place is never rewritten under its readers, and Services whose slices disagree on where
/// an address is have a place each, so that a wrong `nodeName` harms only its own Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// The endpoint's address.
    pub address: IpAddr,
    /// The endpoint's port, in host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// See [`BackendFlags`].
    pub flags: BackendFlags,
}

impl BackendKey {
    /// The key of a desired backend.
    pub fn new(backend: Backend, protocol: Protocol) -> Self {
        let flags = BackendFlags(if backend.local { BackendFlags::LOCAL } else { 0 });
        Self { address: backend.address, port: backend.port, protocol: protocol as u8, flags }
    }

    /// What a place of `backends4` holds; `None` if that is no whole record.
    pub fn of_v4(id: BackendId, value: &BackendValue<Ipv4Be>) -> Option<Self> {
        value.is_whole(id).then(|| Self::of(IpAddr::V4(Ipv4Addr::from(value.address)), value))
    }

    /// What a place of `backends6` holds; `None` if that is no whole record.
    pub fn of_v6(id: BackendId, value: &BackendValue<Ipv6Be>) -> Option<Self> {
        value.is_whole(id).then(|| Self::of(IpAddr::V6(Ipv6Addr::from(value.address)), value))
    }

    fn of<A: Address>(address: IpAddr, value: &BackendValue<A>) -> Self {
        Self { address, port: value.port.to_host(), protocol: value.protocol, flags: value.flags() }
    }

    /// The write that puts the backend into place `id`.
    pub fn put(&self, id: BackendId) -> BackendOp {
        let Self { address, port, protocol, flags } = *self;
        let port = PortBe::from_host(port);
        match address {
            IpAddr::V4(address) => {
                BackendOp::V4(id, BackendValue::sealed_with(flags, id, address.into(), port, protocol))
            }
            IpAddr::V6(address) => {
                BackendOp::V6(id, BackendValue::sealed_with(flags, id, address.into(), port, protocol))
            }
        }
    }
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

impl BackendOp {
    /// The write that clears place `id`.
    pub fn clear(family: Family, id: BackendId) -> Self {
        match family {
            Family::V4 => Self::V4(id, BackendValue::FREE),
            Family::V6 => Self::V6(id, BackendValue::FREE),
        }
    }

    /// Which map it writes to.
    pub fn family(&self) -> Family {
        match self {
            Self::V4(..) => Family::V4,
            Self::V6(..) => Family::V6,
        }
    }

    /// The place it writes to.
    pub fn id(&self) -> BackendId {
        match self {
            Self::V4(id, _) | Self::V6(id, _) => *id,
        }
    }

    /// Whether it clears the place.
    pub fn is_clear(&self) -> bool {
        match self {
            Self::V4(_, value) => *value == BackendValue::FREE,
            Self::V6(_, value) => *value == BackendValue::FREE,
        }
    }

    /// The backend it puts; `None` if it clears the place or puts no whole record.
    pub fn key(&self) -> Option<BackendKey> {
        match self {
            Self::V4(id, value) => BackendKey::of_v4(*id, value),
            Self::V6(id, value) => BackendKey::of_v6(*id, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_survives_the_kernel_form() {
        let cases: [(&str, Family, &str); 3] = [
            ("10.244.0.7", Family::V4, "10.244.0.7:8080"),
            ("fd00::7", Family::V6, "[fd00::7]:8080"),
            ("::ffff:10.0.0.1", Family::V6, "[::ffff:10.0.0.1]:8080"),
        ];
        for (address, family, text) in cases {
            for local in [false, true] {
                let backend = Backend { address: address.parse().unwrap(), port: 8080, local };
                let key = BackendKey::new(backend, Protocol::Udp);
                let op = key.put(9);
                assert_eq!((op.family(), op.id(), op.key(), op.is_clear()), (family, 9, Some(key), false));
                assert_eq!((key.to_string(), key.flags.has(BackendFlags::LOCAL)), (text.to_owned(), local));
            }
        }
    }

    #[test]
    fn a_cleared_place_holds_no_backend() {
        for family in [Family::V4, Family::V6] {
            let op = BackendOp::clear(family, 3);
            assert_eq!((op.family(), op.id(), op.key(), op.is_clear()), (family, 3, None, true));
        }
    }

    #[test]
    fn a_torn_place_holds_no_backend() {
        let BackendOp::V4(id, value) =
            BackendKey::new(Backend { address: [10, 0, 0, 1].into(), port: 80, local: false }, Protocol::Tcp)
                .put(4)
        else {
            unreachable!()
        };
        let torn = BackendValue { check: value.check ^ 1, ..value };
        assert_eq!(BackendKey::of_v4(id, &torn), None);
    }
}
