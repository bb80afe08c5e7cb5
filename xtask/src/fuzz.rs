//! The generated cases of the packet path for longer than a test run has time: rounds of the same properties with new
//! seeds.
//!
//! Must not know what is generated.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::ebpf;
use crate::packages;
use crate::process;
use crate::user_space;
use crate::workspace::Workspace;

/// The crate of the packet path, whose integration tests are properties of it.
pub(crate) const PACKET_PACKAGE: &str = "proxy-packet";
/// The test target that puts packets through the programs in the kernel.
pub(crate) const FIXTURES_TARGET: &str = "fixtures";

/// Its tests that generate cases.
const GENERATED: [&str; 2] = ["differential::", "spoilt::"];

/// How many times fewer the kernel's cases are: each loads a state into maps.
const KERNEL_SHARE: u32 = 10;

/// When to stop, and where to begin.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) seconds: u64,
    pub(crate) seed: u64,
    pub(crate) cases: u32,
}

/// Runs rounds until the time is over, one at least.
///
/// # Errors
/// When a property fails: names the seed that shows it again.
pub(crate) fn run(workspace: &Workspace, limits: &Limits) -> Result<()> {
    let kernel = packages::is_root();
    if kernel {
        ebpf::build(workspace)?;
        packages::ensure(packages::TEST_PROGRAMS)?;
    } else {
        eprintln!("without root: over the simulation alone, not in the kernel");
    }
    let end = Instant::now() + Duration::from_secs(limits.seconds);
    let mut seed = limits.seed;
    loop {
        eprintln!("\n== seed {seed}");
        round(workspace, seed, limits.cases, kernel).with_context(|| {
            format!(
                "seed {seed}; to see it again: cargo xtask fuzz --seconds 0 --seed {seed} --cases {}",
                limits.cases
            )
        })?;
        if Instant::now() >= end {
            eprintln!("\nnothing found in {} rounds", seed - limits.seed + 1);
            return Ok(());
        }
        seed += 1;
    }
}

fn round(workspace: &Workspace, seed: u64, cases: u32, kernel: bool) -> Result<()> {
    process::run(generating(&mut simulated(workspace), seed, cases))?;
    if kernel {
        process::run(generating(&mut in_kernel(workspace), seed, (cases / KERNEL_SHARE).max(1)))?;
    }
    Ok(())
}

fn generating(command: &mut Command, seed: u64, cases: u32) -> &mut Command {
    command.env("PROPTEST_RNG_SEED", seed.to_string()).env("PROPTEST_CASES", cases.to_string())
}

/// The properties, optimised: they are all computation.
fn simulated(workspace: &Workspace) -> Command {
    let mut cargo = process::cargo();
    cargo.current_dir(workspace.root()).args(["test", "--release", "--package", PACKET_PACKAGE]);
    cargo.args(["--features", "simulation", "--tests", "--", "--nocapture"]);
    cargo
}

fn in_kernel(workspace: &Workspace) -> Command {
    let mut cargo = user_space::cargo(workspace, "test");
    cargo.args(["--test", FIXTURES_TARGET, "--"]).args(GENERATED).env("RUST_TEST_THREADS", "1");
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(command: &Command) -> String {
        let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_round_has_its_seed_and_number_of_cases() {
        let workspace = Workspace::locate().unwrap();
        let mut command = simulated(&workspace);
        generating(&mut command, 7, 30);
        let variables: Vec<_> = command.get_envs().filter_map(|(name, value)| Some((name, value?))).collect();
        for (name, value) in [("PROPTEST_RNG_SEED", "7"), ("PROPTEST_CASES", "30")] {
            assert!(variables.contains(&(name.as_ref(), value.as_ref())), "{name}");
        }
        assert!(line(&command).contains("--package proxy-packet --features simulation"));
    }

    #[test]
    fn in_the_kernel_only_generated_cases_run() {
        let workspace = Workspace::locate().unwrap();
        let call = line(&in_kernel(&workspace));
        assert!(call.ends_with("--test fixtures -- differential:: spoilt::"), "{call}");
        let manifest = std::fs::read_to_string(workspace.join("tests/Cargo.toml")).unwrap();
        assert!(manifest.contains(&format!("name = \"{FIXTURES_TARGET}\"")), "{FIXTURES_TARGET} is a target");
    }
}
