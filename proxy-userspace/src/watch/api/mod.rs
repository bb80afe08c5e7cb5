//! The source "API server": three independent list-and-watch loops in one future.
//!
//! Must not know manifests.

mod backoff;
pub(super) mod connect;
mod kinds;
mod reflector;

use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use proxy_core::model::Event;
use tokio::sync::mpsc;

use super::{KubeSettings, WatchError, WatchStatus};
use reflector::Reflector;

/// See [`super::run`].
pub(super) async fn run(
    settings: KubeSettings,
    node_name: String,
    tx: mpsc::Sender<Event>,
    status: Arc<WatchStatus>,
) -> Result<(), WatchError> {
    let clients = connect::clients(&settings).await?;
    let services = Reflector::<Service>::new(&settings, &node_name, clients.clone(), &tx, &status).run();
    let slices = Reflector::<EndpointSlice>::new(&settings, &node_name, clients.clone(), &tx, &status).run();
    let node = Reflector::<Node>::new(&settings, &node_name, clients, &tx, &status).run();
    // Each ends only when the receiver is gone.
    tokio::join!(services, slices, node);
    Ok(())
}
