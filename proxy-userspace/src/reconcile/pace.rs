//! When to write: at once after a quiet time, together when changes come fast, later and later when writing fails.
//!
//! Must not know what is written. Time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// First pause after a failure; doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Longest pause after a failure.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// At most one failure in this time is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Decides when the next write is due.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    last: Option<Instant>,
    due: Option<Instant>,
    failures: u32,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, last: None, due: None, failures: 0 }
    }

    /// There is something to write.
    pub(super) fn changed(&mut self, now: Instant) {
        let earliest = self.last.map_or(now, |last| (last + self.interval).max(now));
        self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
    }

    /// When the next write is due, if there is something to write.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// All was written.
    pub(super) fn succeeded(&mut self, now: Instant) {
        self.last = Some(now);
        self.due = None;
        self.failures = 0;
    }

    /// Not all was written; what remains is due after a pause.
    pub(super) fn failed(&mut self, now: Instant) {
        let pause =
            FIRST_RETRY.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LAST_RETRY);
        self.last = Some(now);
        self.due = Some(now + pause);
        self.failures = self.failures.saturating_add(1);
    }
}

/// Lets one of many equal messages through.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    last: Option<Instant>,
    suppressed: u64,
}

impl Quiet {
    /// How many messages were held back since the last one, if it is time for one.
    pub(super) fn speak(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + LOG_INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(50);

    #[test]
    fn the_first_change_is_due_at_once_and_those_close_behind_are_due_together() {
        let start = Instant::now();
        let mut pace = Pace::new(INTERVAL);
        assert_eq!(pace.due(), None);
        pace.changed(start);
        assert_eq!(pace.due(), Some(start));
        pace.succeeded(start);
        for ms in [1, 20, 49] {
            pace.changed(start + Duration::from_millis(ms));
            assert_eq!(pace.due(), Some(start + INTERVAL), "{ms}");
        }
        pace.succeeded(start + INTERVAL);
        let quiet = start + 10 * INTERVAL;
        pace.changed(quiet);
        assert_eq!(pace.due(), Some(quiet));
    }

    #[test]
    fn pauses_after_failures_grow_up_to_a_limit_and_end_with_a_success() {
        let now = Instant::now();
        let mut pace = Pace::new(INTERVAL);
        let pauses: Vec<_> = std::iter::repeat_with(|| {
            pace.failed(now);
            pace.due().unwrap() - now
        })
        .take(40)
        .collect();
        assert_eq!(pauses[..3], [100, 200, 400].map(Duration::from_millis));
        assert_eq!(pauses[39], LAST_RETRY);
        pace.succeeded(now);
        pace.failed(now);
        assert_eq!(pace.due().unwrap() - now, FIRST_RETRY);
    }

    #[test]
    fn a_new_change_after_a_failure_is_written_without_waiting_for_the_retry() {
        let now = Instant::now();
        let mut pace = Pace::new(INTERVAL);
        (0..10).for_each(|_| pace.failed(now));
        pace.changed(now + Duration::from_secs(1));
        assert_eq!(pace.due(), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn one_message_in_a_while_says_how_many_were_held_back() {
        let now = Instant::now();
        let mut quiet = Quiet::default();
        assert_eq!(quiet.speak(now), Some(0));
        assert_eq!(quiet.speak(now + Duration::from_secs(1)), None);
        assert_eq!(quiet.speak(now + Duration::from_secs(2)), None);
        assert_eq!(quiet.speak(now + LOG_INTERVAL), Some(2));
    }
}
