//! The lock that keeps a second agent away from the same maps.
//!
//! Must not know what the agent does with them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use thiserror::Error;

/// Somebody who only asks who holds the lock has it for a moment: try again before believing in another agent.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Why the lock was not obtained or not read.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another agent has it.
    #[error(
        "another agent ({holder}) holds {path}: stop it first, or give this one its own --run-dir and --pin-dir"
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// "pid 123", or that it is unknown.
        holder: String,
    },
    /// The file could not be used.
    #[error("cannot use the lock file {path}")]
    File {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Held until dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock and leaves this process's id in the file.
    pub(super) fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::File { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        match lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                write_pid(&mut file).map_err(failed)?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                Err(LockError::Held { path: path.to_owned(), holder: describe(read_pid(&mut file)) })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

/// The process id of the agent that holds the lock; 0 if it left no id.
///
/// # Errors
/// The file exists and cannot be read.
pub fn lock_holder(path: &Path) -> Result<Option<u32>, LockError> {
    let failed = |source| LockError::File { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(None),
        Err((mut file, Errno::EWOULDBLOCK)) => Ok(Some(read_pid(&mut file).unwrap_or(0))),
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

fn lock(mut file: File, how: FlockArg) -> Result<Flock<File>, (File, Errno)> {
    for _ in 1..TRIES {
        match Flock::lock(file, how) {
            Err((returned, Errno::EWOULDBLOCK)) => file = returned,
            result => return result,
        }
        thread::sleep(PAUSE);
    }
    Flock::lock(file, how)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn describe(pid: Option<u32>) -> String {
    pid.map_or_else(|| "process id unknown".to_owned(), |pid| format!("pid {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_who_holds_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/agent.lock");
        assert_eq!(lock_holder(&path).unwrap(), None);
        let held = Lock::take(&path).unwrap();
        let error = Lock::take(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(error.contains("--run-dir and --pin-dir"), "{error}");
        assert_eq!(lock_holder(&path).unwrap(), Some(std::process::id()));
        drop(held);
        assert_eq!(lock_holder(&path).unwrap(), None);
        Lock::take(&path).unwrap();
    }
}
