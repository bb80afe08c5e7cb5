//! The packet path over bytes in memory: a packet, tables, a clock and routes that a test fills and reads.
//!
//! Deterministic: the clock stands and the random numbers follow from a seed. Feature `simulation`. Must not decide
//! anything that the kernel programs decide differently.

#[cfg(test)]
pub(crate) mod arbitrary;
mod bytes;
mod frame;
mod tables;
mod valid;

use std::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use proxy_common::{
    AffinityKey, AffinityValue, BackendId, Bit, Counter, DeviceValue, Ipv4Be, Ipv6Be, MasqueradeKey,
    MasqueradeKind, PacketSettings, PodRanges, SourceRangeKey,
};

pub use self::{
    frame::{Extension, Frame},
    tables::{Family, Path, Simulated},
    valid::{checksums_valid, outer_checksums_valid},
};

/// A packet at a hook, and everything the packet path may ask.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// The packet, link layer included.
    pub bytes: Vec<u8>,
    /// See [`crate::Packet::segment`].
    pub segment: u32,
    /// See [`crate::Packet::ethertype`].
    pub ethertype: u16,
    /// See [`crate::Packet::device`].
    pub device: u32,
    /// See [`crate::Packet::link_header`].
    pub link_header: u32,
    /// See [`crate::Packet::is_from_host`].
    pub from_host: bool,
    /// What the kernel notes about the packet's checksums.
    pub offload: Offload,
    /// The clock.
    pub clock_ns: u64,
    /// Seed of the random numbers.
    pub seed: u64,
    /// How many refusals [`crate::Packet::may_refuse`] still admits.
    pub refusals: u32,
    /// What was counted.
    pub counts: BTreeMap<Counter, u64>,
    /// Tables of IPv4.
    pub four: Family<Ipv4Be>,
    /// Tables of IPv6.
    pub six: Family<Ipv6Be>,
    /// The ring of backend ids.
    pub ring: Vec<BackendId>,
    /// Session affinity.
    pub affinity: BTreeMap<AffinityKey, AffinityValue>,
    /// Source ranges: a network, and how many bits of its client address count (IPv4: 96 and the prefix length).
    pub source_ranges: Vec<(SourceRangeKey, u32)>,
    /// Prefixes of egress masquerade: a network, how many bits of it count (IPv4: 96 and the prefix length), what it is.
    pub masquerade: Vec<(MasqueradeKey, u32, MasqueradeKind)>,
    /// `pod_ranges`; as it is at first, any address may be a pod's.
    pub pod_ranges: PodRanges,
    /// `flow_filter`. A test that puts a flow into the tables by itself notes it here ([`Simulation::note_flow`]).
    pub flow_filter: BTreeSet<Bit>,
    /// Devices by index.
    pub devices: BTreeMap<u32, DeviceValue>,
    /// Devices of pods that the plugin has wired, without a limit.
    pub endpoints: BTreeSet<u32>,
    /// The settings.
    pub settings: PacketSettings,
}

/// State of a packet's checksum (`ip_summed` of the kernel's `struct sk_buff`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// The checksums are in the packet.
    #[default]
    None,
    /// The device is to sum the bytes from `start` to the end of the packet into the field at `field`.
    Partial {
        /// Offset of the first byte.
        start: u32,
        /// Offset of the field.
        field: u32,
    },
    /// The device has summed the bytes behind the link layer's header.
    Complete(u32),
}

impl Simulation {
    /// Nothing known, default settings.
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            segment: 0,
            ethertype: 0,
            device: 0,
            link_header: 0,
            from_host: false,
            offload: Offload::None,
            clock_ns: 1_000_000_000,
            seed: 1,
            refusals: u32::MAX,
            counts: BTreeMap::new(),
            four: Family::default(),
            six: Family::default(),
            ring: Vec::new(),
            affinity: BTreeMap::new(),
            source_ranges: Vec::new(),
            masquerade: Vec::new(),
            pod_ranges: PodRanges::ANY,
            flow_filter: BTreeSet::new(),
            devices: BTreeMap::new(),
            endpoints: BTreeSet::new(),
            settings: PacketSettings::DEFAULT,
        }
    }

    /// Puts an Ethernet frame at the hook of a device. The checksums are in it and nothing is segmented.
    pub fn put(&mut self, device: u32, frame: Vec<u8>) {
        let at = |i: usize| frame.get(i).copied().unwrap_or(0);
        self.ethertype = u16::from_ne_bytes([at(12), at(13)]);
        self.link_header = 14;
        self.place(device, frame);
    }

    /// Puts an IP packet at the hook of a device without link layer.
    pub fn put_bare(&mut self, device: u32, packet: Vec<u8>) {
        self.ethertype = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
            0x86dd_u16.to_be()
        } else {
            0x0800_u16.to_be()
        };
        self.link_header = 0;
        self.place(device, packet);
    }

    fn place(&mut self, device: u32, bytes: Vec<u8>) {
        self.bytes = bytes;
        self.device = device;
        self.segment = 0;
        self.offload = Offload::None;
    }

    /// How often something was counted.
    pub fn counted(&self, counter: Counter) -> u64 {
        self.counts.get(&counter).copied().unwrap_or(0)
    }
}

impl Default for Simulation {
    fn default() -> Self {
        Self::new()
    }
}
