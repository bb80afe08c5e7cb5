//! From Kubernetes objects to model events: an API server or a folder of manifests in, [`Event`]s out.
//!
//! The only module that knows kube, k8s-openapi and YAML. Must not know what a Service means, nor who listens.

mod api;
mod convert;
mod events;
pub mod manifests;
mod memory;
mod nodes;
mod status;

use std::{path::PathBuf, sync::Arc, time::Duration};

use proxy_core::model::Event;
use tokio::sync::mpsc;

pub use events::{EventPublisher, EventSink, event_sink};
pub(crate) use manifests::Bell;
pub use memory::ServerMemory;
pub use nodes::NodesSender;
pub use status::{SourceStatus, WatchStatus};

/// Where Services, EndpointSlices and the Node come from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// A Kubernetes API server.
    Kube(KubeSettings),
    /// A folder of manifests (not its sub-folders), or one file, watched live.
    Manifests {
        /// The folder or file.
        path: PathBuf,
        /// An earlier agent's Services are served already. What cannot be read may be among them: nothing is told until
        /// every file could be read once.
        inherited: bool,
    },
}

/// How to reach the API server and what to ask it for.
#[derive(Clone, Debug)]
pub struct KubeSettings {
    /// This kubeconfig. `None`: what `KUBECONFIG` names, else `~/.kube/config`, else the Pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Addresses such as `https://192.0.2.1:6443` to use instead of the one in the configuration, in this order. Needed
    /// on a node where nothing serves the address of the Service `kubernetes` yet. After a failure the next is tried.
    pub api_servers: Vec<String>,
    /// Written by [`ServerMemory`]: where the API servers were last. Used only with a Pod's service account, where nothing
    /// else says where they are.
    pub known_servers: Option<PathBuf>,
    /// After this time the server ends each watch and we start it anew; a connection that says nothing for this time
    /// and [`SILENCE_MARGIN`] is given up. At least one second.
    pub watch_timeout: Duration,
    /// Serve the Services with this `service.kubernetes.io/service-proxy-name` label. `None`: those without the label.
    pub proxy_name: Option<String>,
}

impl Default for KubeSettings {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            api_servers: Vec::new(),
            known_servers: None,
            watch_timeout: Duration::from_secs(45),
            proxy_name: None,
        }
    }
}

/// What a server gets on top of the watch timeout before its silence counts as a dead connection.
pub const SILENCE_MARGIN: Duration = Duration::from_secs(5);

/// Why a source could not even begin. Everything that goes wrong later is retried and told by [`WatchStatus`].
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Neither a kubeconfig nor a service account is usable.
    #[error("no usable Kubernetes configuration: {0}")]
    Configuration(String),
    /// An address in [`KubeSettings::api_servers`] is not a URL.
    #[error("API server address {address:?}: {reason}; write it as https://HOST:PORT")]
    Address {
        /// What the user wrote.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder of manifests cannot be read.
    #[error("cannot read manifests in {}: {source}", path.display())]
    Manifests {
        /// The folder or file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// Sends everything `config` tells to `tx`, complete lists first, until the receiver is dropped.
///
/// An unreachable API server or a broken manifest never ends it: the last state stays with the receiver, the reason is
/// in `status` and in the log, and it is tried again with growing pauses. Events of one kind arrive in order; nothing is
/// promised about the order between kinds.
///
/// With `nodes` all Nodes are watched, and published there whenever one changed, beginning with the first complete list;
/// otherwise only the agent's own is.
///
/// Cancellation: drop the future. It starts no task of its own, so nothing of it is left then.
///
/// # Errors
/// [`WatchError`] if the configuration itself is unusable at the start.
pub async fn run(
    config: SourceConfig,
    node_name: String,
    tx: mpsc::Sender<Event>,
    nodes: Option<NodesSender>,
    status: Arc<WatchStatus>,
) -> Result<(), WatchError> {
    match config {
        SourceConfig::Kube(settings) => Box::pin(api::run(settings, node_name, tx, nodes, status)).await,
        SourceConfig::Manifests { path, inherited } => {
            let listeners = manifests::Listeners { node_name, tx, nodes };
            manifests::run(path, inherited, listeners, status).await
        }
    }
}
