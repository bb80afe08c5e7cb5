//! The command line: which commands there are, and what their exit codes mean.
//!
//! 0: done. 1: an error, told on standard error, or for `status` an agent that is not ready. 2: wrong usage.
//! Must not know how a command does its work.

mod accept_local;
mod agent;
mod cleanup;
mod device_keeper;
mod flows;
mod guard_keeper;
mod heartbeat;
mod install_cni;
mod keeper;
mod local_ports;
mod logging;
mod masquerade_keeper;
mod monitor;
mod pod_keeper;
mod render;
mod scrape;
mod shortage;
mod show;
mod socket_lb;
mod table;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use cni::store::StoreError;

use crate::{
    config::{AgentFlags, ConfigError, DEFAULT_PIN_DIR, DEFAULT_RUN_DIR},
    control::{ClientError, ServerError},
    dataplane::{self, InspectError, LockError, OpenError, ProbeClient, ProbeError, ReadError, SwitchError},
    pods::install::InstallError,
    reconcile::SyncError,
    watch::WatchError,
};

/// Kubernetes Services, served by eBPF.
#[derive(Debug, Parser)]
#[command(name = "sheave", version, about, disable_help_subcommand = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve this node's Services until told to stop; what is in the kernel goes on serving afterwards
    Agent(AgentFlags),
    /// Show how the agent is; exit code 1 unless it is ready
    Status(View),
    /// Show the Services as the kernel has them
    Service {
        #[command(subcommand)]
        command: ServiceCommand,
    },
    /// Show the backends as the kernel has them
    Backend {
        #[command(subcommand)]
        command: ListCommand,
    },
    /// Show how full the kernel's maps are
    Map {
        #[command(subcommand)]
        command: ListCommand,
    },
    /// Show the flows of the packet path; reads the pinned maps, with or without an agent
    Flow {
        #[command(subcommand)]
        command: ListCommand,
    },
    /// Show or change in which network namespaces sockets are translated; works on the pinned map
    SocketLb {
        #[command(subcommand)]
        command: socket_lb::SocketLbCommand,
    },
    /// Show each decision at a socket as it is made, until interrupted
    Monitor(View),
    /// Remove every program, map and pin from this node
    Cleanup(Paths),
    /// Mount a bpf file system on /sys/fs/bpf if there is none, on the host also from a container with its process ids
    MountBpffs,
    /// Put the CNI plugin and its network configuration onto this node, as soon as the agent can serve pods
    InstallCni(install_cni::InstallArgs),
    /// Remove the CNI plugin and its network configuration from this node
    UninstallCni(install_cni::PlaceArgs),
    /// Print what a node would do with a set of manifests; needs no kernel, no agent and no root
    Render(render::RenderArgs),
    /// Show versions
    Version(Output),
    /// Print the completions for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// The agent's own client in its start-up probe
    #[command(hide = true)]
    ProbeClient {
        #[arg(long)]
        cgroup: PathBuf,
        #[arg(long)]
        target: SocketAddr,
        #[arg(long)]
        nonce: String,
    },
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    /// All of them
    List(View),
    /// One of them, with its backends
    Get {
        /// NAMESPACE/NAME
        name: String,
        #[command(flatten)]
        view: View,
    },
}

#[derive(Debug, Subcommand)]
enum ListCommand {
    /// All of them
    List(View),
}

/// Where the agent left things.
#[derive(Clone, Debug, Args)]
struct Paths {
    /// Folder of the agent's control socket and lock
    #[arg(long, env = "SHEAVE_RUN_DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// Folder of the pins
    #[arg(long, env = "SHEAVE_PIN_DIR", default_value = DEFAULT_PIN_DIR)]
    pin_dir: PathBuf,
}

impl Paths {
    fn socket(&self) -> PathBuf {
        self.run_dir.join(CONTROL_SOCKET)
    }

    fn lock(&self) -> PathBuf {
        self.run_dir.join(LOCK_FILE)
    }
}

/// Name of the control socket in the run folder.
const CONTROL_SOCKET: &str = "control.sock";
/// Name of the lock in the run folder.
const LOCK_FILE: &str = "agent.lock";

#[derive(Clone, Copy, Debug, Args)]
struct Output {
    /// Format of the output
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Clone, Debug, Args)]
struct View {
    #[command(flatten)]
    paths: Paths,
    #[command(flatten)]
    output: Output,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Dump(#[from] dataplane::ApplyError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Sync(#[from] SyncError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Control(#[from] ServerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error(transparent)]
    Guard(#[from] dataplane::GuardError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    match dispatch(CommandLine::parse().command) {
        Ok(code) => code,
        // Whoever read our output has read enough.
        Err(CliError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sheave: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Agent(flags) => agent::run(flags),
        Command::Status(view) => show::status(&view),
        Command::Service { command: ServiceCommand::List(view) } => show::services(&view),
        Command::Service { command: ServiceCommand::Get { name, view } } => show::service(&name, &view),
        Command::Backend { command: ListCommand::List(view) } => show::backends(&view),
        Command::Map { command: ListCommand::List(view) } => show::maps(&view),
        Command::Flow { command: ListCommand::List(view) } => flows::list(&view),
        Command::SocketLb { command } => socket_lb::run(&command),
        Command::Monitor(view) => monitor::run(&view),
        Command::Cleanup(paths) => cleanup::run(&paths),
        Command::MountBpffs => mount_bpffs(),
        Command::InstallCni(args) => install_cni::install(&args),
        Command::UninstallCni(place) => install_cni::uninstall(&place),
        Command::Render(args) => render::run(&args),
        Command::Version(output) => show::version(output),
        Command::Completion { shell } => completion(shell),
        Command::ProbeClient { cgroup, target, nonce } => {
            ProbeClient { cgroup, target, nonce }.run()?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn mount_bpffs() -> Result<ExitCode, CliError> {
    let mounted = dataplane::mount_bpffs().map_err(OpenError::from)?;
    writeln!(io::stdout(), "{}", if mounted { "mounted /sys/fs/bpf" } else { "unchanged /sys/fs/bpf" })?;
    Ok(ExitCode::SUCCESS)
}

fn completion(shell: Shell) -> Result<ExitCode, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "sheave", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// An error and its causes in one line, each said once.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn an_unknown_flag_is_refused_with_the_nearest_one() {
        let error =
            CommandLine::try_parse_from(["sheave", "agent", "--ringmax", "5"]).unwrap_err().to_string();
        assert!(error.contains("--ring-max"), "{error}");
    }

    #[test]
    fn every_shell_s_completion_names_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "sheave", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("monitor") && script.contains("cleanup"), "{shell}");
        }
    }
}
