//! The source "API server": three independent list-and-watch loops in one future.
//!
//! Must not know manifests.

mod backoff;
pub(super) mod connect;
mod kinds;
mod reflector;
mod search;

use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use proxy_core::model::{Event, Source};
use tokio::sync::mpsc;

use super::{
    KubeSettings, WatchError, WatchStatus,
    nodes::{NodeTeller, NodesSender},
};
use backoff::Backoff;
use connect::Servers;
use kinds::Selection;
use reflector::Reflector;

/// What there is to say when nobody answers.
const UNKNOWN: &str = "no API server answers at the addresses that the node, the pod and the last agent know: name one with \
                       `api-servers`";

/// Changes of Nodes that wait to be handed on.
const QUEUE: usize = 64;

/// See [`super::run`].
pub(super) async fn run(
    settings: KubeSettings,
    node_name: String,
    tx: mpsc::Sender<Event>,
    nodes: Option<NodesSender>,
    status: Arc<WatchStatus>,
) -> Result<(), WatchError> {
    let clients = tokio::select! {
        found = found(&settings, &status) => found?,
        () = tx.closed() => return Ok(()),
    };
    let selection = Selection {
        proxy_name: settings.proxy_name.clone(),
        node_name: nodes.is_none().then(|| node_name.clone()),
    };
    let (to_teller, told) = mpsc::channel(QUEUE);
    let services = Reflector::<Service>::new(&settings, &selection, clients.clone(), &tx, &status).run();
    let slices = Reflector::<EndpointSlice>::new(&settings, &selection, clients.clone(), &tx, &status).run();
    let node = Reflector::<Node>::new(&settings, &selection, clients, &to_teller, &status).run();
    drop(to_teller);
    let teller = NodeTeller { node_name, tx, nodes }.run(told);
    // Each ends only when the receiver is gone.
    tokio::join!(services, slices, node, teller);
    Ok(())
}

/// At least one client, however long it takes.
async fn found(settings: &KubeSettings, status: &WatchStatus) -> Result<Servers, WatchError> {
    let mut backoff = Backoff::new();
    loop {
        let clients = connect::clients(settings).await?;
        if !clients.borrow().is_empty() {
            return Ok(clients);
        }
        let pause = backoff.pause();
        tracing::warn!(?pause, "{UNKNOWN}");
        for source in [Source::Services, Source::Slices, Source::Node] {
            status.set_error(source, UNKNOWN.to_owned());
        }
        tokio::time::sleep(pause).await;
    }
}
