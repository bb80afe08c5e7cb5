//! What the API says: the parts of Service, EndpointSlice and Node that decide, as plain data.
//!
//! Text from outside stays text here (addresses, enumerations); [`crate::desired`] judges it, so that one malformed
//! field costs one warning and not the object. Must not know where objects come from.

mod object;
mod store;

pub use object::{
    EndpointObject, HostPort, HostPortsObject, IngressObject, NodeAddress, NodeObject, ObjectName,
    PortObject, ServiceObject, SliceObject, SlicePort,
};
pub use store::{Counts, Event, Source, Store};

#[cfg(test)]
mod tests;
