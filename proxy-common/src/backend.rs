//! The `backends4` and `backends6` arrays: from a backend id to the address behind it.
//!
//! Must not know which Services use a backend.

use crate::{
    addr::{Address, Ipv4Be, Ipv6Be, PortBe},
    check::Mix,
};

/// Index into the backends array of one family. Dense, allocated by the agent, stable across restarts.
/// Id 0 is reserved for the agent's start-up probe.
pub type BackendId = u32;

shared_struct! {
    /// Value of `backends4` / `backends6`; the key is the [`BackendId`]. All zero = free.
    pub struct BackendValue<A: Address> for [Ipv4Be, Ipv6Be] {
        /// The endpoint's address.
        pub address: A,
        /// The endpoint's target port.
        pub port: PortBe,
        /// IP protocol number.
        pub protocol: u8,
        /// See [`BackendFlags`].
        pub flags: u8,
        /// Relative share of new connections; 1 for all of today's selections.
        pub weight: u32,
        /// [`BackendValue::check_word`] of the id and the fields above.
        pub check: u32,
    }
}

/// Bits of [`BackendValue::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct BackendFlags(pub u8);

impl BackendFlags {
    /// The endpoint is on this node: its replies come through this node whatever source it sees.
    pub const LOCAL: u8 = 1;

    /// Whether `bit` is set.
    #[inline(always)]
    pub const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

impl<A: Address> BackendValue<A> {
    /// The value of a free place.
    pub const FREE: Self =
        Self { address: A::UNSPECIFIED, port: PortBe::ANY, protocol: 0, flags: 0, weight: 0, check: 0 };

    /// A whole record for `id`, without flags.
    pub fn sealed(id: BackendId, address: A, port: PortBe, protocol: u8) -> Self {
        Self::sealed_with(BackendFlags::default(), id, address, port, protocol)
    }

    /// A whole record for `id`.
    pub fn sealed_with(flags: BackendFlags, id: BackendId, address: A, port: PortBe, protocol: u8) -> Self {
        let value = Self { address, port, protocol, flags: flags.0, weight: 1, check: 0 };
        Self { check: value.check_word(id), ..value }
    }

    /// The flags.
    #[inline(always)]
    pub const fn flags(&self) -> BackendFlags {
        BackendFlags(self.flags)
    }

    /// The check word that belongs to these contents under `id`.
    #[inline(always)]
    pub fn check_word(&self, id: BackendId) -> u32 {
        let rest = u32::from(self.port.network_bits())
            | (u32::from(self.protocol) << 16)
            | (u32::from(self.flags) << 24);
        self.address.mix(Mix::new().word(id)).word(rest).word(self.weight).finish()
    }

    /// Whether the place is in use and the record is whole.
    #[inline(always)]
    pub fn is_whole(&self, id: BackendId) -> bool {
        self.check == self.check_word(id)
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_free_or_foreign_place_is_not_whole() {
        assert!(!BackendValue::<Ipv4Be>::FREE.is_whole(0));
        let address = Ipv4Addr::new(10, 244, 0, 3).into();
        let backend: BackendValue<Ipv4Be> = BackendValue::sealed(5, address, PortBe::from_host(8080), 6);
        assert!(backend.is_whole(5));
        assert!(!backend.is_whole(6));
        let flags = BackendFlags(BackendFlags::LOCAL);
        let local = BackendValue::sealed_with(flags, 5, address, PortBe::from_host(8080), 6);
        assert!(local.is_whole(5) && local.flags().has(BackendFlags::LOCAL));
        assert!(!BackendValue { flags: 0, ..local }.is_whole(5));
    }
}
