//! The guard as a filter of the qdisc clsact: before kernel 6.6, or where the agent wants pods attached fast. A pinned tcx
//! link costs a grace period of RCU (some 10 ms, in which no device of the host can be changed), a filter does not.
//!
//! It goes with its device. The agent knows it by priority, handle and name. Must not know what the program does.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::{
    WireError,
    netlink::{Refusal, Rtnetlink},
    plan::Side,
};

/// Order among the filters of one side.
pub const PRIORITY: u32 = 1_513;
/// Handle of our filters at this priority.
pub const HANDLE: u32 = 0x5ea7;
/// What the names of our filters begin with; then the program's.
pub const NAME: &str = "sheave:";

/// `TC_H_MAKE(TC_H_CLSACT, 0)` (linux/pkt_sched.h).
const QDISC_HANDLE: u32 = 0xffff_0000;
/// `TC_H_CLSACT`.
const QDISC_PARENT: u32 = 0xffff_fff1;
/// `ETH_P_ALL` in network byte order, as `tcm_info` has it.
const EVERY_PROTOCOL: u32 = 0x0300;

/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` and its like for egress.
fn parent(side: Side) -> u32 {
    match side {
        Side::Ingress => 0xffff_fff2,
        Side::Egress => 0xffff_fff3,
    }
}

/// Makes the place where filters hang.
pub(super) fn prepare(host: &mut Rtnetlink, index: u32) -> Result<(), WireError> {
    match host.change(qdisc(index), NLM_F_CREATE | NLM_F_EXCL) {
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
    let mut attempt = host.change(filter(program, index, side), NLM_F_CREATE);
    if attempt.as_ref().is_err_and(has_no_qdisc) {
        prepare(host, index)?;
        attempt = host.change(filter(program, index, side), NLM_F_CREATE);
    }
    attempt.map_err(WireError::kernel(format!("attach the guard to the device of index {index}")))
}

/// Whether our filter is there.
pub(super) fn is_attached(host: &mut Rtnetlink, index: u32, side: Side) -> Result<bool, WireError> {
    let request = RouteNetlinkMessage::GetTrafficFilter(header(index, 0, parent(side), 0));
    let ours = header(index, HANDLE, parent(side), info()).header;
    let is_ours = |found: &RouteNetlinkMessage| match found {
        RouteNetlinkMessage::NewTrafficFilter(found) => {
            found.header.handle == ours.handle && found.header.info == ours.info
        }
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

fn qdisc(index: u32) -> RouteNetlinkMessage {
    let mut message = header(index, QDISC_HANDLE, QDISC_PARENT, 0);
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    RouteNetlinkMessage::NewQueueDiscipline(message)
}

fn filter(program: BorrowedFd<'_>, index: u32, side: Side) -> RouteNetlinkMessage {
    let options = [
        TcFilterBpfOption::ProgFd(program.as_fd().as_raw_fd().unsigned_abs()),
        TcFilterBpfOption::ProgName(format!("{NAME}{}", side.program_name())),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    let mut message = header(index, HANDLE, parent(side), info());
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message.attributes.push(TcAttribute::Options(options.map(TcOption::Bpf).to_vec()));
    RouteNetlinkMessage::NewTrafficFilter(message)
}

fn info() -> u32 {
    PRIORITY << 16 | EVERY_PROTOCOL
}

fn header(index: u32, handle: u32, parent: u32, info: u32) -> TcMessage {
    // Indices of devices are positive numbers of 31 bits.
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or_default());
    message.header.handle = TcHandle::from(handle);
    message.header.parent = TcHandle::from(parent);
    message.header.info = info;
    message
}
