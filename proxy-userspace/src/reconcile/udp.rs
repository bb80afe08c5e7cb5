//! Ends UDP sockets whose backend left their Service, a batch at a time, off the loop's thread.
//!
//! The sockets are listed first and judged afterwards, by the loop, against what the kernel holds at that moment: a
//! socket that connects meanwhile is never judged by what was before. Must not know how a socket is found or ended.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    task, time,
};
use tracing::{info, warn};

use super::{Event, Question};
use crate::{
    dataplane::{self, Observer},
    metrics::Metrics,
    sockets::{self, DestroyReport},
};

/// Pause between two batches: each may read all UDP sockets of every network namespace.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a batch did not come to pass.
#[derive(Debug, thiserror::Error)]
enum Missed {
    #[error("{0}")]
    List(#[from] dataplane::ReadError),
    #[error("the search broke off: {0}")]
    Task(#[from] task::JoinError),
    #[error("the loop ended")]
    Unheard,
}

/// Each time `left` rings, ends the connected UDP sockets that are stranded; until the loop, which `questions` leads to,
/// has ended. Only sockets of which the kernel's record says that we translated them are touched.
pub async fn end_udp_sockets(
    left: Arc<Notify>,
    questions: mpsc::Sender<Event>,
    observer: Arc<Observer>,
    metrics: Metrics,
) {
    let mut is_warned = false;
    loop {
        left.notified().await;
        match end(&observer, &questions).await {
            Ok(report) => note(&report, &metrics, &mut is_warned),
            Err(Missed::Unheard) => return,
            Err(error) => warn!(%error, "cannot find UDP sockets whose backend left"),
        }
        time::sleep(PAUSE).await;
    }
}

async fn end(observer: &Arc<Observer>, questions: &mpsc::Sender<Event>) -> Result<DestroyReport, Missed> {
    let observer = Arc::clone(observer);
    let list = task::spawn_blocking(move || {
        // A program run that began before the record was replaced has noted its choice by then.
        dataplane::wait_grace();
        observer.translated_sockets()
    });
    let sockets = list.await??;
    let (answer, stranded) = oneshot::channel();
    let question = Event::Ask(Question::Stranded { sockets, answer });
    questions.send(question).await.map_err(|_| Missed::Unheard)?;
    let stranded = stranded.await.map_err(|_| Missed::Unheard)?;
    Ok(task::spawn_blocking(move || sockets::destroy_udp(&stranded)).await?)
}

fn note(report: &DestroyReport, metrics: &Metrics, is_warned: &mut bool) {
    metrics.sockets_destroyed.inc_by(u64::try_from(report.destroyed).unwrap_or(u64::MAX));
    if report.destroyed > 0 {
        info!(sockets = report.destroyed, "closed UDP sockets whose backend left");
    }
    for error in &report.errors {
        warn!(error, "a UDP socket whose backend left may live on");
    }
    if report.destroyed < report.expected && report.is_blind && !*is_warned {
        *is_warned = true;
        warn!(
            expected = report.expected,
            destroyed = report.destroyed,
            "UDP sockets whose backend left may live on: without CAP_SYS_PTRACE the network namespaces of other \
             processes cannot be entered"
        );
    }
}
