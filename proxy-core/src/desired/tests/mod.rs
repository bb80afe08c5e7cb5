//! Tests of the decisions, from objects to frontends and lists.
//!
//! Must not reach below [`super::desired_service`], but for the categorisation, which has a table of its own.

mod categorize;
mod conflicts;
mod equivalence;
mod malformed;
mod objects;
mod services;
mod slices;
