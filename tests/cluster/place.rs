//! A machine of the cluster: namespaces and a cgroup that one sleeping process holds, and programs started in them.
//!
//! Nothing of it has a name in the file system outside of its own mount namespace: when the processes in its cgroup
//! have ended, the kernel removes namespaces, devices and mounts. Must not know: which programs are started.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use nix::unistd::setsid;
use sheave_tests::wait::wait_for;

use crate::cgroups::Cgroups;
use crate::claim::advice;
use crate::layout::Folders;

const START_LIMIT: Duration = Duration::from_secs(20);
/// Lays out the mounts of a machine; see there.
const MOUNTS: &str = include_str!("mounts.sh");

/// A running machine.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Its host name.
    pub(crate) name: String,
    /// The process that made its namespaces; its only child is process 1 of the machine.
    pub(crate) holder: u32,
    folders: Folders,
}

impl Place {
    /// Makes the machine: a cgroup, namespaces, its own folders over those that its programs write to.
    ///
    /// # Errors
    /// Not root, or a program of util-linux is missing.
    pub(crate) fn make(folders: &Folders, cgroups: &Cgroups, name: &str) -> Result<Self> {
        cgroups.make(name)?;
        fs::create_dir_all(folders.of_place(name))?;
        fs::create_dir_all(folders.of_run("logs"))?;
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--mount",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
            "--",
            "sh",
            "-eu",
        ]);
        let script = folders.of_place(name).join("mounts.sh");
        fs::write(&script, MOUNTS)?;
        command.arg(script).arg(name).arg(folders.of_place(name)).arg(cgroups.unified(name));
        let holder = start(command, cgroups, name, &folders.log(&format!("{name}-holder")))?;
        fs::write(folders.of_place(name).join("holder"), holder.to_string())?;
        let place = Self { name: name.to_owned(), holder, folders: folders.clone() };
        let ready = folders.of_place(name).join("ready");
        wait_for(format!("{name} has its mounts"), START_LIMIT, || Ok(ready.exists().then_some(())))
            .with_context(|| place.log_of("holder"))?;
        Ok(place)
    }

    /// The machine of that name of a running cluster.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn find(folders: &Folders, name: &str) -> Result<Self> {
        let holder = fs::read_to_string(folders.of_place(name).join("holder"));
        let holder = holder.ok().and_then(|pid| pid.parse().ok());
        let holder = holder.filter(|pid| Cgroups::holds(name, *pid));
        let holder = holder.with_context(|| format!("{name} is not up: {}", advice(folders)))?;
        Ok(Self { name: name.to_owned(), holder, folders: folders.clone() })
    }

    /// A program inside the machine's namespaces.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.to_string(), "--net", "--mount", "--uts"]);
        // The holder's own is the host's.
        command.arg(format!("--pid=/proc/{}/ns/pid_for_children", self.holder));
        command.args(["--wdns=/", "--"]);
        command.arg(program.as_ref());
        command
    }

    /// Starts a program that goes on when this one has ended; its log is `<place>-<program>.log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn spawn(&self, cgroups: &Cgroups, program: &str, command: Command) -> Result<()> {
        let name = format!("{}-{program}", self.name);
        let pid = start(command, cgroups, &self.name, &self.folders.log(&name))?;
        fs::create_dir_all(self.folders.of_run("pids"))?;
        Ok(fs::write(self.folders.of_run("pids").join(name), pid.to_string())?)
    }

    /// Runs a program to its end and takes its output.
    ///
    /// # Errors
    /// It fails: with what it said.
    pub(crate) fn run(&self, program: impl AsRef<Path>, words: &[&str]) -> Result<String> {
        output(self.command(program).args(words))
    }

    /// Runs `ip` with these words inside.
    ///
    /// # Errors
    /// `ip` fails: with what it said.
    pub(crate) fn ip(&self, words: &str) -> Result<()> {
        self.run("ip", &words.split_whitespace().collect::<Vec<_>>()).map(drop)
    }

    /// Runs `ip` in its network with the host's process ids, by which it can name other machines.
    ///
    /// # Errors
    /// `ip` fails: with what it said.
    pub(crate) fn ip_from_outside(&self, words: &str) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.to_string(), "--net", "--", "ip"]);
        output(command.args(words.split_whitespace())).map(drop)
    }

    /// Sets a sysctl below `net/` inside.
    ///
    /// # Errors
    /// There is no such setting.
    pub(crate) fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.run("sh", &["-c", &format!("echo {value} > /proc/sys/net/{name}")]).map(drop)
    }

    /// The end of the log of one of its programs.
    pub(crate) fn log_of(&self, program: &str) -> String {
        let path = self.folders.log(&format!("{}-{program}", self.name));
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(30)..).unwrap_or_default();
        format!("the end of {}:\n{}", path.display(), tail.join("\n"))
    }
}

/// Runs a command to its end and takes its output.
///
/// # Errors
/// It fails: with what it said.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Lets the program have nothing open but its three streams: a lock of the caller's would be held for as long as the
/// cluster is up.
fn close_others() -> io::Result<()> {
    // SAFETY: the call takes three numbers. It closes nothing before exec.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Starts a program in a session of its own within the cgroups of a place.
fn start(mut command: Command, cgroups: &Cgroups, place: &str, log: &Path) -> Result<u32> {
    let output = File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // SAFETY: between fork and exec only setsid(2) and close_range(2) are called, which are async-signal-safe.
    unsafe { command.pre_exec(|| setsid().map_err(io::Error::from).and_then(|_| close_others())) };
    cgroups.place(place, &mut command);
    let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    Ok(child.id())
}
