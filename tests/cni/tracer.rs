//! Ends a program after a number of its system calls, in whatever thread.
//!
//! Must not know: which program it is.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By us, after the last system call that it was given.
    Killed,
    /// By itself: with this status and after so many calls.
    Itself { status: i32, calls: usize },
}

/// Runs the program with this input and kills it after its `limit`-th system call has returned.
pub(crate) fn run(mut command: Command, input: &[u8], limit: usize) -> Result<End> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec only ptrace(2) is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| ptrace::traceme().map_err(Into::into));
    }
    // It stops at its first instruction, so nobody reads yet: an input fits into the pipe.
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let pid = Pid::from_raw(child.id().try_into()?);
    child.stdin.take().context("no pipe")?.write_all(input)?;
    waitpid(pid, None)?;
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(pid, options)?;
    ptrace::syscall(pid, None)?;
    follow(pid, limit)
}

fn follow(pid: Pid, limit: usize) -> Result<End> {
    let (mut calls, mut inside, mut is_killed) = (0, BTreeSet::new(), false);
    loop {
        // Only what this thread traces: the test may have other children.
        let event = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD))?;
        let (thread, signal) = match event {
            WaitStatus::Exited(thread, status) if thread == pid && !is_killed => {
                return Ok(End::Itself { status, calls });
            }
            WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, ..) if thread == pid => {
                return if is_killed { Ok(End::Killed) } else { bail!("ended by {event:?}") };
            }
            WaitStatus::PtraceSyscall(thread) => {
                // A call stops twice: when it begins, and when it has returned.
                if !inside.insert(thread) {
                    inside.remove(&thread);
                    calls += 1;
                }
                (thread, None)
            }
            WaitStatus::PtraceEvent(thread, ..)
            | WaitStatus::Stopped(thread, Signal::SIGSTOP | Signal::SIGTRAP) => (thread, None),
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            _ => continue,
        };
        if calls >= limit && !is_killed {
            is_killed = true;
            kill(pid, Signal::SIGKILL)?;
        } else {
            // An error means that the thread was ended meanwhile.
            let _ = ptrace::syscall(thread, signal);
        }
    }
}

#[test]
fn a_program_ends_after_the_call_that_is_its_last() {
    let echo = || {
        let mut command = Command::new("cat");
        command.arg("-");
        command
    };
    let End::Itself { status: 0, calls } = run(echo(), b"text", usize::MAX).unwrap() else {
        panic!("cat did not end by itself");
    };
    assert!(calls > 10, "{calls}");
    assert_eq!(run(echo(), b"text", calls / 2).unwrap(), End::Killed);
    // Its very last call does not return.
    assert_eq!(run(echo(), b"text", calls).unwrap(), End::Killed);
    assert_eq!(run(echo(), b"text", calls + 1).unwrap(), End::Itself { status: 0, calls });
}
