//! From an address to the service record, never half of one.
//!
//! Must not know how a backend is chosen.

use proxy_common::{Counter, PortBe, Protocol, Scope, ServiceFlags, ServiceKey, ServiceValue, SocketLb};
use proxy_packet::Read;

use crate::{copy::copy_words, family::Family, maps, ranges};

/// How often a record that changed while it was read is read again. An update publishes a new element and leaves the
/// old one whole until it is reused, so two failures in a row already need two reuses within nanoseconds.
pub const ATTEMPTS: u32 = 4;

/// Frontends that sockets of pods are not translated for.
const LIMITED: u32 = ServiceFlags::HOST_NETNS_ONLY | ServiceFlags::SOURCE_RANGES;

/// What an address and port are. One word in a register: a payload that only some variants have would leave the
/// compiler free to copy an undefined register, which the verifier refuses. Records therefore go through `&mut`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No Service's: leave it alone.
    NotOurs,
    /// A frontend; its record was written to the place given.
    Service,
    /// A Service's address, but nothing may be reached there.
    Refused(Counter),
}

/// Looks up a frontend for a client inside the cluster and writes its record to `service`. `source` is the address that
/// the client's socket has; unspecified while the kernel has not chosen one.
///
/// Traffic that is no Service's costs exactly one failed look-up: that of the address record.
#[inline(always)]
pub fn find<F: Family>(
    address: F::Address,
    port: PortBe,
    protocol: Protocol,
    netns: impl Fn() -> u64,
    source: impl Fn() -> F::Address,
    service: &mut ServiceValue,
) -> Found {
    if maps::socket_lb() == SocketLb::Off as u32 {
        return Found::NotOurs;
    }
    match read::<F>(&ServiceKey::address_record(address, Scope::Internal), service) {
        Read::Missing => return Found::NotOurs,
        Read::Torn => return Found::Refused(Counter::RefusedUnstable),
        Read::Whole => (),
    }
    let netns = netns();
    if by_packet(netns) {
        return Found::NotOurs;
    }
    let refuse_unknown = service.flags().has(ServiceFlags::REFUSE_UNKNOWN_PORT);
    let key = ServiceKey { address, port, protocol: protocol as u8, scope: Scope::Internal as u8 };
    match read::<F>(&key, service) {
        Read::Missing if refuse_unknown => Found::Refused(Counter::RefusedUnknownPort),
        Read::Missing => Found::NotOurs,
        Read::Torn => Found::Refused(Counter::RefusedUnstable),
        Read::Whole if service.flags & LIMITED == 0 => Found::Service,
        // Which address a pod will send from is seen at its device.
        Read::Whole if netns != maps::host_netns_cookie() => Found::NotOurs,
        Read::Whole if ranges::admit::<F>(service, address, source) => Found::Service,
        Read::Whole => Found::Refused(Counter::DroppedSourceRange),
    }
}

/// Whether the sockets of a network namespace are left alone: their packets are translated.
#[inline(always)]
fn by_packet(netns: u64) -> bool {
    let only_host = maps::socket_lb() == SocketLb::Host as u32;
    (only_host && netns != maps::host_netns_cookie()) || maps::PACKET_ONLY.get_ptr(netns).is_some()
}

/// Copies a record and proves by its check word that the copy is whole and belongs to `key`.
#[inline(always)]
pub fn read<F: Family>(key: &ServiceKey<F::Address>, copy: &mut ServiceValue) -> Read {
    for _ in 0..ATTEMPTS {
        let Some(at) = F::services().get_ptr(key) else {
            return Read::Missing;
        };
        // SAFETY: the pointer is valid for the length of the program; the contents may change, which the check finds.
        unsafe { copy_words(at, copy) };
        if copy.check == copy.check_word(key) {
            return Read::Whole;
        }
    }
    Read::Torn
}
