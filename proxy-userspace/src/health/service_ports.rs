//! The servers behind `healthCheckNodePort`: a load balancer asks each node whether it has an endpoint of its own.
//!
//! Must not know how endpoints are counted.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
};

use axum::{Router, extract::State, response::Response};
use proxy_core::model::ObjectName;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Readiness, body,
    server::{answer, serve},
};
use crate::reconcile::HealthChecks;

/// One port's server. Ends when dropped.
struct Server {
    service: ObjectName,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a server answers from.
#[derive(Clone)]
struct Shared {
    service: ObjectName,
    checks: watch::Receiver<Arc<HealthChecks>>,
    readiness: Arc<Readiness>,
}

/// Keeps one server per port in `checks` until nobody can change them any more.
pub async fn serve_health_check_ports(
    mut checks: watch::Receiver<Arc<HealthChecks>>,
    readiness: Arc<Readiness>,
) {
    let mut servers = BTreeMap::new();
    loop {
        let wanted = Arc::clone(&checks.borrow_and_update());
        adjust(&mut servers, &wanted, &checks, &readiness);
        if checks.changed().await.is_err() {
            return;
        }
    }
}

fn adjust(
    servers: &mut BTreeMap<u16, Server>,
    wanted: &HealthChecks,
    checks: &watch::Receiver<Arc<HealthChecks>>,
    readiness: &Arc<Readiness>,
) {
    let keeps =
        |port: u16, server: &Server| wanted.get(&server.service).is_some_and(|check| check.port == port);
    servers.retain(|port, server| keeps(*port, server));
    for (service, check) in wanted {
        let shared =
            || Shared { service: service.clone(), checks: checks.clone(), readiness: Arc::clone(readiness) };
        servers.entry(check.port).or_insert_with(|| start(check.port, shared()));
    }
}

fn start(port: u16, shared: Shared) -> Server {
    let service = shared.service.clone();
    // Any path and any method, on every address of both families.
    let router = Router::new().fallback(respond).with_state(shared);
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    Server { service, task: tokio::spawn(serve("a Service's healthCheckNodePort", address, router)) }
}

async fn respond(State(shared): State<Shared>) -> Response {
    let local = shared.checks.borrow().get(&shared.service).map_or(0, |check| check.local_ready);
    let healthy = shared.readiness.is_healthy();
    answer(healthy && local > 0, body::service(&shared.service, local, healthy))
}
