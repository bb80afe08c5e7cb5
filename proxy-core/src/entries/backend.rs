//! Backends: to and from the values of `backends4` and `backends6`.
//!
//! Must not know who uses a backend.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use proxy_common::{BackendId, BackendValue, Ipv4Be, Ipv6Be, PortBe, Protocol};

use crate::{
    desired::{Backend, Family},
    diff::BackendOp,
};

/// What identifies a backend in the kernel, apart from its id. Services share backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// The endpoint's address.
    pub address: IpAddr,
    /// The endpoint's port, in host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl BackendKey {
    /// The key of a desired backend.
    pub fn new(backend: Backend, protocol: Protocol) -> Self {
        Self { address: backend.address, port: backend.port, protocol: protocol as u8 }
    }

    /// What a place of `backends4` holds; `None` if that is no whole record.
    pub fn of_v4(id: BackendId, value: &BackendValue<Ipv4Be>) -> Option<Self> {
        let address = IpAddr::V4(Ipv4Addr::from(value.address));
        value.is_whole(id).then(|| Self { address, port: value.port.to_host(), protocol: value.protocol })
    }

    /// What a place of `backends6` holds; `None` if that is no whole record.
    pub fn of_v6(id: BackendId, value: &BackendValue<Ipv6Be>) -> Option<Self> {
        let address = IpAddr::V6(Ipv6Addr::from(value.address));
        value.is_whole(id).then(|| Self { address, port: value.port.to_host(), protocol: value.protocol })
    }

    /// The write that puts the backend into place `id`.
    pub fn put(&self, id: BackendId) -> BackendOp {
        let port = PortBe::from_host(self.port);
        match self.address {
            IpAddr::V4(address) => {
                BackendOp::V4(id, BackendValue::sealed(id, address.into(), port, self.protocol))
            }
            IpAddr::V6(address) => {
                BackendOp::V6(id, BackendValue::sealed(id, address.into(), port, self.protocol))
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
            let key = BackendKey { address: address.parse().unwrap(), port: 8080, protocol: 17 };
            let op = key.put(9);
            assert_eq!((op.family(), op.id(), op.key(), op.is_clear()), (family, 9, Some(key), false));
            assert_eq!(key.to_string(), text);
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
            BackendKey { address: [10, 0, 0, 1].into(), port: 80, protocol: 6 }.put(4)
        else {
            unreachable!()
        };
        let torn = BackendValue { check: value.check ^ 1, ..value };
        assert_eq!(BackendKey::of_v4(id, &torn), None);
    }
}
