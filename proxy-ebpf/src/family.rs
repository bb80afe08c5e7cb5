//! What differs between IPv4 and IPv6: which maps, and where the kernel's structures have addresses.
//!
//! Must not decide anything; the code that decides is generic over [`Family`] or [`PacketFamily`].

use core::mem;

use aya_ebpf::{
    bindings::{bpf_fib_lookup as Question, bpf_redir_neigh as NextHop},
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use proxy_common::{
    Address as _, BackendValue, FlowKey, FlowPlace, FlowValue, FragmentKey, FragmentValue, Ipv4Be, Ipv6Be,
    ServiceKey, ServiceValue,
};
use proxy_packet::{Wire, Work};

use crate::maps;

/// An address family of frontends and their backends.
pub trait Family {
    /// Its address.
    type Address: Wire + 'static;
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

/// An address family of packets.
pub trait PacketFamily: Wire + 'static {
    /// The same family at the socket.
    type Family: Family<Address = Self>;

    /// Its keys of flows.
    fn flow_keys() -> &'static HashMap<FlowKey<Self>, FlowPlace>;

    /// Its flows.
    fn flows() -> &'static Array<FlowValue<Self>>;

    /// Its fragmented datagrams.
    fn fragments() -> &'static LruHashMap<FragmentKey<Self>, FragmentValue>;

    /// Its packet at hand.
    fn work() -> &'static PerCpuArray<Work<Self>>;

    /// Writes family and addresses of a question to the routing.
    fn ask(question: &mut Question, source: Self, destination: Self);

    /// The next hop in the answer; unspecified if it is of the other family.
    fn next_hop(answer: &Question) -> Self;

    /// The form in which a redirection wants its next hop.
    fn redirection(self) -> NextHop;
}

/// The kernel's numbers of the families.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

impl PacketFamily for Ipv4Be {
    type Family = V4;

    #[inline(always)]
    fn flow_keys() -> &'static HashMap<FlowKey<Self>, FlowPlace> {
        &maps::FLOW_KEYS4
    }

    #[inline(always)]
    fn flows() -> &'static Array<FlowValue<Self>> {
        &maps::FLOWS4
    }

    #[inline(always)]
    fn fragments() -> &'static LruHashMap<FragmentKey<Self>, FragmentValue> {
        &maps::FRAGMENTS4
    }

    #[inline(always)]
    fn work() -> &'static PerCpuArray<Work<Self>> {
        &maps::WORK4
    }

    #[inline(always)]
    fn ask(question: &mut Question, source: Self, destination: Self) {
        question.family = AF_INET;
        question.__bindgen_anon_3.ipv4_src = source.network_bits();
        question.__bindgen_anon_4.ipv4_dst = destination.network_bits();
    }

    #[inline(always)]
    fn next_hop(answer: &Question) -> Self {
        if answer.family != AF_INET {
            return Self::UNSPECIFIED;
        }
        // SAFETY: the answer has an address of this family.
        Self::from_network_bits(unsafe { answer.__bindgen_anon_4.ipv4_dst })
    }

    #[inline(always)]
    fn redirection(self) -> NextHop {
        // SAFETY: integers only, for which zero is a value.
        let mut next: NextHop = unsafe { mem::zeroed() };
        next.nh_family = AF_INET.into();
        next.__bindgen_anon_1.ipv4_nh = self.network_bits();
        next
    }
}

impl PacketFamily for Ipv6Be {
    type Family = V6;

    #[inline(always)]
    fn flow_keys() -> &'static HashMap<FlowKey<Self>, FlowPlace> {
        &maps::FLOW_KEYS6
    }

    #[inline(always)]
    fn flows() -> &'static Array<FlowValue<Self>> {
        &maps::FLOWS6
    }

    #[inline(always)]
    fn fragments() -> &'static LruHashMap<FragmentKey<Self>, FragmentValue> {
        &maps::FRAGMENTS6
    }

    #[inline(always)]
    fn work() -> &'static PerCpuArray<Work<Self>> {
        &maps::WORK6
    }

    #[inline(always)]
    fn ask(question: &mut Question, source: Self, destination: Self) {
        question.family = AF_INET6;
        question.__bindgen_anon_3.ipv6_src = source.network_words();
        question.__bindgen_anon_4.ipv6_dst = destination.network_words();
    }

    #[inline(always)]
    fn next_hop(answer: &Question) -> Self {
        // SAFETY: the answer has an address of the family that was asked for.
        Self::from_network_words(unsafe { answer.__bindgen_anon_4.ipv6_dst })
    }

    #[inline(always)]
    fn redirection(self) -> NextHop {
        // SAFETY: integers only, for which zero is a value.
        let mut next: NextHop = unsafe { mem::zeroed() };
        next.nh_family = AF_INET6.into();
        next.__bindgen_anon_1.ipv6_nh = self.network_words();
        next
    }
}
