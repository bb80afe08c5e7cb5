//! Takes a pod's network away, from the host's side.
//!
//! Killed at any step, the next call finds the device and finishes: the device goes last. Nothing is entered: the pod's
//! end goes with the host's. Must not know whether the pod still lives.

use std::{thread, time::Duration};

use proxy_kernel::Detached;

use super::{
    WireError, guard,
    kernel::{find, remove},
    message,
    netlink::Rtnetlink,
};
use crate::{facts::Pins, record::Attachment};

/// Between two looks whether a device is gone.
const PAUSE: Duration = Duration::from_micros(200);

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

/// The guard goes with the device; what it was told goes after it, so that nothing comes out of the pod unguarded.
fn unplug(host: &mut Rtnetlink, index: u32, pins: Option<&Pins>) -> Result<(), WireError> {
    remove_at_once(host, index)?;
    pins.map_or(Ok(()), |pins| guard::forget(pins, index))
}

/// Who asks the kernel to remove a device is held until a grace period of RCU has passed, some 30 ms after the device, its
/// other end and all that hung on them are gone for everybody. So another process asks, and waits alone. If it could not do
/// it, this one does, and says why.
fn remove_at_once(host: &mut Rtnetlink, index: u32) -> Result<(), WireError> {
    let Ok(Some(other)) = Detached::start(|| ask_for_removal(index)) else { return remove(host, index) };
    while other.runs() {
        if !is_there(host, index) {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
    remove(host, index)
}

/// With a socket of its own, as answers on a shared one would be anybody's.
fn ask_for_removal(index: u32) {
    if let Ok(mut host) = Rtnetlink::open() {
        let _ = remove(&mut host, index);
    }
}

fn is_there(host: &mut Rtnetlink, index: u32) -> bool {
    !host.get(message::link(index)).is_err_and(|refusal| refusal.is(libc::ENODEV))
}

/// The device went before us, with the pod's namespace: nobody knows its index any more. What is recorded for
/// devices that do not exist is removed, for one of them was this pod's.
fn forget_the_gone(host: &mut Rtnetlink, pins: &Pins) -> Result<(), WireError> {
    let mut known = guard::recorded(pins)?;
    known.retain(|index| !is_there(host, *index));
    known.into_iter().map(|index| guard::forget(pins, index)).fold(Ok(()), Result::and)
}

/// Whether there is something to remove: a device of this attachment's name.
pub(super) fn remains(attachment: &Attachment) -> Result<bool, WireError> {
    let mut host = Rtnetlink::open().map_err(WireError::Socket)?;
    Ok(find(&mut host, &attachment.host_device)?.is_some())
}
