//! Waiting until no kernel program can still use what was made unreachable.
//!
//! Must not know what is reused afterwards.

use std::{io, thread, time::Duration};

/// `MEMBARRIER_CMD_GLOBAL` (linux/membarrier.h): returns after `synchronize_rcu()`, and with it after every program run
/// that was under way, as cgroup programs run inside an RCU read-side section.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// How long to wait where the kernel offers no barrier. A program run takes microseconds; a second covers one that was
/// preempted on a busy machine many times over.
const TIMED: Duration = Duration::from_secs(1);

/// How a grace period was obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// The kernel says that every reader is gone.
    Barrier,
    /// A second passed: with `nohz_full` the kernel refuses the barrier (EINVAL), with one CPU it skips the wait.
    Timed,
}

/// Blocks until every program run that began before the call has ended: about 10 to 30 ms, or a second where the
/// kernel offers no barrier. Call it off the asynchronous threads.
pub fn wait_grace() -> Grace {
    if online_cpus() > 1 && membarrier_global().is_ok() {
        return Grace::Barrier;
    }
    thread::sleep(TIMED);
    Grace::Timed
}

fn membarrier_global() -> io::Result<()> {
    // SAFETY: membarrier takes three integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// CPUs that are on, regardless of this process's affinity; 1 if unknown, which chooses the timed wait.
fn online_cpus() -> i64 {
    // SAFETY: sysconf takes an integer and returns one.
    unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_grace_period_ends_in_bounded_time() {
        let start = Instant::now();
        let grace = wait_grace();
        assert_eq!(grace == Grace::Timed, start.elapsed() >= TIMED);
    }
}
