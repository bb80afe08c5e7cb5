//! The answer that a packet gets instead of its way: noted where that is decided, made in one place at the end.
//!
//! Until then nothing of the packet has been changed, so that the answer quotes what its sender sent. In one place, because
//! an answer is the longest piece of the path, and the verifier walks through it once for each place it is called from.

use proxy_common::Counter;

use crate::{
    Work,
    env::Env,
    forward::drop,
    refuse::{IcmpError, icmp_error, reset},
    source_port::address_on,
    state::TCP,
    wire::Wire,
    work::Verdict,
};

/// Which answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Answer {
    /// Nobody serves it: a reset, or "port unreachable".
    Refused,
    /// Its hop limit is used up.
    TimeExceeded,
    /// It does not fit the next link; `Work::route` has the MTU.
    TooBig,
}

/// Notes the answer and counts the reason.
#[inline(always)]
pub(crate) fn note<A: Wire, E: Env<A>>(
    env: &mut E,
    work: &mut Work<A>,
    answer: Answer,
    reason: Counter,
) -> Verdict {
    env.count(reason);
    work.answer = answer as u32;
    Verdict::Bounce
}

/// Makes the answer that was noted.
#[inline(never)]
pub(crate) fn make<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>) -> Verdict {
    if !env.may_refuse() {
        return drop(env, Counter::DroppedRefusalLimit);
    }
    let refused = work.answer == Answer::Refused as u32;
    if refused && work.outer.protocol == TCP {
        return if reset(env, &work.outer) { Verdict::Bounce } else { Verdict::Drop };
    }
    let device = env.device();
    // The kernel's stack would drop as forged what comes in from an address of this host.
    let by_destination = refused || work.from_host != 0;
    let from = if by_destination { work.outer.destination } else { address_on(env, work, device) };
    let error = if refused {
        IcmpError::PortUnreachable
    } else if work.answer == Answer::TooBig as u32 {
        IcmpError::TooBig
    } else {
        IcmpError::TimeExceeded
    };
    let made = from != A::UNSPECIFIED && icmp_error(env, &work.outer, error, work.route.mtu, from);
    if made { Verdict::Bounce } else { Verdict::Drop }
}
