//! Work that goes on in a process of its own when this one ends.
//!
//! Must not know what the work is.

use std::{fs, io};

use libc::{c_int, pid_t};

/// Where each thread of this process is.
const THREADS: &str = "/proc/self/task";
/// What a runtime waits on: as long as somebody holds an end, the program runs for it.
const STREAMS: [c_int; 3] = [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO];

/// The process that works. Nobody has to wait for it: it becomes init's when this one ends.
#[derive(Debug)]
pub struct Detached(pid_t);

impl Detached {
    /// Has `work` done by a copy of this process, which ends with it. `None`: this process has other threads, whose locks
    /// the copy would find locked for ever.
    ///
    /// # Errors
    /// There is no room for another process.
    pub fn start(work: impl FnOnce()) -> io::Result<Option<Self>> {
        if fs::read_dir(THREADS)?.count() != 1 {
            return Ok(None);
        }
        // SAFETY: this is the only thread, so that the copy has all of what it copies.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => child(work),
            pid => Ok(Some(Self(pid))),
        }
    }

    /// Whether it is still at work.
    #[must_use]
    pub fn runs(&self) -> bool {
        let mut status = 0;
        // SAFETY: the kernel writes one number; the process is a child of ours that nobody else waits for.
        unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG) == 0 }
    }
}

/// Works in the copy. It answers to nobody, so all that it leaves is what it did.
fn child(work: impl FnOnce()) -> ! {
    for stream in STREAMS {
        // SAFETY: nothing in this process reads or writes these from here on.
        unsafe { libc::close(stream) };
    }
    work();
    // SAFETY: always sound; what runs at the end of a process is the parent's to run.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn a_process_of_several_threads_makes_no_copy_of_itself() {
        let (end, ended) = mpsc::channel::<()>();
        let other = thread::spawn(move || ended.recv().is_err());
        assert!(Detached::start(|| ()).unwrap().is_none());
        drop(end);
        assert!(other.join().unwrap());
    }
}
