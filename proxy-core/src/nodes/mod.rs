//! How packets get from this node to the pods of the others: a pure function of all Nodes and of what the kernel says of
//! the ways to them.
//!
//! [`peer_addresses`] says which ways the kernel is to be asked for, [`plan()`] decides. Must not know how a route is
//! written, nor Services.
//!
//! The rules, where the API leaves a choice:
//!
//! - A node's address is its first `InternalIP` of each family. A prefix of pods is one of `spec.podCIDRs`.
//! - A prefix that overlaps one of this node's, one of a node whose name comes earlier, or that holds the address of any
//!   node gets no route, with a remark.
//! - A route leads to an address of its own family. [`Mode::Auto`] takes the direct way where the kernel reaches the node
//!   without a router, and the tunnel otherwise, also for a family of which the node has no address.
//! - All tunnels of a node have one underlay: IPv4 if the node has an address of it.

mod claims;
mod member;
mod plan;
mod tunnel;
mod types;

pub use plan::{peer_addresses, plan};
pub use tunnel::vtep_mac;
pub use types::{Mode, Plan, Remark, Settings, Target, Tunnel, TunnelPeer, Underlay, Uplink, Way};

use std::collections::BTreeMap;

use crate::model::NodeObject;

/// All Nodes, by name.
pub type Nodes = BTreeMap<String, NodeObject>;

#[cfg(test)]
mod tests;
