//! DEL: removes whatever there is, and never fails for what is gone.
//!
//! The host's side goes first: nothing is entered in the container's namespace, whose end of the pair goes with ours. Then
//! the addresses, which must not be given to the next pod while a route still leads to this one. Must not know how.

use super::{Task, World, ipam};
use crate::{
    facts::Pins,
    record::{Attachment, Ipam},
    spec::Error,
};

/// Detaches. Arguments and capabilities are not read: they may be wrong by now.
pub(super) fn del(task: &Task<'_>) -> Result<(), Error> {
    let record = task.world.get(&task.call.id).unwrap_or_else(|error| {
        // The device is found by its name all the same, and forgetting may work where reading does not.
        task.world.log(&format!("{}: {}", task.call.id, error.sentence()));
        None
    });
    remove(task, record.as_ref())
}

/// Removes an attachment of the call's id, with or without a record of it.
pub(super) fn remove(task: &Task<'_>, record: Option<&Attachment>) -> Result<(), Error> {
    let world = task.world;
    let facts = world.facts().ok();
    let unknown;
    let attachment = match record {
        Some(record) => record,
        None => {
            unknown = Attachment::of(task.call.id.clone());
            &unknown
        }
    };
    disconnect(world, attachment, facts.as_ref().map(|facts| &facts.pins))?;
    release_lease(task, record)?;
    world.release(&task.call.id)
}

/// Removes the devices. That its sockets are left alone is the pod's, not the interface's: it stays while another interface
/// of the pod asks for it.
pub(super) fn disconnect(
    world: &dyn World,
    attachment: &Attachment,
    pins: Option<&Pins>,
) -> Result<(), Error> {
    let shares = |other: &Attachment| {
        other.id != attachment.id && other.socket_lb_off && other.netns.cookie == attachment.netns.cookie
    };
    if attachment.socket_lb_off && world.list().is_ok_and(|all| all.iter().any(shares)) {
        let one = Attachment { socket_lb_off: false, ..attachment.clone() };
        return world.disconnect(&one, pins);
    }
    world.disconnect(attachment, pins)
}

/// Gives back what a delegated plugin gave. It is told also where we remember nothing: it may remember something.
fn release_lease(task: &Task<'_>, record: Option<&Attachment>) -> Result<(), Error> {
    if let Some(plugin) = &task.network.ipam {
        return ipam::release(task, plugin);
    }
    if let Some(Ipam::Delegated(plugin)) = record.map(|record| &record.ipam) {
        let id = &task.call.id;
        task.world.log(&format!(
            "the addresses of {id} are of IPAM plugin `{plugin}`, which the configuration no longer names: they stay taken"
        ));
    }
    Ok(())
}
