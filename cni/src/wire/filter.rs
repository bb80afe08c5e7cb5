//! The guard and the packet path as filters of the qdisc clsact. A tcx link, which needs kernel 6.6 besides, costs a
//! grace period of RCU (some 10 ms, in which no device of the host can be changed), a filter does not.
//!
//! They go with their device. The agent knows them by priority, handle and name. Must not know what the programs do.

use std::os::fd::BorrowedFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use proxy_kernel::clsact;

use super::{
    WireError,
    netlink::{Refusal, Rtnetlink},
    plan::Side,
};

/// The guard's, before the packet path's.
const PRIORITY: u32 = clsact::FIRST_PRIORITY;

impl From<Side> for clsact::Side {
    fn from(side: Side) -> Self {
        match side {
            Side::Ingress => Self::Ingress,
            Side::Egress => Self::Egress,
        }
    }
}

/// Makes the place where filters hang.
pub(super) fn prepare(host: &mut Rtnetlink, index: u32) -> Result<(), WireError> {
    let place = RouteNetlinkMessage::NewQueueDiscipline(clsact::qdisc(index));
    match host.change(place, NLM_F_CREATE | NLM_F_EXCL) {
        Err(refusal) if !refusal.is(libc::EEXIST) => {
            let attempt = format!("make a place for the guard on the device of index {index}");
            Err(WireError::kernel(attempt)(refusal))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Puts the program on one side of a device. The first filter at a new place waits for a grace period of RCU, if none has
/// passed since the place was made (`mini_qdisc_pair_swap`).
pub(super) fn attach(
    host: &mut Rtnetlink,
    program: BorrowedFd<'_>,
    index: u32,
    side: Side,
) -> Result<(), WireError> {
    let filter = || {
        let filter = clsact::filter_with(index, side.into(), PRIORITY, program, side.program_name());
        RouteNetlinkMessage::NewTrafficFilter(filter)
    };
    let mut attempt = host.change(filter(), NLM_F_CREATE);
    if attempt.as_ref().is_err_and(has_no_qdisc) {
        prepare(host, index)?;
        attempt = host.change(filter(), NLM_F_CREATE);
    }
    attempt.map_err(WireError::kernel(format!("attach the guard to the device of index {index}")))
}

/// Puts the packet path's program behind the guard's. If the agent was faster its filter stays: it may run a newer program
/// than the one that was pinned a moment ago. A refusal is left for the agent to meet.
pub(super) fn add_path(host: &mut Rtnetlink, program: BorrowedFd<'_>, index: u32, side: Side, name: &str) {
    let filter = clsact::filter_with(index, side.into(), clsact::PATH_PRIORITY, program, name);
    let _ = host.change(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE | NLM_F_EXCL);
}

/// Whether the guard is there.
pub(super) fn is_attached(host: &mut Rtnetlink, index: u32, side: Side) -> Result<bool, WireError> {
    let request = RouteNetlinkMessage::GetTrafficFilter(clsact::filters(index, side.into()));
    let is_ours = |found: &RouteNetlinkMessage| match found {
        RouteNetlinkMessage::NewTrafficFilter(found) => clsact::is_filter(found, PRIORITY),
        _ => false,
    };
    match host.dump(&request) {
        Ok(filters) => Ok(filters.iter().any(is_ours)),
        Err(refusal) if has_no_qdisc(&refusal) => Ok(false),
        Err(refusal) => Err(WireError::kernel("list the filters of a device".to_owned())(refusal)),
    }
}

fn has_no_qdisc(refusal: &Refusal) -> bool {
    refusal.is(libc::EINVAL) || refusal.is(libc::ENOENT)
}
