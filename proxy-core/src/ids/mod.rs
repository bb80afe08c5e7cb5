//! What must stay stable or must not be reused too early: free space, backend ids, ring ranges, service ids, and the
//! quarantine that freed ones pass.
//!
//! Must not know Services, frontends or the order of writes.

mod backends;
mod per_family;
mod quarantine;
mod ranges;
mod ring;
mod services;

pub(crate) use backends::BackendTable;
pub(crate) use per_family::{FAMILIES, PerFamily};
pub use quarantine::Epoch;
pub(crate) use quarantine::Quarantine;
pub(crate) use ring::Ring;
pub(crate) use services::ServiceIds;
