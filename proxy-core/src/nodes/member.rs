//! What a Node object says of addresses and pods, judged.
//!
//! Must not know other nodes.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::{
    desired::address::{parse_address, parse_network, special_class},
    model::NodeObject,
};

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Member {
    pub(super) name: String,
    /// In the order of `spec.podCIDRs`, without bits after the prefix.
    pub(super) cidrs: Vec<IpNetwork>,
    /// Its first IPv4 address.
    pub(super) v4: Option<IpAddr>,
    /// Its first IPv6 address.
    pub(super) v6: Option<IpAddr>,
    /// What is wrong, a sentence each.
    pub(super) problems: Vec<String>,
}

impl Member {
    pub(super) fn new(node: &NodeObject) -> Self {
        let mut member = Self { name: node.name.clone(), ..Self::default() };
        for text in &node.pod_cidrs {
            match parse_network(text) {
                Some(network) => member.cidrs.push(network),
                None => member.problems.push(format!("spec.podCIDRs has `{text}`, which is not a prefix")),
            }
        }
        for entry in node.addresses.iter().filter(|entry| entry.kind == "InternalIP") {
            member.take_address(&entry.address);
        }
        member
    }

    fn take_address(&mut self, text: &str) {
        match parse_address(text) {
            Some(address) if special_class(address).is_none() => {
                let place = if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
                place.get_or_insert(address);
            }
            _ => self.problems.push(format!(
                "status.addresses has `{text}`, at which no node can be reached: correct the kubelet's --node-ip"
            )),
        }
    }

    /// Its address of the same family.
    pub(super) fn like(&self, is_v4: bool) -> Option<IpAddr> {
        if is_v4 { self.v4 } else { self.v6 }
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.into_iter().chain(self.v6)
    }
}
