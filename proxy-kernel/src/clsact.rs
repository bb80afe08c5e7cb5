//! Filters of the qdisc clsact that run an eBPF program in direct-action mode, as netlink messages. The plugin and the
//! agent make them, and each finds the other's: by priority, handle and name.
//!
//! Must not know which programs there are, nor how a message is sent.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

/// Priority of the first of our filters on a side of a device: the guard's.
pub const FIRST_PRIORITY: u32 = 1_513;
/// Priority of the packet path's filter. Plugin and agent attach it at the same one, so there is never a second.
pub const PATH_PRIORITY: u32 = FIRST_PRIORITY + 1;
/// Handle of our filters at their priority.
const HANDLE: u32 = 0x5ea7;
/// What the names of our filters begin with; then the program's.
const NAME: &str = "sheave:";

/// The qdisc's name.
const CLSACT: &str = "clsact";
/// `TC_H_MAKE(TC_H_CLSACT, 0)` (linux/pkt_sched.h).
const QDISC_HANDLE: u32 = 0xffff_0000;
/// `TC_H_CLSACT`.
const QDISC_PARENT: u32 = 0xffff_fff1;
/// `ETH_P_ALL` in network byte order, as `tcm_info` has it.
const EVERY_PROTOCOL: u32 = 0x0300;

/// A side of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What comes from it.
    Ingress,
    /// What leaves through it.
    Egress,
}

impl Side {
    /// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` and its like for egress.
    const fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }
}

/// The qdisc of the device of this index, to be made or removed.
pub fn qdisc(index: u32) -> TcMessage {
    let mut message = header(index, QDISC_HANDLE, QDISC_PARENT, 0);
    message.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
    message
}

/// Whether it is this qdisc.
pub fn is_qdisc(message: &TcMessage) -> bool {
    message.attributes.contains(&TcAttribute::Kind(CLSACT.to_owned()))
}

/// All filters on one side, to be asked for.
pub fn filters(index: u32, side: Side) -> TcMessage {
    header(index, 0, side.parent(), 0)
}

/// Our filter of this priority, to be removed.
pub fn filter(index: u32, side: Side, priority: u32) -> TcMessage {
    header(index, HANDLE, side.parent(), priority << 16 | EVERY_PROTOCOL)
}

/// Our filter of this priority with a program of this name, to be made. Without `NLM_F_EXCL` the kernel exchanges the
/// program of the filter that is there.
pub fn filter_with(index: u32, side: Side, priority: u32, program: BorrowedFd<'_>, name: &str) -> TcMessage {
    let options = [
        TcFilterBpfOption::ProgFd(program.as_raw_fd().unsigned_abs()),
        TcFilterBpfOption::ProgName(format!("{NAME}{name}")),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    let mut message = filter(index, side, priority);
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message.attributes.push(TcAttribute::Options(options.map(TcOption::Bpf).to_vec()));
    message
}

/// Whether it is our filter of this priority.
pub fn is_filter(message: &TcMessage, priority: u32) -> bool {
    let ours = filter(0, Side::Ingress, priority).header;
    let header = &message.header;
    header.handle == ours.handle && header.info == ours.info && program_name(message).is_some()
}

/// The name that [`filter_with`] was given.
pub fn program_name(message: &TcMessage) -> Option<String> {
    options(message).find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => name.strip_prefix(NAME).map(str::to_owned),
        _ => None,
    })
}

/// Whether the filter runs the program that has this id in the kernel.
pub fn has_program(message: &TcMessage, id: u32) -> bool {
    options(message).any(|option| *option == TcOption::Bpf(TcFilterBpfOption::ProgId(id)))
}

fn options(message: &TcMessage) -> impl Iterator<Item = &TcOption> {
    message.attributes.iter().flat_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.as_slice(),
        _ => &[],
    })
}

fn header(index: u32, handle: u32, parent: u32, info: u32) -> TcMessage {
    // Indices of devices are positive numbers of 31 bits.
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or_default());
    message.header.handle = TcHandle::from(handle);
    message.header.parent = TcHandle::from(parent);
    message.header.info = info;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> TcMessage {
        let mut message = filter(3, Side::Egress, FIRST_PRIORITY + 1);
        let name = TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned()));
        message.attributes.push(TcAttribute::Options(vec![name]));
        message
    }

    #[test]
    fn a_filter_is_ours_by_priority_handle_and_name() {
        let is_ours = |message: &TcMessage| is_filter(message, FIRST_PRIORITY + 1);
        assert!(is_ours(&named("sheave:node_egress")));
        assert!(!is_filter(&named("sheave:node_egress"), FIRST_PRIORITY), "another priority");
        assert_eq!(program_name(&named("sheave:node_egress")).as_deref(), Some("node_egress"));
        assert!(!is_ours(&named("cilium-eth0")));
        let mut other = named("sheave:node_egress");
        other.header.info = 1 << 16 | EVERY_PROTOCOL;
        assert!(!is_ours(&other), "another priority");
        let mut other = named("sheave:node_egress");
        other.header.handle = TcHandle::from(1);
        assert!(!is_ours(&other), "another handle");
    }
}
