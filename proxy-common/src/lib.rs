//! The contract between the kernel programs and user space: every key and value of every map, byte for byte.
//!
//! Owns layouts, names, limits and the functions that several must agree on (byte order in [`addr`], the check word in
//! [`check`], the hash of names in [`fnv`]). Must not know how a map is looked up, who fills it, or anything of Kubernetes.
//!
//! `no_std`, no dependency. Feature `user` adds aya's `Pod` marker for user space.
#![cfg_attr(not(test), no_std)]
#![warn(missing_docs)]

#[macro_use]
mod layout;

pub mod addr;
pub mod affinity;
pub mod backend;
pub mod check;
pub mod counter;
pub mod device;
pub mod endpoint;
pub mod event;
pub mod filter;
pub mod flow;
pub mod fnv;
pub mod masquerade;
pub mod names;
pub mod service;
pub mod settings;
pub mod socket;
pub mod source_range;

pub use addr::{Address, Ipv4Be, Ipv6Be, PortBe};
pub use affinity::{AffinityKey, AffinityValue};
pub use backend::{BackendFlags, BackendId, BackendValue};
pub use counter::Counter;
pub use device::DeviceValue;
pub use endpoint::EndpointValue;
pub use event::{Hook, SocketEvent, Verdict};
pub use filter::{Bit, PodRanges};
pub use flow::{FlowFlags, FlowKey, FlowPlace, FlowState, FlowValue, FragmentKey, FragmentValue, Way};
pub use fnv::fnv1a;
pub use masquerade::{MasqueradeKey, MasqueradeKind};
pub use service::{Protocol, Scope, ServiceFlags, ServiceKey, ServiceValue};
pub use settings::{PacketSettings, SocketLb};
pub use socket::{SocketPeer, TranslatedSocket, UDP_FLOWS_PER_SOCKET, UdpFlow, UdpFlows};
pub use source_range::SourceRangeKey;

/// Version of the meaning of the maps. Raise it when the meaning of a field changes although the layout does not;
/// a changed layout changes [`SCHEMA_HASH`] by itself.
pub const ABI_VERSION: u32 = 1;

/// Hash over [`ABI_VERSION`] and the name, size and offset of every field of every shared struct.
///
/// Part of the name of the pinned maps, so that programs of one layout never open maps of another.
pub const SCHEMA_HASH: u32 = {
    let mut hash = layout::fold(layout::SEED, ABI_VERSION);
    hash = layout::fold(hash, <ServiceKey<Ipv4Be>>::SCHEMA);
    hash = layout::fold(hash, <ServiceKey<Ipv6Be>>::SCHEMA);
    hash = layout::fold(hash, ServiceValue::SCHEMA);
    hash = layout::fold(hash, <BackendValue<Ipv4Be>>::SCHEMA);
    hash = layout::fold(hash, <BackendValue<Ipv6Be>>::SCHEMA);
    hash = layout::fold(hash, AffinityKey::SCHEMA);
    hash = layout::fold(hash, AffinityValue::SCHEMA);
    hash = layout::fold(hash, SourceRangeKey::SCHEMA);
    hash = layout::fold(hash, filter::SCHEMA);
    hash
};

/// Like [`SCHEMA_HASH`], for the per-socket state, which outlives a change of the service maps.
pub const SOCKET_SCHEMA_HASH: u32 = {
    let mut hash = layout::fold(layout::SEED, ABI_VERSION);
    hash = layout::fold(hash, SocketPeer::SCHEMA);
    hash = layout::fold(hash, UdpFlow::SCHEMA);
    hash = layout::fold(hash, UdpFlows::SCHEMA);
    hash
};

/// Like [`SCHEMA_HASH`], for the connection table of the packet path.
pub const FLOW_SCHEMA_HASH: u32 = {
    let mut hash = layout::fold(layout::SEED, ABI_VERSION);
    hash = layout::fold(hash, <FlowKey<Ipv4Be>>::SCHEMA);
    hash = layout::fold(hash, <FlowKey<Ipv6Be>>::SCHEMA);
    hash = layout::fold(hash, FlowPlace::SCHEMA);
    hash = layout::fold(hash, <FlowValue<Ipv4Be>>::SCHEMA);
    hash = layout::fold(hash, <FlowValue<Ipv6Be>>::SCHEMA);
    hash = layout::fold(hash, <FragmentKey<Ipv4Be>>::SCHEMA);
    hash = layout::fold(hash, <FragmentKey<Ipv6Be>>::SCHEMA);
    hash = layout::fold(hash, FragmentValue::SCHEMA);
    hash = layout::fold(hash, DeviceValue::SCHEMA);
    hash = layout::fold(hash, filter::FLOW_SCHEMA);
    hash = layout::fold(hash, PodRanges::SCHEMA);
    hash
};

/// Like [`SCHEMA_HASH`], for the prefixes of egress masquerade.
pub const MASQUERADE_SCHEMA_HASH: u32 =
    layout::fold(layout::fold(layout::SEED, ABI_VERSION), MasqueradeKey::SCHEMA);

/// Like [`SCHEMA_HASH`], for the guard of pods.
pub const ENDPOINT_SCHEMA_HASH: u32 =
    layout::fold(layout::fold(layout::SEED, ABI_VERSION), EndpointValue::SCHEMA);

#[cfg(test)]
mod tests {
    use super::*;

    /// Pins the layout: whoever changes a struct must see this fail, decide whether running nodes can take it over,
    /// and write the new number here.
    #[test]
    fn a_changed_layout_is_noticed() {
        assert_eq!((ABI_VERSION, SCHEMA_HASH, SOCKET_SCHEMA_HASH), (1, 1_563_893_295, 3_094_713_009));
        assert_eq!(FLOW_SCHEMA_HASH, 676_012_464);
    }
}
