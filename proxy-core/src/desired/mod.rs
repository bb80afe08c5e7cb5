//! What this node should do: a pure function of the whole model.
//!
//! [`desired_service`] is the decision for one Service, as if it were alone; [`Engine`] keeps all of them up to date and
//! settles which Service owns a frontend that several claim. Must not know the kernel form of anything.
//!
//! The rules are kube-proxy's. Where it leaves a choice, or an object is malformed, this is ours:
//!
//! - A Service has frontends only in the families of its clusterIPs; external addresses of another family are refused
//!   with a warning. A second clusterIP of a family and a second port of one name and protocol are ignored.
//! - `status.loadBalancer` counts only for type LoadBalancer, `nodePort` only for types NodePort and LoadBalancer. An
//!   unknown type is taken as ClusterIP, an unknown traffic policy as Cluster, an unknown affinity as None, an affinity
//!   time-out outside 1..=86400 as absent (10800).
//! - `internalTrafficPolicy: Local` without an endpoint here drops if there is a usable one elsewhere, like
//!   `externalTrafficPolicy: Local`; with no usable endpoint anywhere every frontend rejects.
//! - Source ranges apply to LoadBalancer addresses, in both scopes; a family for which the list says nothing stays open,
//!   but an entry that cannot be read never opens anything (`source_range.rs`).
//! - Copies of an endpoint that disagree: the local one, then the most usable one (`endpoint.rs`).
//! - NodePorts on loopback addresses are not subject to [`NodePortAddresses`].
//! - Host ports of this node's pods are frontends like a Service's; every Service goes before them (`host_port.rs`).
//! - One owner for one address, port, protocol and scope: by kind ([`FrontendKind`]), then age, then name; between ports
//!   of one Service the first (`claims.rs`, `frontend.rs`).

pub(crate) mod address;
mod affinity;
mod categorize;
mod claims;
mod endpoint;
mod engine;
mod field;
mod frontend;
mod health;
mod host_port;
mod node;
mod row;
mod service;
mod settings;
mod source_range;
mod spec;
mod subject;
mod types;

pub use engine::Engine;
pub use node::NodeView;
pub use row::FrontendRow;
pub use service::desired_service;
pub use settings::{NodePortAddresses, Settings};
pub use types::{
    Backend, BackendLists, DesiredService, DesiredServicePort, Family, Frontend, FrontendKey, FrontendKind,
    HealthCheck, ListKind, ServicePortName, Warning, WarningReason, WhenEmpty,
};

#[cfg(test)]
mod tests;
