//! The configuration: one typed value out of flags, environment and file, checked whole before anything is done.
//!
//! Must not know what any part of the agent does with it.

#[cfg(test)]
mod documented;
mod error;
mod flags;
mod layers;
mod packet;
mod parse;
mod pods;
mod ports;
mod setting;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnetwork::IpNetwork;

use crate::dataplane::Capacities;

pub use error::ConfigError;
pub use flags::AgentFlags;
pub use layers::{Layers, Origin, Resolved};
pub use packet::PacketConfig;
pub use pods::PodConfig;
pub use ports::PortRange;
pub use setting::{DEFAULT_PIN_DIR, DEFAULT_RUN_DIR, SETTINGS, Setting};

/// The agent's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where objects come from.
    pub source: SourceConfig,
    /// This node's name in the cluster.
    pub node_name: String,
    /// Cgroup to attach to; `None`: the root of the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// Folder of the pins.
    pub pin_dir: PathBuf,
    /// Folder of the control socket and the lock.
    pub run_dir: PathBuf,
    /// Capacities of the kernel maps.
    pub capacities: Capacities,
    /// Node addresses that serve NodePorts.
    pub node_port_addresses: NodePortAddresses,
    /// The packet path.
    pub packet: PacketConfig,
    /// The pod network.
    pub pods: PodConfig,
    /// Label value of the Services to serve; `None`: those without the label.
    pub service_proxy_name: Option<String>,
    /// Duration of one watch request.
    pub watch_timeout: Duration,
    /// Changes within this time after a write are written together.
    pub min_sync_interval: Duration,
    /// Time between two audits; `None`: no audit.
    pub audit_interval: Option<Duration>,
    /// Where health is served.
    pub health_address: SocketAddr,
    /// Where metrics are served.
    pub metrics_address: SocketAddr,
    /// Filter of the log, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log_level: String,
    /// Format of the log.
    pub log_format: LogFormat,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// An API server: the one of this kubeconfig, or of the pod's service account.
    Kubernetes {
        /// Path of the kubeconfig.
        kubeconfig: Option<PathBuf>,
        /// Addresses of the API server to use instead of the configured one, in this order.
        api_servers: Vec<String>,
    },
    /// A folder of manifests.
    Manifests(PathBuf),
}

/// Node addresses that serve NodePorts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All of them.
    All,
    /// The one of each family that the node sends from.
    Primary,
    /// Those in one of these networks.
    Within(Vec<IpNetwork>),
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// A configuration and how it came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Every setting with its value and origin, for the log.
    pub resolved: Vec<Resolved>,
}

/// Builds the configuration out of what the user said.
///
/// # Errors
/// See [`ConfigError`].
pub fn load(layers: &Layers) -> Result<Loaded, ConfigError> {
    let mut resolved = layers.resolve()?;
    parse::fill_in_node_name(&mut resolved);
    let config = parse::Reader::new(&resolved).config()?;
    Ok(Loaded { config, resolved })
}
