//! The packet path's programs on the host's end, as the agent pinned them, so that they are there before the pod can send.
//!
//! Must not know what the programs do, nor fail: the agent attaches what is missing as soon as it sees the device, and says
//! what stands in the way.

use std::{os::fd::AsFd, path::Path};

use proxy_common::names;
use proxy_kernel::bpf::{self, Access};

use super::{filter, netlink::Rtnetlink, plan::Side};
use crate::facts::Pins;

/// Name and pin of a side's program.
fn program(pins: &Pins, side: Side) -> Option<(&'static str, &Path)> {
    let [ingress, egress] = names::POD_PROGRAMS;
    let path = pins.path.as_ref()?;
    Some(match side {
        Side::Ingress => (ingress, &path.ingress),
        Side::Egress => (egress, &path.egress),
    })
}

/// Attaches the program, so that it stays when this process ends. It goes with the device.
pub(super) fn attach(host: &mut Rtnetlink, pins: &Pins, index: u32, side: Side) {
    let Some((name, pin)) = program(pins, side) else { return };
    // No pin: the agent has not filled its maps yet.
    if let Ok(program) = bpf::open_pin(pin, Access::Full) {
        filter::add_path(host, program.as_fd(), index, side, name);
    }
}
