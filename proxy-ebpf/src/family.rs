//! What differs between IPv4 and IPv6: which maps, and which words of the context.
//!
//! Must not decide anything; the code that decides is generic over [`Family`].

use aya_ebpf::maps::{Array, HashMap};
use proxy_common::{Address, BackendValue, Ipv4Be, Ipv6Be, ServiceKey, ServiceValue};

use crate::maps;

/// An address family of frontends and their backends.
pub trait Family {
    /// Its address.
    type Address: Address + 'static;
    /// 4 or 6.
    const NUMBER: u32;

    /// Its service records.
    fn services() -> &'static HashMap<ServiceKey<Self::Address>, ServiceValue>;

    /// Its backends.
    fn backends() -> &'static Array<BackendValue<Self::Address>>;
}

/// IPv4.
pub struct V4;

/// IPv6.
pub struct V6;

impl Family for V4 {
    type Address = Ipv4Be;
    const NUMBER: u32 = 4;

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<Ipv4Be>, ServiceValue> {
        &maps::SERVICES4
    }

    #[inline(always)]
    fn backends() -> &'static Array<BackendValue<Ipv4Be>> {
        &maps::BACKENDS4
    }
}

impl Family for V6 {
    type Address = Ipv6Be;
    const NUMBER: u32 = 6;

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<Ipv6Be>, ServiceValue> {
        &maps::SERVICES6
    }

    #[inline(always)]
    fn backends() -> &'static Array<BackendValue<Ipv6Be>> {
        &maps::BACKENDS6
    }
}
