//! `sheave install-cni`, `sheave uninstall-cni`: the plugin onto the node, and off it.
//!
//! Must not know what is written where.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use cni::facts::NodeFacts;
use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, LOCK_FILE};
use crate::{
    config::DEFAULT_RUN_DIR,
    dataplane,
    pods::install::{DEFAULT_CONF_NAME, Outcome, PLUGIN, Place},
};

/// How often is looked whether the agent is ready.
const LOOK: Duration = Duration::from_millis(250);
/// How often is looked whether both files are as they should be.
const KEEP: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Args)]
pub(super) struct PlaceArgs {
    /// Folder in which the container runtime looks for plugins
    #[arg(long, default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Folder in which it looks for network configurations
    #[arg(long, default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// File name of the configuration; runtimes take the first by name
    #[arg(long, default_value = DEFAULT_CONF_NAME)]
    conf_name: String,
}

#[derive(Clone, Debug, Args)]
pub(super) struct InstallArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The agent's run folder, by the name it has on the node itself
    #[arg(long, env = "SHEAVE_RUN_DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// The plugin to install [default: sheave-cni beside this program]
    #[arg(long)]
    plugin: Option<PathBuf>,
    /// Seconds to wait until the agent can serve pods; a configuration that is there already stays meanwhile
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Wait without limit, and afterwards stay: until SIGTERM, put back what somebody changed or removed
    #[arg(long)]
    keep: bool,
}

impl PlaceArgs {
    fn place(&self) -> Result<Place, CliError> {
        let place = Place {
            bin_dir: self.bin_dir.clone(),
            conf_dir: self.conf_dir.clone(),
            conf_name: self.conf_name.clone(),
        };
        place.check()?;
        Ok(place)
    }
}

/// The binary first, as DEL works without an agent; the configuration when ADD works too, as it makes the node Ready.
pub(super) fn install(args: &InstallArgs) -> Result<ExitCode, CliError> {
    let place = args.place.place()?;
    if args.keep {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(keep(args, &place));
    }
    install_plugin(args, &place)?;
    wait_until_ready(&args.run_dir, Duration::from_secs(args.timeout))?;
    install_conf(args, &place)?;
    Ok(ExitCode::SUCCESS)
}

/// Until a signal says to end; both files stay.
async fn keep(args: &InstallArgs, place: &Place) -> Result<ExitCode, CliError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut waiting = Waiting::default();
    install_plugin(args, place)?;
    loop {
        let is_there = place.conf().exists();
        let pause = if is_there || waiting.is_over(&args.run_dir) {
            install_plugin(args, place)?;
            install_conf(args, place)?;
            KEEP
        } else {
            LOOK
        };
        tokio::select! {
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn install_plugin(args: &InstallArgs, place: &Place) -> Result<(), CliError> {
    let outcome = place.install_plugin(&plugin(args)?)?;
    Ok(say(args, outcome, &place.plugin())?)
}

fn install_conf(args: &InstallArgs, place: &Place) -> Result<(), CliError> {
    let outcome = place.install_conf(&args.run_dir)?;
    say(args, outcome, &place.conf())?;
    if args.keep && outcome == Outcome::Unchanged {
        return Ok(());
    }
    for earlier in place.before_ours() {
        eprintln!(
            "sheave: {} comes before ours: the runtime uses that one; remove it, or give ours a lesser --conf-name",
            earlier.display()
        );
    }
    Ok(())
}

pub(super) fn uninstall(args: &PlaceArgs) -> Result<ExitCode, CliError> {
    let mut out = io::stdout().lock();
    for removed in args.place()?.uninstall()? {
        writeln!(out, "removed {}", removed.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn plugin(args: &InstallArgs) -> Result<PathBuf, CliError> {
    match &args.plugin {
        Some(path) => Ok(path.clone()),
        None => Ok(std::env::current_exe()?.with_file_name(PLUGIN)),
    }
}

/// Whoever stays says only what changed.
fn say(args: &InstallArgs, outcome: Outcome, path: &Path) -> io::Result<()> {
    let word = match outcome {
        Outcome::Written => "installed",
        Outcome::Unchanged if args.keep => return Ok(()),
        Outcome::Unchanged => "unchanged",
    };
    writeln!(io::stdout(), "{word} {}", path.display())
}

fn wait_until_ready(run_dir: &Path, limit: Duration) -> Result<(), CliError> {
    let end = Instant::now() + limit;
    let mut waiting = Waiting::default();
    while !waiting.is_over(run_dir) {
        if Instant::now() >= end {
            return Err(CliError::Refused(format!("the node cannot serve pods: {}", waiting.said)));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// For an agent that can serve pods. What is waited for is said whenever it is something else.
#[derive(Debug, Default)]
struct Waiting {
    said: String,
}

impl Waiting {
    fn is_over(&mut self, run_dir: &Path) -> bool {
        let Some(obstacle) = obstacle(run_dir) else { return true };
        if obstacle != self.said {
            eprintln!("sheave: waiting: {obstacle}");
            self.said = obstacle;
        }
        false
    }
}

/// Why ADD would fail. Facts may be those of an agent that has ended since.
fn obstacle(run_dir: &Path) -> Option<String> {
    match dataplane::lock_holder(&run_dir.join(LOCK_FILE)) {
        Err(error) => return Some(super::with_causes(&error)),
        Ok(None) => return Some(format!("no agent runs with --run-dir {}", run_dir.display())),
        Ok(Some(_)) => {}
    }
    match NodeFacts::read(run_dir) {
        Err(error) => Some(error.to_string()),
        Ok(facts) => facts.obstacle,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cni::facts::{Pins, VERSION};
    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    fn facts(obstacle: Option<&str>) -> NodeFacts {
        NodeFacts {
            version: VERSION,
            node: "n1".to_owned(),
            pod_cidrs: Vec::new(),
            mtu: 1500,
            pins: Pins {
                schema: 0,
                endpoints: PathBuf::new(),
                packet_only: PathBuf::new(),
                guard_ingress: PathBuf::new(),
                guard_egress: PathBuf::new(),
                path: None,
            },
            node_addresses: Vec::new(),
            obstacle: obstacle.map(str::to_owned),
        }
    }

    #[test]
    fn pods_can_be_served_by_a_running_agent_that_says_so() {
        let dir = tempfile::tempdir().unwrap();
        assert!(obstacle(dir.path()).unwrap().contains("no agent runs"));
        facts(None).write(dir.path()).unwrap();
        assert!(obstacle(dir.path()).unwrap().contains("no agent runs"), "the facts of a dead agent");
        let lock = fs::File::create(dir.path().join(LOCK_FILE)).unwrap();
        fs::write(dir.path().join(LOCK_FILE), "1\n").unwrap();
        let _held = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!(obstacle(dir.path()), None);
        facts(Some("no podCIDR")).write(dir.path()).unwrap();
        assert_eq!(obstacle(dir.path()).as_deref(), Some("no podCIDR"));
    }

    #[test]
    fn the_configuration_waits_for_the_agent_and_the_plugin_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("built");
        fs::write(&program, "x").unwrap();
        let args = InstallArgs {
            place: PlaceArgs {
                bin_dir: dir.path().join("bin"),
                conf_dir: dir.path().join("net.d"),
                conf_name: DEFAULT_CONF_NAME.to_owned(),
            },
            run_dir: dir.path().join("run"),
            plugin: Some(program),
            timeout: 0,
            keep: false,
        };
        let error = install(&args).unwrap_err().to_string();
        assert!(error.contains("cannot serve pods"), "{error}");
        let place = args.place.place().unwrap();
        assert!(place.plugin().exists() && !place.conf().exists());
    }
}
