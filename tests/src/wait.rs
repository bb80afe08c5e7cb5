//! Waiting for something to become true, always with a limit.
//!
//! Must not know: what is waited for.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(50);

/// Calls `poll` until it yields a value, at most for `limit` (and one call more).
///
/// # Errors
/// The error of `poll`, at once; or that `what` did not happen within `limit`.
pub fn wait_for<T>(
    what: impl Display,
    limit: Duration,
    mut poll: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = poll()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        sleep(PAUSE);
    }
}
