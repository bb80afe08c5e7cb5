//! Kernel maps and pins, without traffic: what is written is what is there, also after a crash, a full map or a foreign pin.
//!
//! The tests take turns: a process can be in one cgroup at a time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod capacity;
mod content;
mod devices;
mod forget;
mod guard;
mod guard_limits;
mod guard_rules;
mod links;
mod path_pins;
mod pins;
mod probe;
mod setup;
