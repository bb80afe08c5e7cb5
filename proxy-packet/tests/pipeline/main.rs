//! Properties of the whole packet path over generated states and packets: translation is one to one and undone by the
//! reply, nothing escapes untranslated, nothing is torn by eviction, and no spoilt packet does harm.
//!
//! The cases are the same each time. `PROPTEST_CASES` sets the number of cases of each property, `PROPTEST_RNG_SEED`
//! (a number) where they begin; a property that fails prints it.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test stops at the first surprise; a target of its own exports nothing"
)]

mod blind;
mod escape;
mod eviction;
#[path = "../generate/mod.rs"]
mod generate;
mod masquerade;
mod network;
mod offload;
mod one_to_one;
mod reach;
mod shortcut;
mod spoilt;

use proptest::test_runner::{Config, RngSeed};

/// How many cases each property is tried with.
const CASES: u32 = 1_024;

/// Where the generated cases begin, unless told otherwise: what passes here passes everywhere.
const SEED: u64 = 0x5ea7e;

/// The configuration of every property.
fn config() -> Config {
    let seed = match Config::default().rng_seed {
        RngSeed::Random => SEED,
        RngSeed::Fixed(seed) => seed,
    };
    eprintln!("PROPTEST_RNG_SEED={seed}");
    config_from(seed)
}

fn config_from(seed: u64) -> Config {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    let (cases, rng_seed) = (asked.unwrap_or(CASES), RngSeed::Fixed(seed));
    Config { cases, rng_seed, failure_persistence: None, ..Config::default() }
}
