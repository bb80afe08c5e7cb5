//! The servers behind `healthCheckNodePort`: a load balancer asks each node whether it has an endpoint of its own.
//!
//! Must not know how endpoints are counted.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
};

use axum::{Router, extract::State, http::HeaderName, response::Response};
use proxy_core::model::ObjectName;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Readiness, body,
    server::{answer, serve},
};
use crate::reconcile::HealthChecks;

/// How many endpoints the node has, for load balancers that weigh nodes.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

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
    let mut response = answer(healthy && local > 0, body::service(&shared.service, local, healthy));
    response.headers_mut().insert(WEIGHT, local.into());
    response
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use proxy_core::desired::HealthCheck;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{health::Attachment, reconcile::Progress, watch::WatchStatus};

    async fn ask(shared: &Shared) -> Response {
        let router = Router::new().fallback(respond).with_state(shared.clone());
        router.oneshot(Request::post("/any/path").body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_node_with_an_endpoint_of_its_own_is_healthy_as_long_as_the_agent_is() {
        let service = ObjectName::new("shop", "cart");
        let checks = |local_ready| {
            Arc::new(HealthChecks::from([(service.clone(), HealthCheck { port: 32_000, local_ready })]))
        };
        let (sender, receiver) = watch::channel(checks(2));
        let progress = Arc::new(Progress::default());
        let readiness = Arc::new(Readiness::new(Arc::clone(&progress), Arc::new(WatchStatus::new()), false));
        let shared = Shared { service: service.clone(), checks: receiver, readiness: Arc::clone(&readiness) };
        assert_eq!(ask(&shared).await.status(), 503, "the agent is not healthy yet");
        progress.succeeded();
        readiness.set_attachment(Attachment::Working { cgroup: "/".to_owned() });
        let response = ask(&shared).await;
        assert_eq!((response.status().as_u16(), response.headers()[WEIGHT].to_str().unwrap()), (200, "2"));
        sender.send_replace(checks(0));
        assert_eq!(ask(&shared).await.status(), 503);
    }
}
