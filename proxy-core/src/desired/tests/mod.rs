//! Tests of the decisions, from objects to frontends and lists.
//!
//! Must not reach below [`super::desired_service`], but for the categorisation, which has a table of its own.

mod categorize;
mod conflicts;
mod equivalence;
mod host_ports;
mod malformed;
mod objects;
mod services;
mod slices;

use proptest::test_runner::{Config, RngSeed};

/// Cases of each property here.
const CASES: u32 = 2000;

/// Where the generated cases begin, unless told otherwise: what passes here passes everywhere.
const SEED: u64 = 0x5ea7e;

/// The configuration of every property here. `PROPTEST_RNG_SEED` (a number) has other cases generated.
fn config() -> Config {
    let default = Config::default();
    let seed = match default.rng_seed {
        RngSeed::Random => SEED,
        RngSeed::Fixed(seed) => seed,
    };
    eprintln!("PROPTEST_RNG_SEED={seed}");
    Config { cases: CASES, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..default }
}
