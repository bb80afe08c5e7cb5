//! A real Kubernetes on this machine: nodes in namespaces with kubelet and containerd, and a proxy to choose.
//!
//! `cargo xtask cluster` builds what this needs and starts it.

mod cgroups;
mod claim;
mod cloud;
mod compatibility;
mod control;
mod e2e;
mod images;
mod kube_proxy;
mod layout;
mod node;
mod place;
mod sheave;
mod spec;
mod up;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use crate::cgroups::Cgroups;
use crate::claim::Claim;
use crate::layout::{CONTROL, Families, Folders, node_name};
use crate::node::Node;
use crate::place::Place;
use crate::spec::{Install, Proxy, Spec};

#[derive(Debug, Parser)]
#[command(name = "cluster", about = "A real Kubernetes on this machine")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring a cluster up
    Up(UpArguments),
    /// Show its programs, nodes and pods
    Status,
    /// Run kubectl as its administrator
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Run a program on one of its machines: control, node1, node2 ...
    Enter {
        machine: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Put an archive of container images into every node
    LoadImage { archive: PathBuf },
    /// Run Kubernetes' own network tests on it; without a cluster on one of its own, for which the options of `up` are
    E2e {
        #[command(flatten)]
        cluster: UpArguments,
        #[command(flatten)]
        tests: e2e::Arguments,
    },
    /// Keep the results of earlier test runs in tests/e2e/results, and bring docs/compatibility.md up to date
    Record {
        /// Folders named after a kind of cluster, with Ginkgo's report in each [default: those in target/e2e]
        folders: Vec<PathBuf>,
    },
    /// Write docs/compatibility.md from the recorded results and tests/e2e/features.toml
    Compatibility,
    /// Take it down, also one that was left half-way
    Down,
}

#[derive(Debug, clap::Args)]
struct UpArguments {
    /// How many nodes
    #[arg(long, default_value_t = Spec::default().nodes, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Who serves Services
    #[arg(long, value_enum, default_value = "sheave")]
    proxy: Proxy,
    /// How Sheave comes onto the nodes
    #[arg(long, value_enum, default_value = "daemonset")]
    install: Install,
    /// Sheave's setting of this name
    #[arg(long, default_value = "auto")]
    routing: String,
    /// Sheave's setting of this name
    #[arg(long, default_value = "all")]
    socket_lb: String,
    /// The order of address families
    #[arg(long, value_parser = families, default_value = "ipv4,ipv6")]
    ip_families: Families,
}

impl From<UpArguments> for Spec {
    fn from(arguments: UpArguments) -> Self {
        let UpArguments { nodes, proxy, install, routing, socket_lb, ip_families: families } = arguments;
        Self { nodes, proxy, install, routing, socket_lb, families }
    }
}

fn families(text: &str) -> Result<Families, String> {
    match text {
        "ipv4,ipv6" => Ok(Families::V4First),
        "ipv6,ipv4" => Ok(Families::V6First),
        _ => Err("either ipv4,ipv6 or ipv6,ipv4".to_owned()),
    }
}

fn main() -> Result<()> {
    let folders = Folders::locate()?;
    match Arguments::parse().verb {
        Verb::Up(arguments) => up::up(&folders, &mut Claim::take(&folders, "up")?, &arguments.into()),
        Verb::Status => status(&folders),
        Verb::Kubectl { words } => {
            let control = Place::find(&folders, CONTROL)?;
            let mut command = control.command(folders.program("kubectl"));
            command.arg("--kubeconfig").arg(folders.kubeconfig(control::ADMIN)).args(words);
            Err(command.exec().into())
        }
        Verb::Enter { machine, words } => {
            let place = Place::find(&folders, &machine)?;
            let mut words = words.into_iter();
            let mut command = place.command(words.next().unwrap_or_else(|| "bash".to_owned()));
            Err(command.args(words).exec().into())
        }
        Verb::LoadImage { archive } => load_image(&folders, &archive.canonicalize()?),
        Verb::E2e { cluster, tests } => {
            test(&folders, &mut Claim::take(&folders, "e2e")?, &cluster.into(), &tests)
        }
        Verb::Record { folders: results } => record(&folders, results),
        Verb::Compatibility => compatibility::write(&folders),
        Verb::Down => down(&folders, &mut Claim::take(&folders, "down")?),
    }
}

fn record(folders: &Folders, results: Vec<PathBuf>) -> Result<()> {
    let results = if results.is_empty() { e2e::record::found(folders)? } else { results };
    e2e::record_all(folders, &results)
}

/// On the cluster that is up, or on one that is brought up for it and taken down again.
fn test(folders: &Folders, claim: &mut Claim, wanted: &Spec, arguments: &e2e::Arguments) -> Result<()> {
    let is_own = !Cgroups::locate()?.exist();
    let up = if is_own { up::up(folders, claim, wanted) } else { check_kind(folders, wanted) };
    let tested = up.and_then(|()| e2e::run(folders, arguments));
    if tested.is_err() {
        keep_logs(folders);
    }
    let down = if is_own { down(folders, claim) } else { Ok(()) };
    tested.and(down)
}

/// A cluster that is up is taken as it is, unless another kind is asked for.
fn check_kind(folders: &Folders, wanted: &Spec) -> Result<()> {
    let there = Spec::of_run(folders)?;
    let is_wanted = *wanted == Spec::default() || *wanted == there;
    ensure!(is_wanted, "another cluster is up ({there:?}): `cargo xtask cluster down` takes it down");
    Ok(())
}

/// What tells why a test failed would go with the machines, which may go on writing.
fn keep_logs(folders: &Folders) {
    let kept = folders.repository("target/e2e/logs");
    let _ = fs::remove_dir_all(&kept);
    let copied = fs::create_dir_all(&kept).and_then(|()| {
        Command::new("cp").arg("-a").arg(folders.of_run("logs")).arg(kept.join("machines")).status()
    });
    let words = [
        "-n",
        "kube-system",
        "logs",
        "-l",
        "app.kubernetes.io/name=sheave",
        "--all-containers",
        "--prefix",
        "--tail=-1",
    ];
    let logs = Place::find(folders, CONTROL).and_then(|control| control::kubectl(&control, folders, &words));
    if let (Ok(_), Ok(logs)) = (copied, logs) {
        let _ = fs::write(kept.join("agents"), logs);
    }
    eprintln!("logs are in {}", kept.display());
}

fn load_image(folders: &Folders, archive: &std::path::Path) -> Result<()> {
    for number in 1..=Spec::of_run(folders)?.nodes {
        let node = Node { number, place: Place::find(folders, &node_name(number))? };
        node.load_image(archive)?;
    }
    Ok(())
}

fn status(folders: &Folders) -> Result<()> {
    let control = Place::find(folders, CONTROL)?;
    println!("{:?}", Spec::of_run(folders)?);
    let mut entries = fs::read_dir(folders.of_run("pids"))?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let pid = fs::read_to_string(entry.path())?;
        let state = if PathBuf::from(format!("/proc/{pid}")).exists() { "runs" } else { "HAS ENDED" };
        println!("{:<32} {pid:>8} {state}", entry.file_name().to_string_lossy());
    }
    println!("{}", control::kubectl(&control, folders, &["get", "nodes", "-o", "wide"])?);
    println!("{}", control::kubectl(&control, folders, &["get", "pods", "-A", "-o", "wide"])?);
    Ok(())
}

/// Everything that a cluster has is in its cgroups and in one folder: the namespaces, devices and mounts go with the
/// last process. Whose it is makes no difference: there is only one.
fn down(folders: &Folders, claim: &mut Claim) -> Result<()> {
    let owner = claim.stranger().map_or_else(|| folders.clone(), Folders::of);
    if owner.root() != folders.root() {
        println!("this is the cluster of {}", owner.root().display());
    }
    Cgroups::locate()?.remove()?;
    for state in [owner.state(), folders.state()] {
        if state.exists() {
            fs::remove_dir_all(state)?;
        }
    }
    claim.disown()
}
