//! `healthCheckNodePort`: what a load balancer in front of the nodes is told.
//!
//! Must not know how it is asked.

use super::{
    endpoint::EndpointMap,
    spec::Spec,
    types::{Family, HealthCheck},
};

/// The health check of a Service, if it has one. Only *ready* endpoints on this node count: while all of them
/// terminate, the load balancer must turn away although connections still work.
pub(super) fn health_check(spec: &Spec<'_>, endpoints: &EndpointMap<'_>) -> Option<HealthCheck> {
    let port = spec.health_check_port?;
    let families = spec.cluster_ips.iter().copied().map(Family::of);
    let local_ready = families.map(|family| endpoints.local_ready(family).len()).max().unwrap_or(0);
    Some(HealthCheck { port, local_ready })
}
