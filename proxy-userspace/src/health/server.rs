//! The HTTP servers for health and metrics.
//!
//! Must not know what health is.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, time};
use tracing::{info, warn};

use super::{Readiness, body};
use crate::metrics::Exposition;

/// Pause before an address that cannot be bound is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Serves `router` on `address` until dropped. An address that is taken is tried again: a data plane without its
/// health port is better than none.
pub async fn serve(what: &'static str, address: SocketAddr, router: Router) {
    loop {
        if let Err(error) = bind_and_serve(what, address, router.clone()).await {
            warn!(%address, %error, "cannot serve {what}; trying again in {} s", RETRY.as_secs());
        }
        time::sleep(RETRY).await;
    }
}

async fn bind_and_serve(what: &'static str, address: SocketAddr, router: Router) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    info!(address = %listener.local_addr()?, "serving {what}");
    axum::serve(listener, router).await
}

/// `/livez`, `/readyz` and `/healthz`.
pub fn health_router(readiness: Arc<Readiness>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/healthz", get(healthz))
        .with_state(readiness)
}

/// `/metrics`.
pub fn metrics_router(exposition: Arc<Exposition>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(exposition)
}

/// An answer as kube-proxy gives it.
pub(super) fn answer(ok: bool, body: String) -> Response {
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, headers, body).into_response()
}

async fn livez(State(readiness): State<Arc<Readiness>>) -> Response {
    let now = SystemTime::now();
    let alive = readiness.is_alive();
    let last = if alive { Some(now) } else { readiness.last_success() };
    answer(alive, body::proxy(last, now, None))
}

async fn healthz(State(readiness): State<Arc<Readiness>>) -> Response {
    let now = SystemTime::now();
    let (healthy, eligible) = (readiness.is_healthy(), readiness.is_node_eligible());
    let last = if healthy { Some(now) } else { readiness.last_success() };
    answer(healthy && eligible, body::proxy(last, now, Some(eligible)))
}

async fn readyz(State(readiness): State<Arc<Readiness>>) -> Response {
    let obstacles = readiness.obstacles();
    if obstacles.is_empty() {
        return (StatusCode::OK, "ok\n").into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, obstacles.join("\n") + "\n").into_response()
}

async fn metrics(State(exposition): State<Arc<Exposition>>) -> Response {
    // Counts of the kernel are read with system calls: off the asynchronous threads.
    match tokio::task::spawn_blocking(move || exposition.text()).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)], text).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        health::Attachment,
        reconcile::{NodeState, Progress},
        watch::WatchStatus,
    };

    async fn status(readiness: &Arc<Readiness>, path: &str) -> u16 {
        let request = Request::get(path).body(Body::empty()).unwrap();
        health_router(Arc::clone(readiness)).oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_waits_for_its_sources_is_alive_but_neither_ready_nor_healthy() {
        let progress = Arc::new(Progress::default());
        let readiness = Arc::new(Readiness::new(Arc::clone(&progress), Arc::new(WatchStatus::new()), false));
        assert_eq!(status(&readiness, "/livez").await, 200);
        assert_eq!(status(&readiness, "/readyz").await, 503);
        assert_eq!(status(&readiness, "/healthz").await, 503);
        progress.succeeded();
        readiness.set_attachment(Attachment::Working { cgroup: "/".to_owned() });
        assert_eq!(status(&readiness, "/healthz").await, 200);
        assert_eq!(readiness.obstacles().len(), 3, "the sources");
        time::advance(Duration::from_secs(61)).await;
        assert_eq!(status(&readiness, "/livez").await, 503, "the loop shows no sign of life");
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_over_the_programs_of_an_earlier_agent_is_healthy_all_the_time() {
        for (succeeds_another, expected) in [(true, 200), (false, 503)] {
            let progress = Arc::new(Progress::default());
            let readiness = Readiness::new(Arc::clone(&progress), Arc::new(WatchStatus::new()), true);
            let readiness = Arc::new(readiness.succeeding(succeeds_another));
            assert_eq!(status(&readiness, "/healthz").await, expected);
            progress.node_is(NodeState::Present);
            progress.succeeded();
            assert_eq!(status(&readiness, "/healthz").await, expected, "not attached yet");
            readiness.set_attachment(Attachment::Working { cgroup: "/".to_owned() });
            assert_eq!(status(&readiness, "/healthz").await, 200);
            progress.failed("no memory".to_owned());
            assert_eq!(status(&readiness, "/healthz").await, 200, "it is tried again");
            for _ in 0..3 {
                time::advance(Duration::from_secs(20)).await;
                progress.beat();
            }
            assert_eq!(status(&readiness, "/healthz").await, 503, "it goes on failing");
            progress.succeeded();
            readiness.set_attachment(Attachment::Failed { reason: "no cgroup".to_owned() });
            assert_eq!(status(&readiness, "/healthz").await, 503);
        }
    }

    #[tokio::test]
    async fn until_the_devices_were_looked_at_clients_outside_get_no_answer() {
        for succeeds_another in [false, true] {
            let progress = Arc::new(Progress::default());
            let readiness = Readiness::new(Arc::clone(&progress), Arc::new(WatchStatus::new()), false);
            let readiness = Arc::new(readiness.with_devices().succeeding(succeeds_another));
            progress.succeeded();
            readiness.set_attachment(Attachment::Working { cgroup: "/".to_owned() });
            assert!(readiness.obstacles().iter().any(|obstacle| obstacle.contains("devices")));
            assert_eq!(status(&readiness, "/healthz").await, if succeeds_another { 200 } else { 503 });
            readiness.devices_done();
            assert!(!readiness.obstacles().iter().any(|obstacle| obstacle.contains("devices")));
            assert_eq!(status(&readiness, "/healthz").await, 200);
        }
    }

    #[tokio::test]
    async fn a_node_without_an_object_gets_no_new_traffic() {
        let progress = Arc::new(Progress::default());
        let readiness = Arc::new(Readiness::new(Arc::clone(&progress), Arc::new(WatchStatus::new()), true));
        progress.succeeded();
        readiness.set_attachment(Attachment::Working { cgroup: "/".to_owned() });
        progress.node_is(NodeState::Absent);
        assert_eq!(status(&readiness, "/healthz").await, 503);
        assert_eq!(status(&readiness, "/livez").await, 200);
        progress.node_is(NodeState::Present);
        assert_eq!(status(&readiness, "/healthz").await, 200);
    }

    #[tokio::test]
    async fn a_node_that_is_about_to_go_gets_no_new_traffic_and_keeps_its_agent() {
        for needs_node in [true, false] {
            let progress = Arc::new(Progress::default());
            let sources = Arc::new(WatchStatus::new());
            let readiness = Arc::new(Readiness::new(Arc::clone(&progress), sources, needs_node));
            progress.succeeded();
            readiness.set_attachment(Attachment::Working { cgroup: "/".to_owned() });
            progress.node_is(NodeState::Deleting);
            assert_eq!(status(&readiness, "/healthz").await, 503);
            assert_eq!(status(&readiness, "/livez").await, 200);
            assert!(readiness.is_healthy(), "what is wanted is in force: a Service's health check says so");
        }
    }
}
