//! The classes of test, from the least powerful to the most: what each needs and which cargo call runs it.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use cargo_metadata::{Metadata, TargetKind};
use clap::ValueEnum;

use crate::chart;
use crate::cnitool;
use crate::controlplane;
use crate::ebpf;
use crate::fuzz::{FIXTURES_TARGET, PACKET_PACKAGE};
use crate::kernels;
use crate::kubernetes;
use crate::packages;
use crate::process;
use crate::show;
use crate::user_space::{self, TESTS_PACKAGE};
use crate::workspace::Workspace;

/// The crates whose integration tests are the property tests.
const PROPERTY_PACKAGES: [&str; 2] = ["proxy-core", PACKET_PACKAGE];

/// Traffic between the pods of several nodes; part of the class `datapath`.
const ROUTING_TARGET: &str = "routing";

/// One class of test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Class {
    /// Every crate's own tests and examples in documentation; no privileges
    Unit,
    /// Thousands of generated cases against an independent model; no privileges
    Property,
    /// Kernel maps and programs, no traffic (root)
    Maps,
    /// Real traffic between network namespaces (root)
    Datapath,
    /// Packets between clients outside, a router, two nodes and their pods (root)
    Packet,
    /// The Helm chart and the manifest rendered from it (Go)
    Chart,
    /// CNI plugins, ours and the reference's (root, Go)
    Cni,
    /// The agent against a real etcd, API server and controller manager (root, Go)
    Apiserver,
    /// Sheave and the real kube-proxy with the same objects and questions (root, Go, iptables, nft)
    Oracle,
    /// Kubernetes' own network tests on a real cluster; -- --slow, --focus TEXT, --procs N, --record (root, Go, containerd)
    E2e,
    /// Some of the root classes' tests in other kernels, under QEMU (root, apt of Debian 12)
    Kernels,
}

/// What `cargo xtask test` without a class runs.
const DEFAULT: [Class; 5] = [Class::Unit, Class::Property, Class::Maps, Class::Datapath, Class::Packet];

impl Class {
    fn needs_root(self) -> bool {
        matches!(
            self,
            Self::Maps
                | Self::Datapath
                | Self::Packet
                | Self::Cni
                | Self::Apiserver
                | Self::Oracle
                | Self::E2e
                | Self::Kernels
        )
    }

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Prepares everything and runs the classes, all of them even when one fails.
///
/// # Errors
/// When something is missing, does not build, or a test fails.
pub(crate) fn run(workspace: &Workspace, classes: Vec<Class>, harness: &[String]) -> Result<()> {
    let classes = if classes.is_empty() { DEFAULT.to_vec() } else { classes };
    prepare(workspace, &classes)?;
    let metadata = workspace.metadata()?;
    let outcomes: Vec<Outcome> =
        classes.iter().map(|class| Outcome::of(workspace, &metadata, *class, harness)).collect();
    report(&outcomes)
}

fn prepare(workspace: &Workspace, classes: &[Class]) -> Result<()> {
    let privileged = classes.iter().any(|class| class.needs_root());
    if privileged && !packages::is_root() {
        bail!(
            "the classes maps, datapath, packet, cni, apiserver, oracle, e2e and kernels make network namespaces and load eBPF \
             programs: run them as root, or choose others: cargo xtask test unit property"
        );
    }
    ebpf::build(workspace)?;
    if classes.iter().any(|class| matches!(class, Class::Apiserver | Class::Oracle)) {
        controlplane::build(workspace.root())?;
    }
    if classes.contains(&Class::Chart) {
        chart::build_helm(workspace.root())?;
    }
    if classes.contains(&Class::Cni) {
        packages::ensure(packages::REFERENCE_PLUGINS)?;
        cnitool::build(workspace.root())?;
    }
    if classes.contains(&Class::Oracle) {
        packages::ensure(packages::FIREWALL_PROGRAMS)?;
    }
    if classes.contains(&Class::E2e) {
        show::prepare_cluster(workspace)?;
        kubernetes::build_tests(workspace.root())?;
    }
    if privileged {
        packages::ensure(packages::TEST_PROGRAMS)?;
        // These tests start the programs that user space consists of.
        process::run(&mut user_space::cargo(workspace, "build"))?;
    }
    Ok(())
}

/// How a class ended.
struct Outcome {
    class: Class,
    took: Duration,
    result: Result<()>,
}

impl Outcome {
    fn of(workspace: &Workspace, metadata: &Metadata, class: Class, harness: &[String]) -> Self {
        eprintln!("\n== test class {}", class.name());
        let start = Instant::now();
        let result = if class == Class::Kernels {
            kernels::run(workspace, metadata, harness)
        } else {
            commands(workspace, metadata, class).and_then(|mut commands| {
                commands.iter_mut().try_for_each(|command| process::run(command.args(harness)))
            })
        };
        Self { class, took: start.elapsed(), result }
    }
}

fn report(outcomes: &[Outcome]) -> Result<()> {
    eprintln!();
    for Outcome { class, took, result } in outcomes {
        let verdict = if result.is_ok() { "passed" } else { "FAILED" };
        eprintln!("test class {:<10} {verdict} in {:>6.1} s", class.name(), took.as_secs_f64());
    }
    let failed: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| outcome.result.as_ref().err().map(|error| format!("{error:#}")))
        .collect();
    if failed.is_empty() { Ok(()) } else { bail!(failed.join("\n")) }
}

/// The cargo calls that run a class; what is appended goes to the test programs.
fn commands(workspace: &Workspace, metadata: &Metadata, class: Class) -> Result<Vec<Command>> {
    Ok(match class {
        Class::Unit => unit(workspace, metadata),
        Class::Property => {
            let targets = test_targets(metadata, |package| PROPERTY_PACKAGES.contains(&package));
            // Without a selection cargo would run every target there is.
            ensure!(!targets.is_empty(), "{PROPERTY_PACKAGES:?} have no integration tests");
            vec![selecting(workspace, &[], &targets)]
        }
        Class::Maps => {
            let targets = ["maps", FIXTURES_TARGET].map(str::to_owned);
            vec![serial(workspace, &[], &targets), privileged_unit_tests(workspace)]
        }
        Class::Datapath => {
            vec![serial(workspace, &[], &[Class::Datapath.name(), ROUTING_TARGET.to_owned()])]
        }
        Class::E2e => {
            let mut program = show::cluster_program(workspace);
            program.arg("e2e");
            vec![program]
        }
        // They run in other kernels, which no cargo call starts.
        Class::Kernels => Vec::new(),
        Class::Packet | Class::Chart | Class::Cni | Class::Apiserver | Class::Oracle => {
            vec![serial(workspace, &[], &[class.name()])]
        }
    })
}

/// Tests that belong beside private code and still need root carry `#[ignore = "needs root: ..."]`: tidy knows
/// that they run here and allows no other.
fn privileged_unit_tests(workspace: &Workspace) -> Command {
    let mut command = serial(workspace, &["--lib"], &[]);
    command.arg("--ignored");
    command
}

/// One test at a time: they share the kernel's namespaces, and two cores.
fn serial(workspace: &Workspace, selections: &[&str], targets: &[String]) -> Command {
    let mut command = selecting(workspace, selections, targets);
    command.env("RUST_TEST_THREADS", "1");
    command
}

fn unit(workspace: &Workspace, metadata: &Metadata) -> Vec<Command> {
    let elsewhere = |package: &str| package == TESTS_PACKAGE || PROPERTY_PACKAGES.contains(&package);
    let targets = test_targets(metadata, |package| !elsewhere(package));
    let mut doc = user_space::cargo(workspace, "test");
    doc.args(["--doc", "--"]);
    let mut xtask = process::cargo();
    xtask.current_dir(workspace.root()).args(["test", "--package", "xtask", "--"]);
    vec![selecting(workspace, &["--lib", "--bins"], &targets), doc, xtask]
}

/// `cargo test` with these selections and these test targets, ready for arguments to the test programs.
fn selecting(workspace: &Workspace, selections: &[&str], targets: &[String]) -> Command {
    let mut cargo = user_space::cargo(workspace, "test");
    cargo.arg("--no-fail-fast").args(selections);
    for target in targets {
        cargo.args(["--test", target]);
    }
    cargo.arg("--");
    cargo
}

/// The integration test targets of the packages that `wanted` accepts.
fn test_targets(metadata: &Metadata, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let packages = metadata.workspace_packages().into_iter().filter(|package| wanted(&package.name));
    let targets = packages.flat_map(|package| &package.targets);
    targets
        .filter(|target| target.kind.contains(&TargetKind::Test))
        .map(|target| target.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(command: &Command) -> String {
        command.get_args().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn without_a_name_everything_runs_but_what_needs_go_or_other_kernels() {
        let on_demand =
            [Class::Chart, Class::Cni, Class::Apiserver, Class::Oracle, Class::E2e, Class::Kernels];
        assert!(on_demand.iter().all(|class| !DEFAULT.contains(class)));
        assert_eq!(DEFAULT.len() + on_demand.len(), Class::value_variants().len());
    }

    #[test]
    fn a_root_class_is_the_test_target_of_its_name_and_runs_one_test_at_a_time() {
        let workspace = Workspace::locate().unwrap();
        let metadata = workspace.metadata().unwrap();
        let cases = [(Class::Packet, "--test packet"), (Class::Datapath, "--test datapath --test routing")];
        for (class, targets) in cases {
            let commands = commands(&workspace, &metadata, class).unwrap();
            let [command] = commands.as_slice() else { panic!("one command") };
            let wanted = format!("test --workspace --exclude xtask --no-fail-fast {targets} --");
            assert_eq!(arguments(command), wanted);
            let is_serial = |(name, value): (&std::ffi::OsStr, Option<&std::ffi::OsStr>)| {
                name == "RUST_TEST_THREADS" && value == Some("1".as_ref())
            };
            assert!(command.get_envs().any(is_serial));
        }
    }

    #[test]
    fn the_maps_class_also_runs_what_the_unit_class_had_to_ignore() {
        let workspace = Workspace::locate().unwrap();
        let commands = commands(&workspace, &workspace.metadata().unwrap(), Class::Maps).unwrap();
        let calls: Vec<String> = commands.iter().map(arguments).collect();
        let selection = "test --workspace --exclude xtask --no-fail-fast";
        assert_eq!(
            calls,
            [
                format!("{selection} --test maps --test fixtures --"),
                format!("{selection} --lib -- --ignored")
            ]
        );
    }

    #[test]
    fn the_unit_class_runs_no_target_that_needs_root_and_no_property_test() {
        let workspace = Workspace::locate().unwrap();
        for command in unit(&workspace, &workspace.metadata().unwrap()) {
            let arguments = arguments(&command);
            for foreign in
                ["maps", "datapath", "routing", "packet", "chart", "cni", "apiserver", "oracle", "property"]
            {
                assert!(!arguments.contains(&format!("--test {foreign}")), "{arguments}");
            }
        }
    }

    #[test]
    fn a_failed_class_makes_the_run_fail_and_is_named() {
        let passed = Outcome { class: Class::Unit, took: Duration::ZERO, result: Ok(()) };
        let failed =
            Outcome { class: Class::Maps, took: Duration::ZERO, result: Err(anyhow::anyhow!("maps broke")) };
        assert!(report(std::slice::from_ref(&passed)).is_ok());
        assert_eq!(report(&[passed, failed]).unwrap_err().to_string(), "maps broke");
    }
}
