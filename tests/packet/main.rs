//! Services as packets meet them: clients outside, a router, two nodes with an agent each, and their pods.
//!
//! What follows from the objects alone is a scenario (`scenarios/`); a file beside it tests what happens over time, or
//! on links and devices that change. The tests take turns, because a process can be in one cgroup at a time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod affinity;
mod devices;
mod errors;
mod loops;
mod manifests;
mod masquerade;
mod own_pods;
mod plain;
mod pressure;
mod ranges;
mod scenarios;
mod site;
mod stale;
mod survival;
mod switch;
mod traffic;
