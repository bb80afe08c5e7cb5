//! Puts the programs on their hooks once everything is written, and looks after them from then on.
//!
//! Must not know what the programs do, nor what is written.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proxy_common::SocketLb;
use tokio::{sync::Notify, task, time};
use tracing::{error, info, warn};

use super::with_causes;
use crate::{
    dataplane::{DataPlane, LinkAction},
    health::{Attachment, Readiness},
    metrics::Metrics,
};

/// First and longest pause before attaching is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// See the module.
pub(super) struct Keeper {
    pub(super) data_plane: Arc<Mutex<DataPlane>>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) metrics: Metrics,
    /// Rung when other programs than before translate: sockets may have got backends of older maps until then.
    pub(super) exchanged: Arc<Notify>,
    /// Time between two looks at the hooks; `None`: none after the first success.
    pub(super) audit_interval: Option<Duration>,
}

impl Keeper {
    /// Waits until everything is written. Ends after the first success if there are no audits.
    pub(super) async fn run(self) {
        let mut synced = self.readiness.progress().watch_synced();
        if synced.wait_for(|synced| *synced).await.is_err() {
            return;
        }
        let (first, longest) = RETRY;
        let (mut pause, mut is_working) = (first, false);
        loop {
            match self.work(is_working).await {
                Ok(cgroup) => {
                    if !is_working {
                        self.announce(cgroup);
                    }
                    (pause, is_working) = (first, true);
                    let Some(interval) = self.audit_interval else { return };
                    // Nodes of a cluster do not audit in step.
                    time::sleep(interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
                }
                Err(reason) => {
                    is_working = false;
                    error!(reason, "not ready; trying again in {} s", pause.as_secs());
                    self.readiness.set_attachment(Attachment::Failed { reason });
                    time::sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
            }
        }
    }

    fn announce(&self, cgroup: String) {
        let report = self.readiness.progress().report();
        info!(cgroup, services = report.services, frontends = report.frontends, "ready");
        self.readiness.set_attachment(Attachment::Working { cgroup });
        self.exchanged.notify_one();
    }

    /// Returns the cgroup.
    async fn work(&self, is_working: bool) -> Result<String, String> {
        let (data_plane, metrics) = (Arc::clone(&self.data_plane), self.metrics.clone());
        let attached = task::spawn_blocking(move || {
            let mut data_plane = data_plane.lock().unwrap_or_else(PoisonError::into_inner);
            if is_working {
                look_after(&mut data_plane, &metrics)
            } else {
                attach_and_probe(&mut data_plane)
            }?;
            Ok(data_plane.cgroup().display().to_string())
        });
        attached.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

fn attach_and_probe(data_plane: &mut DataPlane) -> Result<(), String> {
    for (program, action) in data_plane.attach().map_err(|error| with_causes(&error))? {
        info!(program, ?action, "attached");
    }
    probe(data_plane)
}

/// Somebody may have removed a pin or the cgroup: programs that are not where they were are attached again.
fn look_after(data_plane: &mut DataPlane, metrics: &Metrics) -> Result<(), String> {
    let actions = data_plane.attach().map_err(|error| with_causes(&error))?;
    let lost: Vec<_> = actions.into_iter().filter(|(_, action)| *action != LinkAction::Updated).collect();
    for (program, action) in &lost {
        warn!(program, ?action, "the program was not attached any more; it is attached again");
        metrics.drift_repaired.inc();
    }
    if lost.is_empty() { Ok(()) } else { probe(data_plane) }
}

/// With `--socket-lb=off` there is no translation at a socket to prove.
fn probe(data_plane: &mut DataPlane) -> Result<(), String> {
    if data_plane.socket_lb() == SocketLb::Off {
        return Ok(());
    }
    let report = data_plane.probe().map_err(|error| with_causes(&error))?;
    info!(ipv4 = report.ipv4, ipv6 = report.ipv6, "the probe was translated");
    Ok(())
}
