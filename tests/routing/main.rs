//! Pods of three nodes reach each other: directly, through a tunnel, after every kind of change and interference.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod changes;
mod holders;
mod matrix;
mod repair;
mod rig;
