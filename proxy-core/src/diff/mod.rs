//! From desired state and what the kernel holds to an ordered list of writes.
//!
//! The write order is written once, in `draft`, so that every prefix of it is safe: what a record refers to is written
//! before the record, and freed only a grace period after nothing refers to it. Must not perform a write.

mod admit;
mod commit;
mod demand;
mod draft;
mod holding;
mod lookup;
mod op;
mod planner;
mod records;
mod refusal;
mod restore;
#[cfg(test)]
mod tests;

pub use op::{BackendOp, MapOp, RealisedDump, ServiceOp};
pub use planner::{Plan, Planner, Usage};
pub use refusal::{Capacities, Refusal};

pub use crate::ids::Epoch;
