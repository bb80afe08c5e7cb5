//! A program that a test started: its log, its end, and the promise that it ends with the test.
//!
//! Must not know: which programs there are.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::wait::wait_for;

/// How many lines of a log are shown when something went wrong.
const TAIL: usize = 60;

/// A running program. Dropping it kills it; a failing test then prints the end of its log.
///
/// It dies with the *thread* that started it (`PR_SET_PDEATHSIG`), so that nothing is left behind
/// when a test run is killed: start it from the thread that keeps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with no input and both outputs appended to the file `log`.
    ///
    /// # Errors
    /// The log cannot be opened or the program cannot be started.
    pub fn start(name: &str, command: &mut Command, log: PathBuf) -> Result<Self> {
        let output = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // The program is to hear signals, also when the test itself has blocked them.
        // SAFETY: between fork and exec only prctl(2) and sigprocmask(2) are called, which are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                SigSet::empty().thread_set_mask()?;
                set_pdeathsig(Signal::SIGKILL).map_err(Into::into)
            })
        };
        let child = command.spawn().with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// # Errors
    /// The program has ended, with the end of its log.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}\n{}", self.name, self.log_tail()),
        }
    }

    /// Asks the program to end (SIGTERM) and waits for that, at most for `limit`.
    ///
    /// # Errors
    /// It has not ended in time, and was killed.
    pub fn terminate(mut self, limit: Duration) -> Result<ExitStatus> {
        kill(self.pid()?, Signal::SIGTERM)?;
        wait_for(format!("{} ends after SIGTERM", self.name), limit, || Ok(self.child.try_wait()?))
    }

    /// Ends the program at once, as a crash does.
    pub fn kill(self) {
        drop(self);
    }

    /// # Errors
    /// The process id does not fit its type.
    pub fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(self.child.id().try_into()?))
    }

    /// The whole log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of the log, under a heading.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default();
        format!("--- the end of the log of {} ---\n{}", self.name, tail.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error here means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}
