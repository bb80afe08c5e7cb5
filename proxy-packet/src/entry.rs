//! The two ways a packet meets the path: it arrives from a device, or it leaves through one.
//!
//! Must not know how anything is done.

use proxy_common::Counter;

use crate::{
    Work, answer,
    env::{Env, Reached, Read},
    errors, flow,
    forward::{self, begin, carry, drop, find},
    fragment, lookup, masquerade,
    onward::ask_route,
    parse::{self, Fragment, Parsed, parse},
    reply, setting, shortcut,
    wire::Wire,
    work::{Next, Verdict},
};

/// What is on the other side of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Place {
    /// The network outside of this node.
    Node,
    /// A pod.
    Pod,
}

/// A packet that arrives. Its IP header is at `at`.
#[inline(always)]
pub fn ingress<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, at: u32, place: Place) -> Verdict {
    work.from_host = 0;
    let parsed = parse(env, at, false, &mut work.outer);
    if matches!(parsed, Parsed::NotIp) || (matches!(parsed, Parsed::Malformed) && work.outer.l4 == 0) {
        return Verdict::Pass;
    }
    let next = arrived(env, work, parsed, place);
    go_on(env, work, next, place)
}

/// The stages that may follow. Each is called from here alone: the verifier walks through a function once for each place
/// that it is called from.
#[inline(always)]
fn go_on<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, next: Next, place: Place) -> Verdict {
    let next = if matches!(next, Next::Begin) { begin(env, work, place) } else { next };
    let verdict = match next {
        Next::Done(verdict) => verdict,
        Next::Carry => carry(env, work),
        Next::Reply => reply::to_client_elsewhere(env, work),
        Next::ErrorToBackend => errors::to_backend(env, work),
        Next::ErrorToClient => errors::to_client(env, work),
        Next::CarryOut => masquerade::carry(env, work),
        Next::Shortcut => shortcut::take(env, work),
        Next::Begin | Next::Masquerade => Verdict::Drop,
    };
    if matches!(verdict, Verdict::Bounce) { answer::make(env, work) } else { verdict }
}

#[inline(never)]
fn arrived<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, parsed: Parsed, place: Place) -> Next {
    let may_be_served = env.may_be_served(work.outer.destination);
    let address = if may_be_served { lookup::address(env, work) } else { Read::Missing };
    if matches!(address, Read::Torn) {
        return Next::Done(drop(env, Counter::RefusedUnstable));
    }
    let to_service = matches!(address, Read::Whole);
    if matches!(parsed, Parsed::IcmpError) {
        let ours = errors::arriving(env, work, to_service);
        if !matches!(ours, Next::Done(_)) {
            return ours;
        }
    }
    // A source that a flow was given may be a Service's address, too.
    if reply::is_for_given_source(env, work, parsed) {
        return Next::Reply;
    }
    if to_service {
        work.address_flags = work.service.flags;
        return serve(env, work, parsed, place);
    }
    if matches!(place, Place::Node) && shortcut::may_take(env, work, parsed) {
        return Next::Shortcut;
    }
    remember_fragment(env, work, parsed);
    Next::Done(Verdict::Pass)
}

/// A packet to a Service's address.
#[inline(always)]
fn serve<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, parsed: Parsed, place: Place) -> Next {
    let may_have_ports = match parsed {
        Parsed::Ports => true,
        // As its first fragment, which has gone on or will.
        Parsed::Later => parse::may_have_ports::<A>(work.outer.protocol),
        Parsed::Malformed => return drop_unless_host(env, work, Counter::DroppedMalformed),
        Parsed::TooManyHeaders => return drop_unless_host(env, work, Counter::DroppedHeaders),
        Parsed::Echo | Parsed::Other | Parsed::NotIp | Parsed::IcmpError => false,
    };
    if !may_have_ports {
        return Next::Done(forward::unserved(env, work, false));
    }
    let source = work.outer.source;
    if source.is_loopback() && env.device() == setting!(env, loopback) {
        return Next::Done(Verdict::Pass);
    }
    if !source.is_one_host() || source.is_loopback() {
        // The kernel's stack would drop it as forged; what gets the node's address as its source would escape that.
        return Next::Done(drop(env, Counter::DroppedMalformed));
    }
    flow::read_clock(env, work);
    if matches!(parsed, Parsed::Later) && !fragment::recall(env, work) {
        return drop_unless_host(env, work, Counter::DroppedFragment);
    }
    remember_fragment(env, work, parsed);
    find(env, work, place)
}

/// What cannot be served is dropped; but on an address of this host it is the host's business.
#[inline(never)]
fn drop_unless_host<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, reason: Counter) -> Next {
    let (source, destination) = (work.outer.source, work.outer.destination);
    if matches!(ask_route(env, work, source, destination, 0), Reached::Host) {
        return Next::Done(Verdict::Pass);
    }
    Next::Done(drop(env, reason))
}

#[inline(always)]
fn remember_fragment<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, parsed: Parsed) {
    if matches!(parsed, Parsed::Ports) && work.outer.fragment == Fragment::First as u8 {
        flow::read_clock(env, work);
        fragment::remember(env, work);
    }
}

/// A packet that leaves through a device, to the network or into a pod. Its IP header is at `at`.
#[inline(always)]
pub fn egress<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, at: u32, place: Place) -> Verdict {
    work.from_host = 0;
    let parsed = parse(env, at, false, &mut work.outer);
    let is_error = matches!(parsed, Parsed::IcmpError);
    let masquerades = matches!(place, Place::Node) && setting!(env, masquerade) != 0;
    let unserved = matches!(parsed, Parsed::Other | Parsed::NotIp);
    if !carries(parsed) && (unserved || !masquerades) {
        return Verdict::Pass;
    }
    let mut verdict = Verdict::Pass;
    let ours = if is_error {
        errors::leaving(env, work, &mut verdict)
    } else {
        carries(parsed) && reply::leaving(env, work, parsed, &mut verdict)
    };
    if ours {
        return verdict;
    }
    let next = sent_by_pod_or_host(env, work, parsed, place);
    go_on(env, work, next, place)
}

/// Whether it can be a Service's. Echoes, and what cannot be read, are egress masquerade's business alone.
#[inline(always)]
fn carries(parsed: Parsed) -> bool {
    matches!(parsed, Parsed::Ports | Parsed::Later | Parsed::IcmpError)
}

/// A packet that leaves and answers nobody.
#[inline(always)]
fn sent_by_pod_or_host<A: Wire, E: Env<A>>(
    env: &mut E,
    work: &mut Work<A>,
    parsed: Parsed,
    place: Place,
) -> Next {
    let (is_error, is_node) = (matches!(parsed, Parsed::IcmpError), matches!(place, Place::Node));
    let is_from_host = env.is_from_host();
    if is_node && setting!(env, masquerade) != 0 && (is_error || !is_from_host) {
        let next = masquerade::leaving(env, work, parsed);
        if !is_error || !matches!(next, Next::Done(_)) {
            return next;
        }
    }
    if !is_node || setting!(env, host_by_packet) == 0 || !is_from_host || !carries(parsed) {
        return Next::Done(Verdict::Pass);
    }
    if !is_error && !env.may_be_served(work.outer.destination) {
        return Next::Done(Verdict::Pass);
    }
    work.from_host = 1;
    if is_error { errors::from_host(env, work) } else { from_host(env, work, parsed) }
}

/// A packet of the host's own: no socket hook has translated it. One between loopback addresses stays on its device: the
/// kernel takes no answer from elsewhere to such an address, so a NodePort there is for sockets alone.
#[inline(never)]
fn from_host<A: Wire, E: Env<A>>(env: &mut E, work: &mut Work<A>, parsed: Parsed) -> Next {
    if work.outer.source.is_loopback() {
        return Next::Done(Verdict::Pass);
    }
    match lookup::address(env, work) {
        Read::Missing => return Next::Done(Verdict::Pass),
        Read::Torn => return Next::Done(drop(env, Counter::RefusedUnstable)),
        Read::Whole => (),
    }
    work.address_flags = work.service.flags;
    flow::read_clock(env, work);
    if matches!(parsed, Parsed::Later) && !fragment::recall(env, work) {
        return Next::Done(Verdict::Pass);
    }
    remember_fragment(env, work, parsed);
    find(env, work, Place::Node)
}
