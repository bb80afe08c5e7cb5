//! What the administrator of this node decides.
//!
//! Must not know where a setting is written down.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// Settings that the desired state depends on.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    /// Name of the node this is computed for: what `endpoints[].nodeName` and node hints are compared with.
    pub node_name: String,
    /// Our name in the label `service.kubernetes.io/service-proxy-name`. Services and slices are ours if the label
    /// has this value; unset, if they do not have the label.
    pub proxy_name: Option<String>,
    /// The node addresses that NodePorts are served on.
    pub node_port_addresses: NodePortAddresses,
}

/// Which of the node's addresses serve NodePorts. Loopback addresses are not subject to it: only programs in the
/// host's own network namespace reach them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum NodePortAddresses {
    /// Every address of the node.
    #[default]
    All,
    /// Those that its devices are told to have, whatever the Node object says: only the primary ones are told then.
    Primary,
    /// The addresses of the node inside one of these networks.
    Within(Vec<IpNetwork>),
}

impl NodePortAddresses {
    /// Whether NodePorts are served on `address`.
    pub fn admits(&self, address: IpAddr) -> bool {
        match self {
            Self::All | Self::Primary => true,
            Self::Within(networks) => networks.iter().any(|network| network.contains(address)),
        }
    }
}
