//! `cargo xtask <verb>`: all automation of the repository. Depends on none of its crates.

mod chart;
mod classes;
mod cnitool;
mod controlplane;
mod deny;
mod ebpf;
mod fuzz;
mod go;
mod image;
mod kernels;
mod kubernetes;
mod linker;
mod lint;
mod packages;
mod process;
mod show;
mod tidy;
mod toolchain;
mod user_space;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::classes::Class;
use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests, checks and shows Sheave")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the eBPF object, then user space; installs the eBPF toolchain when it is missing and may
    Build {
        /// Build user space with optimisations (the eBPF object always is)
        #[arg(long)]
        release: bool,
    },
    /// Run test classes; without a name: unit, property, maps, datapath and packet
    Test {
        #[arg(value_enum)]
        classes: Vec<Class>,
        /// Handed to the test programs, e.g. a part of a test's name
        #[arg(last = true)]
        harness: Vec<String>,
    },
    /// Generated and spoilt packets through the packet path, round after round with new seeds; as root also through
    /// the kernel's programs
    Fuzz {
        /// When no further round begins
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Seed of the first round; the next ones count on
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Cases of each property in a round
        #[arg(long, default_value_t = 10_000)]
        cases: u32,
    },
    /// Formatting, clippy for user space and for the eBPF target, documentation links
    Lint,
    /// Licences, sources, banned crates and advisories of all dependencies
    Deny,
    /// The rules of STYLE.md that no compiler checks
    Tidy,
    /// Build the container image as an OCI archive, with its bill of materials, into target/image
    Image(image::Settings),
    /// Check the Helm chart and render deploy/sheave.yaml from it (Go)
    Chart,
    /// Show Sheave at work in namespaces of its own (root)
    Demo {
        /// Leave everything running to be explored
        #[arg(long)]
        keep: bool,
    },
    /// A real Kubernetes on this machine, with Sheave or kube-proxy (root): up, status, kubectl, enter, load-image, down; and
    /// the results of its tests: record, compatibility
    #[command(disable_help_flag = true)]
    Cluster {
        /// What to do with it, and how: `up --help` and its like
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Measure what docs/ records (root); without a name: everything
    Bench { name: Option<String> },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a backtrace: what went wrong is in the chain of causes.
            eprintln!(
                "error: {}",
                error.chain().map(ToString::to_string).collect::<Vec<_>>().join("\n  because: ")
            );
            ExitCode::FAILURE
        }
    }
}

fn perform(verb: Verb) -> Result<()> {
    let workspace = Workspace::locate()?;
    match verb {
        Verb::Build { release } => user_space::build_all(&workspace, release),
        Verb::Test { classes, harness } => classes::run(&workspace, classes, &harness),
        Verb::Fuzz { seconds, seed, cases } => fuzz::run(&workspace, &fuzz::Limits { seconds, seed, cases }),
        Verb::Lint => lint::run(&workspace),
        Verb::Deny => deny::run(&workspace),
        Verb::Tidy => tidy::run(&workspace),
        Verb::Image(settings) => image::build(&workspace, &settings).map(drop),
        Verb::Chart => chart::run(&workspace),
        Verb::Demo { keep } => show::demo(&workspace, keep),
        Verb::Cluster { words } => show::cluster(&workspace, &words),
        Verb::Bench { name } => show::bench(&workspace, name.as_deref()),
    }
}
