//! What is known so far of the packet at hand.
//!
//! In the kernel it lies in a per-CPU map: the stack of a program is too small for it. Must not hold logic.

use proxy_common::{
    Address, AffinityKey, AffinityValue, BackendId, BackendValue, DeviceValue, FlowKey, FlowPlace, FlowValue,
    FragmentKey, FragmentValue, ServiceKey, ServiceValue,
};

use crate::{flow::Progress, parse::Headers};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// Not ours, or translated: other programs and the kernel's stack go on with it.
    Pass,
    /// Gone. The reason is counted.
    Drop,
    /// Out through `Work::route`'s device to its next hop.
    Redirect,
    /// Back to where it came from: an answer that was made of it.
    Bounce,
    /// Into the host's stack as if it came in through the device `Work::route.device`.
    ToHost,
    /// Into the pod whose end at the host is the device `Work::route.device`.
    Enter,
}

/// What a stage of the path found out: which stage is next, or that it is over. One word, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is over.
    Done(Verdict),
    /// A new flow is wanted: [`crate::forward::begin`].
    Begin,
    /// The client's packet of `Work::flow`: [`crate::forward::carry`].
    Carry,
    /// A pod's packet to the outside that begins a flow: `begin` in [`crate::masquerade`].
    Masquerade,
    /// A pod's packet to the outside, of `Work::flow`: [`crate::masquerade::carry`].
    CarryOut,
    /// A reply of `Work::flow`: [`crate::reply::to_client_elsewhere`].
    Reply,
    /// An ICMP error about a packet of `Work::flow`'s backend: [`crate::errors::to_backend`].
    ErrorToBackend,
    /// An ICMP error about a packet of `Work::flow`'s client: [`crate::errors::to_client`].
    ErrorToClient,
    /// Nobody's, for a pod: [`crate::shortcut::take`].
    Shortcut,
}

const _: () = assert!(size_of::<Next>() == size_of::<u32>());

/// A question to the kernel's routing, and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Route<A> {
    /// In: source address.
    pub source: A,
    /// In: destination. Out: next hop.
    pub destination: A,
    /// In: device at which the packet is. Out: device through which it leaves.
    pub device: u32,
    /// In: length of the longest IP packet in it (of a GSO packet: of a segment).
    pub length: u32,
    /// Out of [`crate::Reached::TooBig`]: the most that fits.
    pub mtu: u32,
    /// In: 1 if the packet leaves (egress), 0 if it arrives.
    pub leaving: u32,
    /// In: IP protocol number.
    pub protocol: u32,
}

/// Everything known of the packet at hand, and room for what is compared with it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Work<A> {
    /// Its headers.
    pub outer: Headers<A>,
    /// Of an ICMP error: the headers of the packet it quotes.
    pub inner: Headers<A>,
    /// Key of the last service look-up.
    pub service_key: ServiceKey<A>,
    /// The record found.
    pub service: ServiceValue,
    /// Key of the last flow look-up.
    pub key: FlowKey<A>,
    /// Where it led.
    pub place: FlowPlace,
    /// The flow, found or being made.
    pub flow: FlowValue<A>,
    /// What of it the table has and packets change.
    pub progress: Progress,
    /// A place being considered for a new flow.
    pub candidate: FlowPlace,
    /// What is there.
    pub occupant: FlowValue<A>,
    /// The last key entered, compared or removed.
    pub other_key: FlowKey<A>,
    /// Where that led.
    pub other_place: FlowPlace,
    /// The backend chosen.
    pub backend: BackendValue<A>,
    /// Its id.
    pub backend_id: BackendId,
    /// Client of an affinity.
    pub affinity_key: AffinityKey,
    /// What is remembered of it.
    pub affinity: AffinityValue,
    /// Key of a fragmented datagram.
    pub fragment_key: FragmentKey<A>,
    /// What is remembered of it.
    pub fragment: FragmentValue,
    /// Routing.
    pub route: Route<A>,
    /// A device.
    pub device: DeviceValue,
    /// Whole seconds of the monotonic clock.
    pub now_s: u32,
    /// Hash of the client's end of the flow.
    pub hash: u32,
    /// Scope of the look-up, see [`proxy_common::Scope`].
    pub scope: u32,
    /// 1: the client is outside the cluster and asks for a ClusterIP.
    pub from_outside: u32,
    /// 1: the client is a process of the host.
    pub from_host: u32,
    /// Flags of the address record of the destination, see [`proxy_common::ServiceFlags`].
    pub address_flags: u32,
    /// [`Verdict::Bounce`]: which answer, by number.
    pub answer: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

impl<A: Address> Route<A> {
    /// To be overwritten.
    pub const NONE: Self = Self {
        source: A::UNSPECIFIED,
        destination: A::UNSPECIFIED,
        device: 0,
        length: 0,
        mtu: 0,
        leaving: 0,
        protocol: 0,
    };
}
