//! What written and generated cases share: the world they play in, and how a packet meets the path there.
//!
//! Must not know what is expected.

#![allow(
    dead_code,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "two test targets use it, each what it needs; a test may stop at the first surprise"
)]

pub mod egress;
pub mod hooks;
pub mod keys;
pub mod oracle;
pub mod patch;
pub mod scene;
pub mod seen;
pub mod traffic;
pub mod witness;
pub mod world;
