//! From the address a program asked for to the service record, never half of one.
//!
//! Must not know how a backend is chosen.

use proxy_common::{Counter, PortBe, Protocol, Scope, ServiceFlags, ServiceKey, ServiceValue};

use crate::{family::Family, maps};

/// How often a record that changed while it was read is read again. An update publishes a new element and leaves the
/// old one whole until it is reused, so two failures in a row already need two reuses within nanoseconds.
pub const ATTEMPTS: u32 = 4;

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

/// Looks up a frontend for a client inside the cluster and writes its record to `service`.
///
/// Traffic that is no Service's costs exactly one failed look-up: that of the address record.
#[inline(always)]
pub fn find<F: Family>(
    address: F::Address,
    port: PortBe,
    protocol: Protocol,
    netns: impl Fn() -> u64,
    service: &mut ServiceValue,
) -> Found {
    let record = ServiceKey::address_record(address, Scope::Internal);
    match read::<F>(&record, service) {
        Found::Service => (),
        other => return other,
    }
    let refuse_unknown = service.flags().has(ServiceFlags::REFUSE_UNKNOWN_PORT);
    let key = ServiceKey { address, port, protocol: protocol as u8, scope: Scope::Internal as u8 };
    match read::<F>(&key, service) {
        Found::NotOurs if refuse_unknown => Found::Refused(Counter::RefusedUnknownPort),
        Found::Service
            if service.flags().has(ServiceFlags::HOST_NETNS_ONLY) && netns() != maps::host_netns_cookie() =>
        {
            Found::NotOurs
        }
        other => other,
    }
}

/// Copies a record and proves by its check word that the copy is whole and belongs to `key`.
#[inline(always)]
fn read<F: Family>(key: &ServiceKey<F::Address>, copy: &mut ServiceValue) -> Found {
    for _ in 0..ATTEMPTS {
        let Some(at) = F::services().get_ptr(key) else {
            return Found::NotOurs;
        };
        // SAFETY: the pointer is valid for the length of the program; the contents may change, which the check finds.
        *copy = unsafe { at.read_volatile() };
        if copy.check == copy.check_word(key) {
            return Found::Service;
        }
    }
    Found::Refused(Counter::RefusedUnstable)
}
