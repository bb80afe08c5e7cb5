//! Why a verb refuses, where neither the configuration nor the machine is the reason.
//!
//! Must not know how it is found out.

use std::{net::IpAddr, path::PathBuf};

use thiserror::Error;

use crate::{
    agent::PortsError,
    record::AttachmentId,
    spec::{Code, Error},
};

/// Why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Nothing there, or something else.
    #[error("CNI_NETNS: {} is no network namespace", .0.display())]
    NoNetns(PathBuf),
    /// The plugin's own.
    #[error("CNI_NETNS: {} is the network namespace of the plugin itself: give the container's", .0.display())]
    OwnNetns(PathBuf),
    /// The agent says that it is not ready.
    #[error("this node cannot serve pods yet: {0}")]
    Obstacle(String),
    /// Plugin and agent have other records.
    #[error(
        "the agent's map `endpoints` has layout {agent:08x}, this plugin knows {plugin:08x}: they are of different \
         versions; run `sheave install-cni` of the agent's version"
    )]
    Layout {
        /// The agent's.
        agent: u32,
        /// Ours.
        plugin: u32,
    },
    /// The node has no ranges.
    #[error(
        "the node has no podCIDR yet: let the controller manager allocate one (--allocate-node-cidrs), or set `pod-cidrs` of the agent"
    )]
    NoPodCidr,
    /// An address of nobody's range would not be routed by other nodes.
    #[error(
        "network configuration, runtimeConfig.ipRanges: {0} is outside of the node's podCIDRs, where other nodes have no route to"
    )]
    ForeignRange(String),
    /// Ports need the agent.
    #[error(
        "host ports need the agent, which does not run: start it (`sheave agent --pod-network`); the pod is added then"
    )]
    AgentDown,
    /// The agent did not serve the ports.
    #[error("the host ports are not served: {0}")]
    Ports(PortsError),
    /// A pod of which nothing is remembered has the address.
    #[error(
        "address {address} leads to device {host_device}: a pod has it of which nothing is remembered any more; \
         delete that pod, or ask for another address"
    )]
    Held {
        /// The address.
        address: IpAddr,
        /// The host's end of that pod.
        host_device: String,
    },
    /// Addresses were found to be other pods' again and again.
    #[error("the addresses of pods change faster than they can be looked at: try again")]
    Changing,
    /// It is there already.
    #[error("interface {0} is attached already: a container's interface is added once; DEL it first")]
    Attached(AttachmentId),
    /// An earlier plugin of the chain made it.
    #[error(
        "prevResult has an interface {0} of the container already: give one of the plugins another CNI_IFNAME, or remove one from the list"
    )]
    InPrevious(String),
    /// CHECK without a result to check.
    #[error("CHECK needs `prevResult` in the network configuration, which the runtime keeps from ADD")]
    NoPrevious,
    /// It differs.
    #[error("{id} is not as it was added: {differences}")]
    Different {
        /// Which.
        id: AttachmentId,
        /// How.
        differences: String,
    },
    /// The delegated plugin's result has no address.
    #[error("IPAM plugin `{0}` gave no address: its result needs `ips`")]
    NoDelegatedAddress(String),
    /// The delegated plugin's result has an address that is none.
    #[error("IPAM plugin `{plugin}`: `{address}` in `ips` of its result is not an address")]
    DelegatedAddress {
        /// The plugin.
        plugin: String,
        /// What it said.
        address: String,
    },
    /// STATUS: the agent is down.
    #[error("the agent has not run for half a minute or more: start it (`sheave agent --pod-network`)")]
    NotReady,
    /// STATUS: what pods need is gone.
    #[error("the data plane is broken, {0} is not there: restart the agent, which makes it anew")]
    Broken(String),
}

impl Refusal {
    fn code(&self) -> Code {
        match self {
            Self::NoNetns(_) | Self::OwnNetns(_) => Code::Netns,
            Self::Obstacle(_)
            | Self::Layout { .. }
            | Self::NoPodCidr
            | Self::Changing
            | Self::AgentDown
            | Self::Ports(PortsError::NotYet(_)) => Code::TryLater,
            Self::Held { .. }
            | Self::Ports(PortsError::Refused(_))
            | Self::ForeignRange(_)
            | Self::NoPrevious => Code::Config,
            Self::Attached(_) | Self::InPrevious(_) => Code::Attached,
            Self::Different { .. } => Code::Different,
            Self::NoDelegatedAddress(_) | Self::DelegatedAddress { .. } => Code::Delegate,
            Self::NotReady => Code::NotReady,
            Self::Broken(_) => Code::Broken,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}
