//! From a packet's destination to the service record.
//!
//! Must not know how a backend is chosen.

use proxy_common::{Scope, ServiceFlags, ServiceKey};

use crate::{
    Work,
    entry::Place,
    env::{Env, Read},
    setting,
    wire::Wire,
};

/// What an address and port of a Service's address are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Found {
    /// A frontend; `Work::service` has its record.
    Service,
    /// No Service has this port.
    Unknown,
    /// The record changed under every attempt to read it.
    Torn,
}

/// Reads the address record of the packet's destination. It exists in scope Internal for every Service's address. Ask
/// [`crate::Tables::may_be_served`] first: most packets' destinations have none.
#[inline(always)]
pub(crate) fn address<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Read {
    work.service_key = ServiceKey::address_record(work.outer.destination, Scope::Internal);
    env.service(&work.service_key, &mut work.service)
}

/// Reads the service record of the packet's destination for a client at `place`; the address record is in
/// `Work::service` and is overwritten.
#[inline(always)]
pub(crate) fn frontend<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, place: Place) -> Found {
    let cluster_ip = work.service.flags().has(ServiceFlags::REFUSE_UNKNOWN_PORT);
    let outside = matches!(place, Place::Node) && work.from_host == 0;
    work.from_outside = 0;
    if outside {
        let found = in_scope(env, work, Scope::External);
        if !matches!(found, Found::Unknown) || !cluster_ip {
            return found;
        }
        // A ClusterIP has no external frontend: whoever can route to it is served as from inside, and masqueraded
        // because its own route back may not lead through this node.
        work.from_outside = u32::from(!inside(env, work.outer.source));
    }
    in_scope(env, work, Scope::Internal)
}

#[inline(always)]
fn in_scope<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, scope: Scope) -> Found {
    work.scope = scope as u32;
    work.service_key = ServiceKey {
        address: work.outer.destination,
        port: work.outer.destination_port,
        protocol: work.outer.protocol,
        scope: scope as u8,
    };
    match env.service(&work.service_key, &mut work.service) {
        Read::Missing => Found::Unknown,
        Read::Torn => Found::Torn,
        Read::Whole => {
            let host_only = work.service.flags().has(ServiceFlags::HOST_NETNS_ONLY);
            if host_only && work.from_host == 0 { Found::Unknown } else { Found::Service }
        }
    }
}

/// Whether an address is one that the cluster gives to pods (`--cluster-cidr`).
#[inline(always)]
pub(crate) fn inside<A: Wire, E: Env<A>>(env: &mut E, address: A) -> bool {
    let [a, b, c, d] = address.words();
    if A::FAMILY == 4 {
        let (prefix, mask) = (setting!(env, inside4), setting!(env, inside4_mask));
        return setting!(env, inside4_set) != 0 && a & mask == prefix;
    }
    if setting!(env, inside6_set) == 0 {
        return false;
    }
    let at = core::mem::offset_of!(proxy_common::PacketSettings, inside6) / 4;
    let mask_at = core::mem::offset_of!(proxy_common::PacketSettings, inside6_mask) / 4;
    let differs = |word: u32, i: usize| (word & env.setting(mask_at + i)) ^ env.setting(at + i);
    let difference = differs(a, 0) | differs(b, 1) | differs(c, 2) | differs(d, 3);
    difference == 0
}
