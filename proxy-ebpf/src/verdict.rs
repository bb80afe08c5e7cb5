//! The only place where an outcome becomes a return code, an errno, a count and an event.
//!
//! Must not know how the outcome came about.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_comm, generated::bpf_set_retval},
};
use proxy_common::{
    Address, BackendId, Counter, Hook, Ipv6Be, PortBe, Protocol, ServiceValue, SocketEvent, SocketPeer,
    Verdict,
};

use crate::{
    family::Family,
    maps,
    select::{Choice, now},
    sock_addr::SockAddr,
};

/// The system call goes on.
pub const PROCEED: i32 = 1;
/// The system call fails with the errno that was set.
const REJECT: i32 = 0;

const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// What was decided for one destination.
pub struct Decision {
    hook: Hook,
    protocol: Protocol,
    frontend: Ipv6Be,
    backend: Ipv6Be,
    frontend_port: PortBe,
    backend_port: PortBe,
    service_id: u32,
    backend_id: BackendId,
}

impl Decision {
    /// `asked` is the address and port the program asked for; `service` and `choice` are as far as the decision came.
    #[inline(always)]
    pub fn new<F: Family>(
        hook: Hook,
        protocol: Protocol,
        asked: (F::Address, PortBe),
        service: &ServiceValue,
        choice: &Choice<F::Address>,
    ) -> Self {
        Self {
            hook,
            protocol,
            frontend: asked.0.to_mapped(),
            backend: choice.backend.address.to_mapped(),
            frontend_port: asked.1,
            backend_port: choice.backend.port,
            service_id: service.service_id,
            backend_id: choice.id,
        }
    }

    /// What the socket is to remember.
    #[inline(always)]
    pub fn peer(&self) -> SocketPeer {
        SocketPeer {
            frontend: self.frontend,
            backend: self.backend,
            frontend_port: self.frontend_port,
            backend_port: self.backend_port,
            service_id: self.service_id,
            backend_id: self.backend_id,
            protocol: self.protocol as u32,
            since_ns: now(),
        }
    }
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(at) = maps::COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own slot, valid for the length of the program. A program that another hook of the same
        // CPU preempts can lose an increment: counts are statistics, and an atomic would cost every connection.
        unsafe { *at = (*at).wrapping_add(1) };
    }
}

/// The system call goes on to the backend.
#[inline(always)]
pub fn proceed(ctx: &SockAddr<'_>, decision: &Decision, success: Counter) -> i32 {
    if maps::monitoring() {
        tell(ctx, decision, Verdict::Translated);
    }
    count(success);
    PROCEED
}

/// The system call fails at once: Kubernetes' reject is `ECONNREFUSED`, its drop is `EHOSTUNREACH`.
#[inline(always)]
pub fn refuse(ctx: &SockAddr<'_>, decision: &Decision, reason: Counter) -> i32 {
    if maps::monitoring() {
        tell(ctx, decision, verdict_of(reason));
    }
    count(reason);
    let silent = matches!(reason, Counter::DroppedNoLocalEndpoint | Counter::DroppedSourceRange);
    let errno = if silent { EHOSTUNREACH } else { ECONNREFUSED };
    // SAFETY: the helper has no precondition; kernel 5.18 and later.
    unsafe { bpf_set_retval(-errno) };
    REJECT
}

#[inline(always)]
fn verdict_of(reason: Counter) -> Verdict {
    match reason {
        Counter::RefusedNoEndpoint => Verdict::RefusedNoEndpoint,
        Counter::RefusedUnknownPort => Verdict::RefusedUnknownPort,
        Counter::DroppedNoLocalEndpoint => Verdict::DroppedNoLocalEndpoint,
        Counter::DroppedSourceRange => Verdict::DroppedSourceRange,
        _ => Verdict::RefusedUnstable,
    }
}

/// Sends an event. Compiled into both variants, kept by the verifier only in the monitoring one.
#[inline(always)]
fn tell(ctx: &SockAddr<'_>, decision: &Decision, verdict: Verdict) {
    let Some(mut slot) = maps::EVENTS.reserve::<SocketEvent>(0) else {
        return count(Counter::EventLost);
    };
    slot.write(SocketEvent {
        timestamp_ns: now(),
        netns_cookie: ctx.netns_cookie(),
        frontend: decision.frontend,
        backend: decision.backend,
        frontend_port: decision.frontend_port,
        backend_port: decision.backend_port,
        service_id: decision.service_id,
        pid: ctx.context().tgid(),
        protocol: decision.protocol as u8,
        hook: decision.hook as u8,
        verdict: verdict as u8,
        reserved: 0,
        command: bpf_get_current_comm().unwrap_or_default(),
    });
    slot.submit(0);
}
