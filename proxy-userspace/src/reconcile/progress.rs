//! How far the loop is, for health, metrics and people. Written by the loop, read by anybody.
//!
//! Must not know who asks.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use proxy_core::{desired::Warning, diff::Refusal};
use serde::Serialize;
use tokio::{sync::watch, time::Instant};

use super::HealthChecks;

/// What could not be written is tried again at least every 30 seconds; failing for twice that is more than bad luck.
const OVERDUE: Duration = Duration::from_mins(1);

/// Shared state of the loop.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    /// Milliseconds from `start` to the last sign of life.
    heartbeat: AtomicU64,
    synced: watch::Sender<bool>,
    health_checks: watch::Sender<Arc<HealthChecks>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    node: NodeState,
    last_success: Option<SystemTime>,
    error: Option<String>,
    /// Since when there is an error.
    failing_since: Option<Instant>,
    services: usize,
    frontends: usize,
    refused: Vec<String>,
    warnings: Vec<String>,
}

/// What is known of this node's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NodeState {
    /// Nobody has told yet.
    #[default]
    Unknown,
    /// There is none.
    Absent,
    /// There is one.
    Present,
    /// There is one that is about to go.
    Deleting,
}

/// The loop at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgressReport {
    /// Everything was listed and written at least once.
    pub synced: bool,
    /// Services that are served as wanted.
    pub services: usize,
    /// Frontends of these.
    pub frontends: usize,
    /// Why the last write or reading failed; `None` if it did not.
    pub error: Option<String>,
    /// Services that do not fit into the maps and keep what they had there, with the remedy.
    pub refused: Vec<String>,
    /// What is wrong with objects.
    pub warnings: Vec<String>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            heartbeat: AtomicU64::new(0),
            synced: watch::Sender::new(false),
            health_checks: watch::Sender::new(Arc::default()),
            state: Mutex::default(),
        }
    }
}

impl Progress {
    /// The loop is alive.
    pub(crate) fn beat(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heartbeat.store(elapsed, Ordering::Release);
    }

    /// Time since the last sign of life.
    pub fn silence(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.heartbeat.load(Ordering::Acquire)))
    }

    /// What the API server says of this node.
    pub(crate) fn node_is(&self, node: NodeState) {
        self.state().node = node;
    }

    /// What the API server said of this node last.
    pub fn node(&self) -> NodeState {
        self.state().node
    }

    /// All that is wanted was written.
    pub(crate) fn succeeded(&self) {
        let mut state = self.state();
        state.last_success = Some(SystemTime::now());
        (state.error, state.failing_since) = (None, None);
        drop(state);
        self.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    }

    /// Something could not be written or read.
    pub(crate) fn failed(&self, error: String) {
        let mut state = self.state();
        state.error = Some(error);
        state.failing_since.get_or_insert_with(Instant::now);
    }

    pub(super) fn counted(&self, services: usize, frontends: usize) {
        let mut state = self.state();
        (state.services, state.frontends) = (services, frontends);
    }

    pub(super) fn refused<'a>(&self, refused: impl Iterator<Item = &'a Refusal>) {
        self.state().refused = refused.map(ToString::to_string).collect();
    }

    pub(super) fn warned<'a>(&self, warnings: impl Iterator<Item = &'a Warning>) {
        let line = |warning: &Warning| {
            format!("{} {}: {}: {}", warning.kind, warning.object, warning.field, warning.message)
        };
        self.state().warnings = warnings.map(line).collect();
    }

    pub(super) fn health_checks(&self, checks: &HealthChecks) {
        self.health_checks.send_if_modified(|known| {
            let changed = **known != *checks;
            if changed {
                *known = Arc::new(checks.clone());
            }
            changed
        });
    }

    /// Tells when everything was written for the first time.
    pub fn watch_synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// The `healthCheckNodePort`s to answer on, and their changes.
    pub fn watch_health_checks(&self) -> watch::Receiver<Arc<HealthChecks>> {
        self.health_checks.subscribe()
    }

    /// When everything was last written.
    pub fn last_success(&self) -> Option<SystemTime> {
        self.state().last_success
    }

    /// Whether everything that is wanted (and fits) is written.
    pub fn is_up_to_date(&self) -> bool {
        *self.synced.borrow() && self.state().error.is_none()
    }

    /// Whether something has been waiting to be written for too long. Not while sources have yet to tell everything.
    pub fn is_overdue(&self) -> bool {
        self.state().failing_since.is_some_and(|since| since.elapsed() >= OVERDUE)
    }

    /// For people.
    pub fn report(&self) -> ProgressReport {
        let state = self.state();
        ProgressReport {
            synced: *self.synced.borrow(),
            services: state.services,
            frontends: state.frontends,
            error: state.error.clone(),
            refused: state.refused.clone(),
            warnings: state.warnings.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_last_heartbeat() {
        let progress = Progress::default();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(progress.silence(), Duration::from_secs(3));
        progress.beat();
        assert_eq!(progress.silence(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_up_to_date_from_a_success_until_an_error_and_overdue_when_that_lasts() {
        let progress = Progress::default();
        let state = || (progress.is_up_to_date(), progress.is_overdue());
        assert_eq!(state(), (false, false));
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(state(), (false, false), "waiting for lists is no failure");
        progress.succeeded();
        assert_eq!(state(), (true, false));
        for _ in 0..3 {
            progress.failed("no memory".to_owned());
            assert_eq!(state(), (false, false));
            tokio::time::advance(Duration::from_secs(19)).await;
        }
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(state(), (false, true));
        progress.succeeded();
        assert_eq!(state(), (true, false));
    }
}
