//! How each source is doing, for the metric `watch age`, readiness and `sheave status`.
//!
//! Written by the sources, read by anybody. Must not know what the sources read.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use proxy_core::model::Source;
use tokio::time::Instant;

/// The sources of this module, in the order in which they are shown.
const SOURCES: [Source; 3] = [Source::Services, Source::Slices, Source::Node];

/// How the Services, EndpointSlices and the Node are being received. Shared; every method is cheap.
#[derive(Debug)]
pub struct WatchStatus {
    start: Instant,
    cells: [Cell; 3],
}

/// One source at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    /// Which one.
    pub source: Source,
    /// It has delivered a complete list at least once.
    pub listed: bool,
    /// Time since the last proof that what we have is current; `None` before the first.
    ///
    /// From an API server a proof is an event, a bookmark, a page of a list, or the server's consent to go on with a
    /// watch from where we are. A watch on which nothing happens is renewed each watch timeout, so a healthy source
    /// stays below the watch timeout however quiet the cluster is, and one that is cut off grows without bound.
    /// From manifests it is the time since the folder was last read or found unchanged.
    pub age: Option<Duration>,
    /// How often it had to begin again after an error. A watch that the server ends in good order does not count.
    pub restarts: u64,
    /// What went wrong last; `None` once it works again.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct Cell {
    listed: AtomicBool,
    /// Milliseconds from `start` to the last proof of life, plus one; 0 = none yet.
    alive: AtomicU64,
    restarts: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Default for WatchStatus {
    fn default() -> Self {
        Self { start: Instant::now(), cells: Default::default() }
    }
}

impl WatchStatus {
    /// Nothing received yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Services, EndpointSlices and Node, in this order.
    pub fn sources(&self) -> Vec<SourceStatus> {
        SOURCES.iter().zip(&self.cells).map(|(source, cell)| self.read(*source, cell)).collect()
    }

    /// Every source has delivered a complete list.
    pub fn all_listed(&self) -> bool {
        self.cells.iter().all(|cell| cell.listed.load(Ordering::Acquire))
    }

    /// A proof that what we have is current.
    pub(super) fn alive(&self, source: Source) {
        let Some(cell) = self.cell(source) else { return };
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        cell.alive.store(millis.saturating_add(1), Ordering::Release);
    }

    /// A complete list was handed over.
    pub(super) fn listed(&self, source: Source) {
        if let Some(cell) = self.cell(source) {
            cell.listed.store(true, Ordering::Release);
        }
    }

    /// It works (again).
    pub(super) fn clear_error(&self, source: Source) {
        if let Some(cell) = self.cell(source) {
            *cell.error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Something went wrong; what was received before stays in force.
    pub(super) fn set_error(&self, source: Source, error: String) {
        if let Some(cell) = self.cell(source) {
            *cell.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }

    /// It begins again after an error.
    pub(super) fn restarted(&self, source: Source) {
        if let Some(cell) = self.cell(source) {
            cell.restarts.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// `None` for a source that is not received here.
    fn cell(&self, source: Source) -> Option<&Cell> {
        SOURCES.iter().zip(&self.cells).find(|(known, _)| **known == source).map(|(_, cell)| cell)
    }

    fn read(&self, source: Source, cell: &Cell) -> SourceStatus {
        let alive = cell.alive.load(Ordering::Acquire);
        let age = alive
            .checked_sub(1)
            .map(|millis| self.start.elapsed().saturating_sub(Duration::from_millis(millis)));
        SourceStatus {
            source,
            listed: cell.listed.load(Ordering::Acquire),
            age,
            restarts: cell.restarts.load(Ordering::Acquire),
            error: cell.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: &WatchStatus, source: Source) -> SourceStatus {
        status.sources().into_iter().find(|each| each.source == source).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_counts_from_the_last_proof_of_life_of_that_source_alone() {
        let status = WatchStatus::new();
        assert_eq!(of(&status, Source::Services).age, None);
        status.alive(Source::Services);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(of(&status, Source::Services).age, Some(Duration::from_secs(7)));
        assert_eq!(of(&status, Source::Slices).age, None);
        status.alive(Source::Services);
        assert_eq!(of(&status, Source::Services).age, Some(Duration::ZERO));
    }

    #[test]
    fn all_are_listed_only_when_each_is() {
        let status = WatchStatus::new();
        for source in [Source::Services, Source::Slices] {
            status.listed(source);
            assert!(!status.all_listed());
        }
        status.listed(Source::Node);
        assert!(status.all_listed());
    }

    #[test]
    fn an_error_stays_until_it_works_again_and_restarts_are_counted() {
        let status = WatchStatus::new();
        status.set_error(Source::Node, "refused".into());
        status.restarted(Source::Node);
        assert_eq!(of(&status, Source::Node).error.as_deref(), Some("refused"));
        status.clear_error(Source::Node);
        assert_eq!(of(&status, Source::Node).error, None);
        assert_eq!(of(&status, Source::Node).restarts, 1);
    }
}
