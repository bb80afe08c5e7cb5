//! The decisions: what this node should do, computed from what the API says. No I/O, clock, randomness or async.
//!
//! The module order is the order of the data: [`model`] (what the API says) -> [`desired`] (what this node should do)
//! -> [`entries`] (kernel form and its text) -> [`diff`] (ordered writes), with [`ids`] for what must stay stable; and
//! [`nodes`], from the model to the ways between nodes.
//! Must not know Kubernetes client types, the kernel, or time.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod desired;
pub mod diff;
pub mod entries;
pub mod ids;
pub mod model;
pub mod nodes;
