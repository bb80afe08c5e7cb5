//! Which prefixes may be routed: each address belongs to one node, and a node's own is none of its pods'.
//!
//! Must not know where a route leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;

/// The prefixes given so far.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// First address to last address and owner. None overlaps another.
    taken: BTreeMap<IpAddr, (IpAddr, String)>,
    /// The addresses of all nodes.
    nodes: BTreeSet<IpAddr>,
}

impl Claims {
    pub(super) fn new(nodes: BTreeSet<IpAddr>) -> Self {
        Self { taken: BTreeMap::new(), nodes }
    }

    /// Gives the prefix to `owner`.
    ///
    /// # Errors
    /// It cannot have it: a sentence.
    pub(super) fn take(&mut self, network: IpNetwork, owner: &str) -> Result<(), String> {
        let (first, last) = bounds(network);
        if let Some(node) = self.nodes.range(first..=last).next() {
            return Err(format!(
                "its prefix {network} holds the address {node} of a node: no route is made to it"
            ));
        }
        if let Some((_, (end, other))) = self.taken.range(..=last).next_back()
            && *end >= first
        {
            return Err(format!("its prefix {network} overlaps one of node {other}: no route is made to it"));
        }
        self.taken.insert(first, (last, owner.to_owned()));
        Ok(())
    }
}

/// First and last address; those of IPv4 are less than those of IPv6.
fn bounds(network: IpNetwork) -> (IpAddr, IpAddr) {
    match network {
        IpNetwork::V4(v4) => (v4.network().into(), v4.broadcast().into()),
        IpNetwork::V6(v6) => (v6.network().into(), v6.broadcast().into()),
    }
}
