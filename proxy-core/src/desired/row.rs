//! The desired state as rows for people: what `sheave render` and the tables print.
//!
//! Must not know a text format.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;
use proxy_common::{Protocol, Scope};

use super::types::{
    Backend, DesiredService, DesiredServicePort, Frontend, FrontendKind, ListKind, ServicePortName, WhenEmpty,
};

/// One frontend in one scope, with what is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendRow<'a> {
    /// Service, port name and protocol.
    pub name: &'a ServicePortName,
    /// How it came to be.
    pub kind: FrontendKind,
    /// Its address; `None` = any address of the node, which nobody has told.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Which clients.
    pub scope: Scope,
    /// Where they are sent, sorted by address and port.
    pub backends: &'a BTreeSet<Backend>,
    /// What they get when there is no backend.
    pub when_empty: WhenEmpty,
    /// Session affinity in seconds; 0 = none.
    pub affinity_seconds: u32,
    /// Admitted clients; empty = all.
    pub source_ranges: &'a [IpNetwork],
}

impl DesiredService {
    /// Its frontends as rows. NodePorts on the host's loopback addresses are left out: they mirror the others for
    /// programs on the node itself.
    pub fn rows(&self) -> impl Iterator<Item = FrontendRow<'_>> {
        self.ports.iter().flat_map(|port| {
            let bound = port.frontends.iter().filter(|frontend| !frontend.host_netns_only);
            let bound = bound.map(|frontend| row(port, frontend, Some(frontend.key.address)));
            bound.chain(port.unbound.iter().map(|frontend| row(port, frontend, None)))
        })
    }
}

impl DesiredServicePort {
    /// The backends that new connections to `frontend` choose from.
    pub fn backends_of(&self, frontend: &Frontend) -> &BTreeSet<Backend> {
        match frontend.list {
            ListKind::Cluster => &self.lists.cluster,
            ListKind::Local => &self.lists.local,
        }
    }
}

fn row<'a>(port: &'a DesiredServicePort, frontend: &'a Frontend, address: Option<IpAddr>) -> FrontendRow<'a> {
    FrontendRow {
        name: &port.name,
        kind: frontend.kind,
        address,
        port: frontend.key.port,
        protocol: frontend.key.protocol,
        scope: frontend.key.scope,
        backends: port.backends_of(frontend),
        when_empty: frontend.when_empty,
        affinity_seconds: port.affinity_seconds,
        source_ranges: &frontend.source_ranges,
    }
}
