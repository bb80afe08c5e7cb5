//! What has to be true for the agent to be alive, ready or healthy.
//!
//! Must not know who asks.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    reconcile::{NodeState, Progress},
    watch::WatchStatus,
};

/// The loop shows a sign of life every 5 seconds and with each write; without one for so long it hangs.
const SILENCE_LIMIT: Duration = Duration::from_mins(1);

/// Whether the programs are attached and were seen to work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Attachment {
    /// Nothing was attached yet by this process. Programs of an earlier one may be at work.
    Waiting,
    /// Attached, and the probe was translated.
    Working {
        /// What they are attached to.
        cgroup: String,
    },
    /// Attaching or probing failed; it is tried again.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What health depends on.
#[derive(Debug)]
pub struct Readiness {
    progress: Arc<Progress>,
    sources: Arc<WatchStatus>,
    attachment: Mutex<Attachment>,
    /// Whether every device has yet to be looked at once. One on which attaching failed does not count against the node.
    devices_waiting: AtomicBool,
    /// Whether this node should have an object (it has none when the source is a folder of manifests).
    needs_node: bool,
    /// Whether an earlier agent's programs were at work when this one started.
    succeeds_another: bool,
}

impl Readiness {
    /// Nothing is attached yet.
    pub fn new(progress: Arc<Progress>, sources: Arc<WatchStatus>, needs_node: bool) -> Self {
        let attachment = Mutex::new(Attachment::Waiting);
        let devices_waiting = AtomicBool::new(false);
        Self { progress, sources, attachment, devices_waiting, needs_node, succeeds_another: false }
    }

    /// The same, for an agent that puts programs on devices.
    #[must_use]
    pub fn with_devices(self) -> Self {
        Self { devices_waiting: AtomicBool::new(true), ..self }
    }

    /// Every device was looked at.
    pub fn devices_done(&self) {
        self.devices_waiting.store(false, Ordering::Release);
    }

    /// The same, for an agent at whose start an earlier one's programs were at work, or not.
    #[must_use]
    pub fn succeeding(self, succeeds_another: bool) -> Self {
        Self { succeeds_another, ..self }
    }

    /// Whether an earlier agent's programs are at work until this one attaches its own.
    pub fn succeeds_another(&self) -> bool {
        self.succeeds_another
    }

    /// What became of attaching.
    pub fn set_attachment(&self, attachment: Attachment) {
        *self.attachment.lock().unwrap_or_else(PoisonError::into_inner) = attachment;
    }

    /// What became of attaching.
    pub fn attachment(&self) -> Attachment {
        self.attachment.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn waits_for_devices(&self) -> bool {
        self.devices_waiting.load(Ordering::Acquire)
    }

    /// How far the loop is.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// How the sources are doing.
    pub fn sources(&self) -> &WatchStatus {
        &self.sources
    }

    /// The loop goes round. Never depends on the API server: restarting the agent would not bring that back.
    pub fn is_alive(&self) -> bool {
        self.progress.silence() < SILENCE_LIMIT
    }

    /// Why the agent is not ready; empty if it is.
    pub fn obstacles(&self) -> Vec<String> {
        let unlisted = self.sources.sources().into_iter().filter(|source| !source.listed);
        let mut obstacles: Vec<String> = unlisted
            .map(|source| match source.error {
                Some(error) => format!("{:?} not listed yet: {error}", source.source),
                None => format!("{:?} not listed yet", source.source),
            })
            .collect();
        let progress = self.progress.report();
        if !progress.synced {
            obstacles.push(progress.error.unwrap_or_else(|| "Services not written yet".to_owned()));
        }
        match self.attachment() {
            Attachment::Waiting => obstacles.push("programs not attached yet".to_owned()),
            Attachment::Failed { reason } => obstacles.push(reason),
            Attachment::Working { .. } => {}
        }
        if self.waits_for_devices() {
            obstacles.push("programs not attached to the devices yet".to_owned());
        }
        obstacles
    }

    /// Services are served. A start over programs that an earlier agent left is no outage, however long the API server
    /// is away, nor is a write that fails once: load balancers would take the node out for nothing.
    pub fn is_healthy(&self) -> bool {
        let in_force = match self.attachment() {
            Attachment::Waiting => self.succeeds_another,
            Attachment::Working { .. } => self.succeeds_another || !self.waits_for_devices(),
            Attachment::Failed { .. } => false,
        };
        in_force && self.is_alive() && !self.progress.is_overdue()
    }

    /// Whether load balancers should send new connections here: not to a node that is about to go (KEP-3836).
    pub fn is_node_eligible(&self) -> bool {
        match self.progress.node() {
            NodeState::Unknown | NodeState::Present => true,
            NodeState::Deleting => false,
            NodeState::Absent => !self.needs_node,
        }
    }

    /// When everything was last written.
    pub fn last_success(&self) -> Option<SystemTime> {
        self.progress.last_success()
    }
}
