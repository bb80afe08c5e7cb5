//! Properties of the decisions: generated objects and histories against an independently written model, and generated
//! changes of the kernel maps against readers that look at them after every single write.
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

mod decisions;
mod generate;
mod kernel;
mod reference;
mod writes;

use proptest::test_runner::{Config, RngSeed};

/// How many cases each property is tried with.
const CASES: u32 = 4096;

/// Where the generated cases begin, unless told otherwise: what passes here passes everywhere.
const SEED: u64 = 0x5ea7e;

/// The configuration of every property.
#[expect(
    clippy::disallowed_methods,
    reason = "a developer may ask for more cases; the decisions themselves do not"
)]
fn config() -> Config {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    let default = Config::default();
    let seed = match default.rng_seed {
        RngSeed::Random => SEED,
        RngSeed::Fixed(seed) => seed,
    };
    eprintln!("PROPTEST_RNG_SEED={seed}");
    let (cases, rng_seed) = (asked.unwrap_or(CASES), RngSeed::Fixed(seed));
    Config { cases, rng_seed, failure_persistence: None, ..default }
}
