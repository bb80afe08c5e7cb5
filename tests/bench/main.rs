//! The figures in docs/figures.md, measured on this machine: ratios within one run, interleaved, with their spread.
//!
//! Absolute numbers of a small noisy machine say little; what is printed beside them says how much.

#![allow(
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark may stop at the first surprise, and its figures are far below what a float holds exactly"
)]

mod cni;
mod control;
mod hooks;
mod packet;
mod pods;
mod rates;
mod site;
mod statistics;
mod timing;
mod verifier;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;

use self::site::Programs;

/// Measures what Sheave costs.
#[derive(Debug, Parser)]
struct Arguments {
    /// One of: verifier, hooks, packet, rates, control, cni, pods, all.
    #[arg(default_value = "all")]
    name: String,
    /// The built plugin, for `cni` and `pods`.
    #[arg(long, default_value = "target/release/sheave-cni")]
    plugin: PathBuf,
    /// Another build of the plugin, for `cni`: measured in turn with the first.
    #[arg(long)]
    beside: Option<PathBuf>,
    /// Pods of each chain of `cni`, one after the other.
    #[arg(long, default_value_t = 100)]
    alone: usize,
    /// How often each chain of `cni` has 50 pods at once.
    #[arg(long, default_value_t = 5)]
    crowds: usize,
    /// The built agent, for `control` and `pods`.
    #[arg(long, default_value = "target/release/sheave")]
    sheave: PathBuf,
    /// Another build of the agent, for `pods`: measured in turn with the first.
    #[arg(long)]
    sheave_beside: Option<PathBuf>,
    /// Interleaved rounds of `rates` and `pods`.
    #[arg(long, default_value_t = 12)]
    rounds: usize,
    /// Services that `hooks`, `rates` and `control` make besides the one measured.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    environment()?;
    let wanted = |name: &str| arguments.name == "all" || arguments.name == name;
    if !["all", "verifier", "hooks", "packet", "rates", "control", "cni", "pods"]
        .contains(&arguments.name.as_str())
    {
        bail!(
            "there is no benchmark `{}`: verifier, hooks, packet, rates, control, cni, pods or all",
            arguments.name
        );
    }
    if wanted("verifier") {
        verifier::run()?;
    }
    if wanted("hooks") {
        hooks::run(arguments.services)?;
    }
    if wanted("packet") {
        packet::run(arguments.services)?;
    }
    if wanted("rates") {
        rates::run(arguments.services, arguments.rounds)?;
    }
    if wanted("control") {
        control::run(&arguments.sheave, arguments.services)?;
    }
    if wanted("cni") {
        cni::run(&arguments.plugin, arguments.beside.as_deref(), arguments.alone, arguments.crowds)?;
    }
    if wanted("pods") {
        let programs = Programs { plugin: &arguments.plugin, sheave: &arguments.sheave, settings: &[] };
        let beside = arguments.sheave_beside.as_deref().map(|sheave| Programs { sheave, ..programs });
        pods::run(&programs, beside.as_ref(), arguments.rounds)?;
    }
    Ok(())
}

/// What a reader must know to judge the figures.
fn environment() -> Result<()> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = std::thread::available_parallelism()?;
    let conntrack = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    println!("kernel {}, {cpus} CPUs", kernel.trim());
    match conntrack {
        Ok(count) => println!(
            "nf_conntrack: loaded, {} entries; the namespaces measured have no rule that uses it",
            count.trim()
        ),
        Err(_) => println!("nf_conntrack: not loaded"),
    }
    Ok(())
}
