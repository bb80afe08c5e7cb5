//! Ends UDP sockets whose backend left, a batch at a time, off the loop's thread.
//!
//! Must not know how a socket is found or ended.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task, time};
use tracing::{info, warn};

use crate::{
    dataplane::{Observer, ReadError},
    metrics::Metrics,
    sockets::{self, DestroyReport},
};

/// Pause between two batches: each reads all UDP sockets of every network namespace.
const PAUSE: Duration = Duration::from_millis(500);

/// Ends the sockets of the backends that arrive until nobody sends any more. Only sockets of which the kernel's record
/// says that we translated them are touched.
pub async fn end_udp_sockets(
    mut left: mpsc::UnboundedReceiver<Vec<SocketAddr>>,
    observer: Arc<Observer>,
    metrics: Metrics,
) {
    while let Some(mut backends) = left.recv().await {
        while let Ok(more) = left.try_recv() {
            backends.extend(more);
        }
        let observer = Arc::clone(&observer);
        let ended = task::spawn_blocking(move || end(&observer, &backends)).await;
        match ended {
            Ok(Ok(report)) => note(&report, &metrics),
            Ok(Err(error)) => warn!(%error, "cannot find UDP sockets whose backend left"),
            Err(error) => warn!(%error, "ending UDP sockets broke off"),
        }
        time::sleep(PAUSE).await;
    }
}

fn end(observer: &Observer, backends: &[SocketAddr]) -> Result<DestroyReport, ReadError> {
    Ok(sockets::destroy_udp(&observer.translated_sockets()?, backends))
}

fn note(report: &DestroyReport, metrics: &Metrics) {
    metrics.sockets_destroyed.inc_by(u64::try_from(report.destroyed).unwrap_or(u64::MAX));
    if report.destroyed > 0 {
        info!(sockets = report.destroyed, "closed UDP sockets whose backend left");
    }
    for error in &report.errors {
        warn!(error, "a UDP socket whose backend left may live on");
    }
}
