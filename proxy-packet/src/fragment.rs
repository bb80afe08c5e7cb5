//! Later fragments have no ports: they follow the first one.
//!
//! Must not know Services.

use proxy_common::{FragmentKey, FragmentValue};

use crate::{Work, env::Env, wire::Wire};

/// How long the first fragment's ports are good for its datagram (RFC 791 and 8200 let reassembly take so long).
const LIFETIME_S: u32 = 60;

/// Remembers the ports of a first fragment.
#[inline(always)]
pub(crate) fn remember<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) {
    work.fragment_key = key(work);
    work.fragment = FragmentValue {
        source_port: work.outer.source_port,
        destination_port: work.outer.destination_port,
        seen_s: work.now_s,
        protocol: u32::from(work.outer.protocol),
    };
    env.set_fragment(&work.fragment_key, &work.fragment);
}

/// Gives a later fragment the ports of its first; false if that has not come.
#[inline(always)]
pub(crate) fn recall<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> bool {
    work.fragment_key = key(work);
    let known = env.fragment(&work.fragment_key, &mut work.fragment);
    if !known || work.now_s.wrapping_sub(work.fragment.seen_s) > LIFETIME_S {
        return false;
    }
    work.outer.source_port = work.fragment.source_port;
    work.outer.destination_port = work.fragment.destination_port;
    work.outer.protocol = protocol(&work.fragment);
    true
}

#[inline(always)]
fn key<A: Wire>(work: &Work<A>) -> FragmentKey<A> {
    FragmentKey {
        source: work.outer.source,
        destination: work.outer.destination,
        identification: work.outer.identification,
        // RFC 8200, 4.5: the next header of later fragments may differ and does not count.
        protocol: if A::FAMILY == 4 { u32::from(work.outer.protocol) } else { 0 },
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it was a byte")]
fn protocol(fragment: &FragmentValue) -> u8 {
    fragment.protocol as u8
}
