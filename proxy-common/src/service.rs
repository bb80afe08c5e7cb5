//! The `services4` and `services6` maps: from the address a client uses to the backends behind it.
//!
//! Must not know how records are found or filled.

use crate::{
    addr::{Address, Ipv4Be, Ipv6Be, PortBe},
    check::Mix,
};

/// IP protocol numbers that a Service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

/// Which lookup a record answers: a client in the cluster, or traffic that comes from outside the node's cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Scope {
    /// Clients inside the cluster: pods and nodes.
    Internal = 0,
    /// Clients outside: subject to `externalTrafficPolicy`.
    External = 1,
}

shared_struct! {
    /// Key of `services4` / `services6`.
    ///
    /// An *address record* has port 0, protocol 0 and scope [`Scope::Internal`]. It exists for every address that has at
    /// least one frontend of either scope, so that traffic to any other address costs one failed look-up.
    pub struct ServiceKey<A: Address> for [Ipv4Be, Ipv6Be] {
        /// The frontend's address.
        pub address: A,
        /// The frontend's port; 0 in an address record.
        pub port: PortBe,
        /// IP protocol number, see [`Protocol`]; 0 in an address record.
        pub protocol: u8,
        /// See [`Scope`].
        pub scope: u8,
    }
}

impl<A: Address> ServiceKey<A> {
    /// The key of the address record of `address`.
    #[inline(always)]
    pub fn address_record(address: A, scope: Scope) -> Self {
        Self { address, port: PortBe::ANY, protocol: 0, scope: scope as u8 }
    }

    /// Whether this is the key of an address record.
    #[inline(always)]
    pub fn is_address_record(&self) -> bool {
        self.port == PortBe::ANY && self.protocol == 0
    }

    #[inline(always)]
    fn mix(&self, mix: Mix) -> Mix {
        let rest = u32::from(self.port.network_bits())
            | (u32::from(self.protocol) << 16)
            | (u32::from(self.scope) << 24);
        self.address.mix(mix).word(rest)
    }
}

/// Bits of [`ServiceValue::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ServiceFlags(pub u32);

impl ServiceFlags {
    /// No backend: refuse at once (TCP reset, `ECONNREFUSED`). Meaningful only while `ring_len` is 0.
    pub const REJECT_WHEN_EMPTY: u32 = 1;
    /// No backend here: drop (`EHOSTUNREACH` at the socket). Meaningful only while `ring_len` is 0.
    pub const DROP_WHEN_EMPTY: u32 = 1 << 1;
    /// `sessionAffinity: ClientIP`; `affinity_seconds` is set.
    pub const AFFINITY: u32 = 1 << 2;
    /// `loadBalancerSourceRanges` apply; the map `source_ranges` has the prefixes.
    pub const SOURCE_RANGES: u32 = 1 << 3;
    /// Only clients in the host's network namespace (NodePort on loopback addresses).
    pub const HOST_NETNS_ONLY: u32 = 1 << 4;
    /// Address record only: refuse ports of this address that no Service has.
    pub const REFUSE_UNKNOWN_PORT: u32 = 1 << 5;

    /// Whether `bit` is set.
    #[inline(always)]
    pub const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

shared_struct! {
    /// Value of `services4` / `services6`. One write of this record publishes a new set of backends.
    pub struct ServiceValue {
        /// Identity of the ServicePort in this family; survives restarts. 0 in an address record.
        pub service_id: u32,
        /// Grows with each change of this ServicePort's backends; remembered choices of an older generation are re-checked.
        pub generation: u32,
        /// See [`ServiceFlags`].
        pub flags: u32,
        /// Session affinity time-out in seconds (1..=86400), or 0.
        pub affinity_seconds: u32,
        /// Position in the ring of this record's first backend id.
        pub ring_base: u32,
        /// How many backends new connections choose from.
        pub ring_len: u32,
        /// How many further positions follow whose backends only keep the flows they have.
        pub keep_len: u32,
        /// [`ServiceValue::check_word`] of the key and the fields above.
        pub check: u32,
    }
}

impl ServiceValue {
    /// A record that says nothing, to be filled or overwritten; its check word fits no key.
    pub const EMPTY: Self = Self {
        service_id: 0,
        generation: 0,
        flags: 0,
        affinity_seconds: 0,
        ring_base: 0,
        ring_len: 0,
        keep_len: 0,
        check: 0,
    };

    /// The check word that belongs to these contents under `key`.
    #[inline(always)]
    pub fn check_word<A: Address>(&self, key: &ServiceKey<A>) -> u32 {
        key.mix(Mix::new())
            .word(self.service_id)
            .word(self.generation)
            .word(self.flags)
            .word(self.affinity_seconds)
            .word(self.ring_base)
            .word(self.ring_len)
            .word(self.keep_len)
            .finish()
    }

    /// The same record with its check word set for `key`.
    #[must_use]
    pub fn sealed<A: Address>(mut self, key: &ServiceKey<A>) -> Self {
        self.check = self.check_word(key);
        self
    }

    /// The flags.
    #[inline(always)]
    pub const fn flags(&self) -> ServiceFlags {
        ServiceFlags(self.flags)
    }
}

impl Protocol {
    /// The protocol with this IP protocol number, if a Service can have it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The name as Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl Scope {
    /// The name as `sheave render` prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
        }
    }
}

impl core::fmt::Display for Protocol {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl core::fmt::Display for Scope {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    fn key(last: u8) -> ServiceKey<Ipv4Be> {
        ServiceKey {
            address: Ipv4Addr::new(10, 96, 0, last).into(),
            port: PortBe::from_host(80),
            protocol: Protocol::Tcp as u8,
            scope: Scope::Internal as u8,
        }
    }

    const VALUE: ServiceValue = ServiceValue {
        service_id: 7,
        generation: 1,
        flags: 0,
        affinity_seconds: 0,
        ring_base: 16,
        ring_len: 3,
        keep_len: 0,
        check: 0,
    };

    #[test]
    fn a_record_read_under_another_key_fails_its_check() {
        let sealed = VALUE.sealed(&key(1));
        assert_eq!(sealed.check, sealed.check_word(&key(1)));
        assert_ne!(sealed.check, sealed.check_word(&key(2)));
    }

    #[test]
    fn every_field_enters_the_check() {
        let base = VALUE.check_word(&key(1));
        let variants = [
            ServiceValue { service_id: 8, ..VALUE },
            ServiceValue { generation: 2, ..VALUE },
            ServiceValue { flags: 1, ..VALUE },
            ServiceValue { affinity_seconds: 1, ..VALUE },
            ServiceValue { ring_base: 17, ..VALUE },
            ServiceValue { ring_len: 4, ..VALUE },
            ServiceValue { keep_len: 1, ..VALUE },
        ];
        for variant in variants {
            assert_ne!(variant.check_word(&key(1)), base, "{variant:?}");
        }
    }
}
