//! The loop: takes in changes, decides when to write, waits for grace periods, audits.
//!
//! Runs on a thread of its own, as writes to the kernel block. Must not know what a change means.

use std::{future, sync::Arc, time::Duration};

use proxy_common::TranslatedSocket;
use proxy_core::{
    desired::Warning,
    diff::Epoch,
    model::{self, ObjectName},
};
use thiserror::Error;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::{self, JoinHandle},
    time::{self, Instant},
};
use tracing::{error, info, warn};

use super::{
    FrontendNames, Progress, Reconciler, SyncError,
    pace::{Pace, Quiet},
};
use crate::{
    dataplane::LbMaps,
    metrics::{Metrics, now_s},
};

/// Everything that can happen to the loop, besides the passing of time.
#[derive(Debug)]
pub enum Event {
    /// A source tells of a change.
    Model {
        /// The change.
        event: model::Event,
        /// When it arrived here.
        received: Instant,
    },
    /// Somebody wants to know something.
    Ask(Question),
}

/// Why a pod's host ports are not served, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HostPortsError {
    /// They are asked for as they cannot be: to wait does not help.
    #[error("{0}")]
    Wrong(String),
    /// They are not yet, or there is no room for them now.
    #[error("{0}")]
    NotYet(String),
}

/// What the loop can be asked. Whoever does not wait for the answer gets none.
#[derive(Debug)]
pub enum Question {
    /// Whose the frontends are.
    FrontendNames(oneshot::Sender<FrontendNames>),
    /// What became of a pod's host ports; answered when they are written.
    HostPorts {
        /// The object's name.
        name: ObjectName,
        /// Takes why not all of them are served, if so.
        answer: oneshot::Sender<Result<(), HostPortsError>>,
    },
    /// Which sockets have to go.
    Stranded {
        /// What the data plane listed just now.
        sockets: Vec<TranslatedSocket>,
        /// Takes those whose UDP backend is no longer their Service's.
        answer: oneshot::Sender<Vec<TranslatedSocket>>,
    },
}

/// Blocks until no reader that started before can still use what was made unreachable.
pub type GraceWait = Arc<dyn Fn() + Send + Sync>;

/// What the loop depends on besides the reconciler.
pub struct Settings {
    /// Changes within this time after a write are written together.
    pub min_sync_interval: Duration,
    /// Time between two audits; `None`: no audit.
    pub audit_interval: Option<Duration>,
    /// Waits for a grace period.
    pub grace_wait: GraceWait,
    /// Is told of each warning when it appears.
    pub on_warning: Box<dyn FnMut(&Warning) + Send>,
    /// Is rung when UDP sockets may be connected to backends that left.
    pub left: Arc<Notify>,
    /// Counts.
    pub metrics: Metrics,
    /// How far the loop is.
    pub progress: Arc<Progress>,
}

/// So many changes that wait are taken in before anything is written, so that a flood cannot hold up the writing.
const TAKE_IN: usize = 4096;
/// Of so many changes that wait to be written, the latency is measured; the first are the ones that wait longest.
const MEASURED: usize = 4096;
/// The loop shows a sign of life at least so often.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// See the module.
pub struct Loop<M> {
    reconciler: Reconciler<M>,
    settings: Settings,
    pace: Pace,
    quiet: Quiet,
    grace: Option<JoinHandle<Epoch>>,
    /// Something was written since the last grace period began. Without this a place that cannot be cleared before
    /// the next write would be waited for again and again.
    wants_grace: bool,
    audit_due: Option<Instant>,
    /// When changes arrived that are not yet written: at most [`MEASURED`].
    received: Vec<Instant>,
    /// Who waits for host ports to be written.
    waiting: Vec<(ObjectName, oneshot::Sender<Result<(), HostPortsError>>)>,
}

impl<M: LbMaps> Loop<M> {
    /// A loop that has heard of nothing yet.
    pub fn new(reconciler: Reconciler<M>, settings: Settings) -> Self {
        let pace = Pace::new(settings.min_sync_interval);
        Self {
            reconciler,
            settings,
            pace,
            quiet: Quiet::default(),
            grace: None,
            wants_grace: false,
            audit_due: None,
            received: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Runs until nobody can send an event any more.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        loop {
            self.settings.progress.beat();
            let wakeup = self.next_wakeup();
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.take_in(event, &mut events),
                    None => return,
                },
                epoch = finished(&mut self.grace) => self.grace_passed(epoch),
                () = time::sleep_until(wakeup) => {}
            }
            self.work();
        }
    }

    fn next_wakeup(&self) -> Instant {
        let heartbeat = Instant::now() + HEARTBEAT;
        // An audit waits until what is due is written.
        self.pace.due().or(self.audit_due).map_or(heartbeat, |due| due.min(heartbeat))
    }

    fn take_in(&mut self, event: Event, events: &mut mpsc::Receiver<Event>) {
        self.handle(event);
        for _ in 0..TAKE_IN {
            match events.try_recv() {
                Ok(event) => self.handle(event),
                Err(_) => break,
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Model { event, received } => {
                self.reconciler.handle(event);
                self.note_arrival(received);
                if self.reconciler.is_complete() {
                    self.pace.changed(Instant::now());
                }
            }
            Event::Ask(question) => self.answer(question),
        }
    }

    /// The first lists wait for each other: that says nothing about the agent's speed.
    fn note_arrival(&mut self, received: Instant) {
        self.settings.metrics.last_change.set(now_s());
        if self.reconciler.is_synced() && self.received.len() < MEASURED {
            self.received.push(received);
        }
    }

    /// An asker that is gone needs no answer.
    fn answer(&mut self, question: Question) {
        match question {
            Question::FrontendNames(answer) => drop(answer.send(self.reconciler.frontend_names())),
            Question::HostPorts { name, answer } => self.waiting.push((name, answer)),
            Question::Stranded { sockets, answer } => {
                drop(answer.send(self.reconciler.stranded(sockets)));
            }
        }
    }

    fn work(&mut self) {
        let now = Instant::now();
        if self.pace.due().is_some_and(|due| due <= now) {
            self.sync(now);
        }
        if self.audit_due.is_some_and(|due| due <= now) && self.pace.due().is_none() {
            self.audit();
        }
        self.tell_waiting();
        for warning in self.reconciler.take_warnings() {
            self.warn(&warning);
        }
        self.start_grace();
        if self.reconciler.take_udp_left() {
            self.settings.left.notify_one();
        }
    }

    /// Answers those whose host ports are written, and forgets who waits no more.
    fn tell_waiting(&mut self) {
        for (name, answer) in std::mem::take(&mut self.waiting) {
            match self.reconciler.host_ports(&name) {
                Some(outcome) => drop(answer.send(outcome)),
                None if answer.is_closed() => {}
                None => self.waiting.push((name, answer)),
            }
        }
    }

    fn sync(&mut self, start: Instant) {
        let first = !self.reconciler.is_synced();
        self.wants_grace = true;
        match self.reconciler.sync() {
            Ok(()) => self.succeeded(start, first),
            Err(error) => self.failed(&error),
        }
    }

    fn succeeded(&mut self, start: Instant, first: bool) {
        let now = Instant::now();
        self.pace.succeeded(now);
        self.settings.progress.succeeded();
        self.settings.metrics.sync_duration.observe((now - start).as_secs_f64());
        self.settings.metrics.last_sync.set(now_s());
        for received in self.received.drain(..) {
            self.settings.metrics.programming_latency.observe((now - received).as_secs_f64());
        }
        if first {
            let report = self.settings.progress.report();
            let (services, frontends) = (report.services, report.frontends);
            match report.refused.len() {
                0 => info!(services, frontends, took = ?now - start, "all Services are written"),
                refused => {
                    warn!(services, frontends, refused, took = ?now - start, "all Services that fit are written");
                }
            }
            self.plan_audit();
        }
    }

    fn failed(&mut self, error: &SyncError) {
        let now = Instant::now();
        self.pace.failed(now);
        self.settings.progress.failed(error.to_string());
        if let Some(suppressed) = self.quiet.speak(now) {
            error!(%error, suppressed, "not everything could be written; what is in the maps stays; trying again");
        }
    }

    fn warn(&mut self, warning: &Warning) {
        warn!(
            object = %format_args!("{} {}", warning.kind, warning.object),
            field = warning.field,
            reason = ?warning.reason,
            "{}", warning.message
        );
        (self.settings.on_warning)(warning);
    }

    fn start_grace(&mut self) {
        if self.grace.is_some() || !std::mem::take(&mut self.wants_grace) {
            return;
        }
        if let Some(epoch) = self.reconciler.seal_epoch() {
            let wait = Arc::clone(&self.settings.grace_wait);
            self.grace = Some(task::spawn_blocking(move || {
                wait();
                epoch
            }));
        }
    }

    fn grace_passed(&mut self, epoch: Option<Epoch>) {
        self.grace = None;
        let Some(epoch) = epoch else { return };
        match self.reconciler.grace_passed(epoch) {
            Ok(false) => {}
            Ok(true) => self.pace.changed(Instant::now()),
            Err(error) => self.failed(&error),
        }
    }

    fn audit(&mut self) {
        self.plan_audit();
        // Epochs sealed before an audit mean nothing after it: what was freed waits for a grace period that begins then.
        self.grace = None;
        self.wants_grace = true;
        match self.reconciler.audit() {
            Ok(repaired) => self.audited(repaired),
            Err(error) => self.failed(&error),
        }
    }

    fn audited(&mut self, repaired: usize) {
        self.settings.metrics.audits.inc();
        if repaired > 0 {
            warn!(repaired, "the maps were not as they should be; they were repaired");
            self.settings.metrics.drift_repaired.inc_by(u64::try_from(repaired).unwrap_or(u64::MAX));
        }
    }

    /// In an interval, 10 % more or less, so that the nodes of a cluster do not audit in step.
    fn plan_audit(&mut self) {
        let jitter = 0.9 + 0.2 * fastrand::f64();
        self.audit_due =
            self.settings.audit_interval.map(|interval| Instant::now() + interval.mul_f64(jitter));
    }
}

/// The epoch whose grace period has passed; never, if none is waited for; `None` if the wait itself broke off.
async fn finished(grace: &mut Option<JoinHandle<Epoch>>) -> Option<Epoch> {
    match grace {
        Some(wait) => wait.await.ok(),
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::{desired, diff::Capacities, model::Event as Change};

    use super::*;
    use crate::dataplane::MemoryMaps;

    fn idle() -> Loop<MemoryMaps> {
        let (metrics, progress) = (Metrics::default(), Arc::new(Progress::default()));
        let reconciler = Reconciler::restore(
            desired::Settings::default(),
            MemoryMaps::default(),
            Capacities::default(),
            metrics.clone(),
            Arc::clone(&progress),
        );
        let settings = Settings {
            min_sync_interval: Duration::ZERO,
            audit_interval: None,
            grace_wait: Arc::new(|| {}),
            on_warning: Box::new(|_| {}),
            left: Arc::default(),
            metrics,
            progress,
        };
        Loop::new(reconciler.unwrap(), settings)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_of_changes_that_cannot_be_written_has_an_end() {
        let mut idle = idle();
        let flood = |idle: &mut Loop<MemoryMaps>| {
            for _ in 0..2 * MEASURED {
                idle.handle(Event::Model { event: Change::Node(None), received: Instant::now() });
            }
        };
        flood(&mut idle);
        assert_eq!(idle.received.len(), 0, "before the first lists nothing is measured");
        idle.handle(Event::Model { event: Change::ServicesListed(Vec::new()), received: Instant::now() });
        idle.handle(Event::Model { event: Change::SlicesListed(Vec::new()), received: Instant::now() });
        idle.handle(Event::Model {
            event: Change::Addresses(std::collections::BTreeSet::new()),
            received: Instant::now(),
        });
        idle.work();
        assert!(idle.reconciler.is_synced());
        flood(&mut idle);
        assert_eq!(idle.received.len(), MEASURED);
        idle.work();
        assert_eq!(idle.received.len(), 0);
    }
}
