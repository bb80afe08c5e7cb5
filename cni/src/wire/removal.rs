//! Takes a pod's network away, from the host's side.
//!
//! Killed at any step, the next call finds the device and finishes: the device goes last. Nothing is entered: the pod's
//! end goes with the host's. Must not know whether the pod still lives.

use super::{
    WireError, guard,
    kernel::{find, remove},
    message,
    netlink::Rtnetlink,
};
use crate::{facts::Pins, record::Attachment};

/// Removes whatever exists of the attachment. All of it is tried; the first failure is told.
pub(super) fn disconnect(attachment: &Attachment, pins: Option<&Pins>) -> Result<(), WireError> {
    let mut host = Rtnetlink::open().map_err(WireError::Socket)?;
    let cookie = match pins {
        Some(pins) if attachment.socket_lb_off => guard::unexempt(pins, attachment.netns.cookie),
        _ => Ok(()),
    };
    let device = match find(&mut host, &attachment.host_device)? {
        Some(device) => unplug(&mut host, device.header.index, pins),
        None => pins.map_or(Ok(()), |pins| forget_the_gone(&mut host, pins)),
    };
    cookie.and(device)
}

/// Down first: nothing must come out of the pod between the guard's end and the device's.
fn unplug(host: &mut Rtnetlink, index: u32, pins: Option<&Pins>) -> Result<(), WireError> {
    let down = host.change(message::link_state(index, false), 0);
    if down.is_err_and(|refusal| refusal.is(libc::ENODEV)) {
        return pins.map_or(Ok(()), |pins| guard::forget(pins, index));
    }
    let guard = pins.map_or(Ok(()), |pins| guard::forget(pins, index));
    remove(host, index).and(guard)
}

/// The device went before us, with the pod's namespace: nobody knows its index any more. What is recorded for
/// devices that do not exist is removed, for one of them was this pod's.
fn forget_the_gone(host: &mut Rtnetlink, pins: &Pins) -> Result<(), WireError> {
    let mut is_gone =
        |index: &u32| host.get(message::link(*index)).is_err_and(|refusal| refusal.is(libc::ENODEV));
    let mut known = guard::recorded(pins)?;
    known.retain(|index| is_gone(index));
    known.into_iter().map(|index| guard::forget(pins, index)).fold(Ok(()), Result::and)
}

/// Whether there is something to remove: a device of this attachment's name.
pub(super) fn remains(attachment: &Attachment) -> Result<bool, WireError> {
    let mut host = Rtnetlink::open().map_err(WireError::Socket)?;
    Ok(find(&mut host, &attachment.host_device)?.is_some())
}
