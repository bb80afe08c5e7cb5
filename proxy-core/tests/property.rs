//! Properties of the decisions: generated objects and histories against an independently written model, and generated
//! changes of the kernel maps against readers that look at them after every single write.
//!
//! `PROPTEST_CASES` sets the number of cases of each property.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test stops at the first surprise; a target of its own exports nothing"
)]

mod decisions;
mod generate;
mod kernel;
mod reference;
mod writes;

use proptest::test_runner::Config;

/// How many cases each property is tried with.
const CASES: u32 = 4096;

/// The configuration of every property.
fn config() -> Config {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    Config { cases: asked.unwrap_or(CASES), failure_persistence: None, ..Config::default() }
}
