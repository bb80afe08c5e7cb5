//! What is decided on, and what is decided.
//!
//! Must not know the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;

/// How packets get to the pods of other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// Directly where no router is between, by VXLAN otherwise.
    #[default]
    Auto,
    /// Directly, or not at all.
    Direct,
    /// By VXLAN always.
    Vxlan,
    /// Somebody else sees to it.
    None,
}

/// What the administrator says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    /// This node's name.
    pub node_name: String,
    /// How.
    pub mode: Mode,
    /// This node's prefixes of pods, instead of its `spec.podCIDRs`, unless empty.
    pub pod_cidrs: Vec<IpNetwork>,
    /// MTU for pods, bytes, instead of what the ways leave.
    pub pod_mtu: Option<u32>,
    /// Network identifier of the tunnel.
    pub vni: u32,
    /// UDP port of the tunnel.
    pub port: u16,
}

/// What the kernel says of this node and of the ways to others.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Underlay {
    /// This node's addresses and the devices that have them, those of the tunnel left out.
    pub addresses: BTreeMap<IpAddr, Uplink>,
    /// At most one of each family, of [`Self::addresses`]: what this node sends from where nothing else is said.
    pub primary: BTreeSet<IpAddr>,
    /// By address of another node; none for what the kernel cannot reach.
    pub ways: BTreeMap<IpAddr, Way>,
}

/// A device with an address of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The kernel's index.
    pub device: u32,
    /// Its MTU, bytes.
    pub mtu: u32,
}

/// How the kernel gets to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The kernel's index of the device.
    pub device: u32,
    /// MTU of the way, bytes.
    pub mtu: u32,
    /// No router is between.
    pub is_on_link: bool,
}

/// What this node should do.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// The prefixes of this node's pods.
    pub pod_cidrs: Vec<IpNetwork>,
    /// What is inside of the cluster: the prefixes of all nodes' pods, and each node's addresses. Pods keep their address
    /// towards these.
    pub inside: BTreeSet<IpNetwork>,
    /// Addresses of `inside` of the nodes whose pods of that family are reached through the tunnel: packets to the node
    /// itself take no tunnel, but what it answers a pod does.
    pub behind_tunnel: BTreeSet<IpNetwork>,
    /// Every route, by destination.
    pub routes: BTreeMap<IpNetwork, Target>,
    /// The tunnel, if anything goes through it.
    pub tunnel: Option<Tunnel>,
    /// MTU for pods, bytes.
    pub mtu: u32,
    /// Addresses that no pod may have: this node's, the tunnel's among them.
    pub node_addresses: BTreeSet<IpAddr>,
    /// What was left out, or will not work well.
    pub remarks: BTreeSet<Remark>,
    /// Why pods of this node cannot be served.
    pub obstacle: Option<String>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To a node on the same link.
    Direct {
        /// The node's address.
        gateway: IpAddr,
        /// The kernel's index of the device.
        device: u32,
    },
    /// Through the tunnel.
    Tunnel {
        /// A node's address inside of the tunnel.
        gateway: IpAddr,
    },
    /// Nowhere: a prefix of this node's pods, where no pod has the address. Without it such packets would go in circles
    /// between the node and its router.
    Unreachable,
}

/// The device of the tunnel, as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Outer source address.
    pub local: IpAddr,
    /// The device's Ethernet address.
    pub mac: [u8; 6],
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Its addresses, each alone in its network: what this node itself sends from through the tunnel.
    pub addresses: BTreeSet<IpAddr>,
    /// The other ends, by Ethernet address.
    pub peers: BTreeMap<[u8; 6], TunnelPeer>,
}

/// Another end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelPeer {
    /// Outer destination address.
    pub address: IpAddr,
    /// Its addresses inside of the tunnel.
    pub gateways: BTreeSet<IpAddr>,
}

/// Something that people should know of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// The node's name.
    pub node: String,
    /// A sentence with the remedy.
    pub text: String,
}
