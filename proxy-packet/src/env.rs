//! What the packet path needs of the world: a packet it can read and change, tables, a clock, routes.
//!
//! Must not decide anything.

use proxy_common::{
    AffinityKey, AffinityValue, BackendId, BackendValue, Bit, Counter, DeviceValue, FlowKey, FlowPlace,
    FlowValue, FragmentKey, FragmentValue, MasqueradeKey, ServiceKey, ServiceValue, SourceRangeKey,
};

use crate::{Work, wire::Wire, work::Route};

/// The most bytes that [`Packet::sum`] adds up: no ICMP error quotes more.
pub const LONGEST_SUM: u32 = 1280;

/// Which checksum an update concerns, and what the change was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Sum {
    /// The IPv4 header's.
    Ip,
    /// TCP's, ICMP's or ICMPv6's; the change is in what the packet itself carries.
    Payload,
    /// TCP's or ICMPv6's; the change is in an address of the pseudo header.
    Pseudo,
    /// As [`Sum::Payload`] for UDP: 0 means "none" and stays.
    UdpPayload,
    /// As [`Sum::Pseudo`] for UDP: 0 means "none" and stays.
    UdpPseudo,
}

/// What a look-up of a record that the agent may be writing gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Read {
    /// There is none.
    Missing,
    /// The copy is whole.
    Whole,
    /// It changed under every attempt.
    Torn,
}

/// Where the kernel would send a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reached {
    /// Through `Route::device`, to `Route::next_hop`.
    Device,
    /// To this node itself.
    Host,
    /// Through a device whose next link takes at most `Route::mtu` bytes.
    TooBig,
    /// Nowhere.
    Nowhere,
}

/// One packet at a hook. Offsets are in bytes from the start of the packet, link layer included.
pub trait Packet {
    /// Length in bytes, link layer included; of a GSO packet the whole.
    fn length(&self) -> u32;

    /// Size of a segment's payload of a GSO packet (`gso_size`), or 0.
    fn segment(&self) -> u32;

    /// The ethertype the kernel noted, network byte order.
    fn ethertype(&self) -> u16;

    /// Index of the device.
    fn device(&self) -> u32;

    /// Length of the link layer's header: 14, or 0 on devices without one.
    fn link_header(&self) -> u32;

    /// Whether a process of the host made the packet (at egress: it did not come in through a device).
    fn is_from_host(&self) -> bool;

    /// Copies bytes out of the packet; false if it is shorter.
    fn load<const N: usize>(&mut self, at: u32, to: &mut [u8; N]) -> bool;

    /// Copies bytes into the packet; false if it is shorter or cannot be made writable. Checksums are the caller's.
    fn store<const N: usize>(&mut self, at: u32, bytes: &[u8; N]) -> bool;

    /// Updates the checksum at `at` by a ones' complement difference (see [`crate::checksum::difference`]), whatever the state of
    /// its offload: none, partial (the device completes it) or complete (the device has verified it).
    fn update_sum<A: Wire>(&mut self, at: u32, difference: u32, sum: Sum) -> bool;

    /// Tells that bytes changed by a difference for which no checksum in the packet makes up. Matters only if the device
    /// summed the packet (complete): its sum follows (`bpf_csum_update`).
    fn note_change(&mut self, difference: u32);

    /// Adds the bytes from `from` to `end`, at most [`LONGEST_SUM`], to a sum (the last byte of an odd number counts as if a
    /// zero followed). Here, because a kernel program has a helper for it.
    fn sum(&mut self, from: u32, end: u32, sum: &mut u32) -> bool;

    /// [`crate::crc32c::change`]. Here, because a kernel program can have it verified by itself.
    fn crc_change(&mut self, length: u32, flipped: u32) -> u32 {
        crate::crc32c::change(length, flipped)
    }

    /// Cuts or extends the packet to `length` bytes, link layer included; a GSO packet ceases to be one.
    fn resize(&mut self, length: u32) -> bool;

    /// Makes room for `bytes` (at most 48) between the link layer and the IP header.
    fn make_room(&mut self, bytes: u32) -> bool;

    /// Nanoseconds of the monotonic clock.
    fn now_ns(&mut self) -> u64;

    /// Any number.
    fn random(&mut self) -> u32;

    /// Adds one to a counter.
    fn count(&mut self, counter: Counter);

    /// Whether one more refusal may be sent in this second.
    fn may_refuse(&mut self) -> bool;
}

/// The tables, for one address family.
pub trait Tables<A: Wire> {
    /// A service or address record.
    fn service(&mut self, key: &ServiceKey<A>, to: &mut ServiceValue) -> Read;

    /// Whether `address` may have an address record; false is certain.
    fn may_be_served(&mut self, address: A) -> bool;

    /// Whether `address` may be one of a pod that egress masquerade knows or has made a flow for; false is certain.
    fn may_be_pod(&mut self, address: A) -> bool;

    /// Whether this bit of the flows' filter is set.
    fn is_noted(&mut self, bit: Bit) -> bool;

    /// Sets a bit of the flows' filter, for good.
    fn note(&mut self, bit: Bit);

    /// The backend id at a position of the ring; false outside of it.
    fn ring(&mut self, position: u32, to: &mut BackendId) -> bool;

    /// A backend; false unless its place holds a whole record.
    fn backend(&mut self, id: BackendId, to: &mut BackendValue<A>) -> bool;

    /// Whether `id` is among `length` ring positions from `base`.
    fn lists(&mut self, base: u32, length: u32, id: BackendId) -> bool;

    /// Whether the source ranges of the key's Service admit its client.
    fn admitted(&mut self, key: &SourceRangeKey) -> bool;

    /// What is remembered of a client's affinity; false if nothing.
    fn affinity(&mut self, key: &AffinityKey, to: &mut AffinityValue) -> bool;

    /// Remembers a client's affinity.
    fn set_affinity(&mut self, key: &AffinityKey, value: &AffinityValue);

    /// The place that a packet's key leads to; false if none.
    fn flow_place(&mut self, key: &FlowKey<A>, to: &mut FlowPlace) -> bool;

    /// Enters a key unless it is there; false if it is, or if there is no memory.
    fn enter_flow_key(&mut self, key: &FlowKey<A>, place: &FlowPlace) -> bool;

    /// Removes a key.
    fn remove_flow_key(&mut self, key: &FlowKey<A>);

    /// Copies a flow; false outside the table.
    fn flow(&mut self, slot: u32, to: &mut FlowValue<A>) -> bool;

    /// Replaces a flow.
    fn set_flow(&mut self, slot: u32, flow: &FlowValue<A>);

    /// Replaces what changes during a flow (`state`, `flags`, `service_id`, `generation`, `completing_ack`, `seen_s`) if the place
    /// still has `flow.serial`.
    fn touch_flow(&mut self, slot: u32, flow: &FlowValue<A>);

    /// What the first fragment of a datagram told; false if it has not come.
    fn fragment(&mut self, key: &FragmentKey<A>, to: &mut FragmentValue) -> bool;

    /// Remembers what a first fragment told.
    fn set_fragment(&mut self, key: &FragmentKey<A>, value: &FragmentValue);

    /// What is known of a device; false if nothing.
    fn device_of(&mut self, index: u32, to: &mut DeviceValue) -> bool;

    /// What the map `masquerade` says of an address, see [`proxy_common::MasqueradeKind`]; 0 if nothing.
    fn masquerade(&mut self, key: &MasqueradeKey) -> u32;

    /// Where a packet from `route.source` to `route.destination` of `route.length` bytes goes.
    fn route(&mut self, route: &mut Route<A>) -> Reached;

    /// Addresses the frame to the pod whose end at the host is this device; false if that is no pod's that the plugin has
    /// wired, if a limit stands before it, or if the frame is for another than this host.
    fn face_pod(&mut self, device: u32) -> bool;

    /// Whether a socket of the host uses or listens on the receiving end of `key` (a reply key).
    fn host_socket(&mut self, key: &FlowKey<A>) -> bool;

    /// Calls `step` with 0, 1, ... until it says true or `attempts` are over; whether it said true. Here, because a
    /// kernel program needs a helper to loop so that the verifier looks at the step once only.
    fn search<S: Step<A, Self>>(&mut self, work: &mut Work<A>, attempts: u32) -> bool
    where
        Self: Sized;
}

/// One attempt of a [`Tables::search`].
pub trait Step<A: Wire, E> {
    /// Whether this attempt succeeded.
    fn attempt(env: &mut E, work: &mut Work<A>, number: u32) -> bool;
}

/// Reads a field of [`proxy_common::PacketSettings`] that is a word.
#[macro_export]
macro_rules! setting {
    ($env:expr, $field:ident) => {
        $env.setting(core::mem::offset_of!(proxy_common::PacketSettings, $field) / 4)
    };
}

/// All of it for one family, with the settings.
pub trait Env<A: Wire>: Packet + Tables<A> {
    /// The word at index `word` of [`proxy_common::PacketSettings`]; in the kernel a constant to the verifier, but not to the compiler.
    /// Use [`setting!`](crate::setting).
    fn setting(&self, word: usize) -> u32;
}
