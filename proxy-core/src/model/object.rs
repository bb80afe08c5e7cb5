//! The objects, reduced to the fields that decide.
//!
//! Must not judge a field.

use std::net::IpAddr;

use proxy_common::Protocol;

/// Namespace and name of an object; a Node has an empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ObjectName {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectName {
    /// A name from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for ObjectName {
    /// `namespace/name`; a Node's name alone.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServiceObject {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.creationTimestamp` in seconds since 1970; the older of two Services that claim one address wins.
    pub created: Option<i64>,
    /// Label `service.kubernetes.io/service-proxy-name`.
    pub proxy_name: Option<String>,
    /// Label `service.kubernetes.io/headless` is present.
    pub headless_label: bool,
    /// `spec.type`; empty means `ClusterIP`.
    pub service_type: String,
    /// `spec.clusterIP`, used only where `spec.clusterIPs` is empty.
    pub cluster_ip: String,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<String>,
    /// `spec.ports`.
    pub ports: Vec<PortObject>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<String>,
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<IngressObject>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<String>,
    /// `spec.sessionAffinity`; empty means `None`.
    pub session_affinity: String,
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds`.
    pub affinity_seconds: Option<i32>,
    /// `spec.internalTrafficPolicy`; empty means `Cluster`.
    pub internal_policy: String,
    /// `spec.externalTrafficPolicy`; empty means `Cluster`.
    pub external_policy: String,
    /// `spec.healthCheckNodePort`; 0 means none.
    pub health_check_node_port: i32,
}

/// One of `spec.ports` of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PortObject {
    /// `name`; empty for an unnamed port.
    pub name: String,
    /// `protocol`; empty means `TCP`.
    pub protocol: String,
    /// `port`.
    pub port: i32,
    /// `nodePort`; 0 means none.
    pub node_port: i32,
}

/// One of `status.loadBalancer.ingress` of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct IngressObject {
    /// `ip`; empty for a hostname entry.
    pub ip: String,
    /// `ipMode`; absent means `VIP`.
    pub ip_mode: Option<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SliceObject {
    /// Its name.
    pub name: ObjectName,
    /// Label `kubernetes.io/service-name`.
    pub service: Option<String>,
    /// Label `service.kubernetes.io/service-proxy-name`.
    pub proxy_name: Option<String>,
    /// Label `service.kubernetes.io/headless` is present.
    pub headless_label: bool,
    /// `addressType`.
    pub address_type: String,
    /// `ports`.
    pub ports: Vec<SlicePort>,
    /// `endpoints`.
    pub endpoints: Vec<EndpointObject>,
}

/// One of `ports` of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SlicePort {
    /// `name`; absent means that the port is ignored, empty is the unnamed port.
    pub name: Option<String>,
    /// `protocol`; absent means `TCP`.
    pub protocol: Option<String>,
    /// `port`; absent or 0 means that the port is ignored.
    pub port: Option<i32>,
}

/// One of `endpoints` of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EndpointObject {
    /// `addresses`; only the first is used, as the API demands.
    pub addresses: Vec<String>,
    /// `conditions.ready`; absent means true.
    pub ready: Option<bool>,
    /// `conditions.serving`; absent means true, as kube-proxy reads it.
    pub serving: Option<bool>,
    /// `conditions.terminating`; absent means false.
    pub terminating: Option<bool>,
    /// `nodeName`.
    pub node_name: Option<String>,
    /// `hints.forZones`.
    pub for_zones: Vec<String>,
    /// `hints.forNodes`.
    pub for_nodes: Vec<String>,
}

/// The host ports of a pod on this node, as its network attachment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPortsObject {
    /// Whose they are: see [`HostPortsObject::name_of`].
    pub name: ObjectName,
    /// The pod, for people: two attachments may be of pods of one name, while the old one ends.
    pub pod: ObjectName,
    /// Seconds since 1970 of the attachment; the older of two that claim one port wins.
    pub created: i64,
    /// The pod's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The ports.
    pub ports: Vec<HostPort>,
}

impl HostPortsObject {
    /// `pod@attachment` in the pod's namespace: no Service can have such a name.
    pub fn name_of(pod: &ObjectName, attachment: impl std::fmt::Display) -> ObjectName {
        ObjectName::new(pod.namespace.clone(), format!("{}@{attachment}", pod.name))
    }
}

/// A port of the host that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Which address of the host; `None`: all of them.
    pub host_ip: Option<IpAddr>,
    /// On the host.
    pub host_port: u16,
    /// In the pod.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// A Node: the one the agent runs on, or another.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeObject {
    /// `metadata.name`.
    pub name: String,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// It is about to go (KEP-3836): `metadata.deletionTimestamp` is set, or the cluster autoscaler has put its taint
    /// `ToBeDeletedByClusterAutoscaler` on it.
    pub deleting: bool,
    /// `status.addresses`.
    pub addresses: Vec<NodeAddress>,
    /// `spec.podCIDRs`; `spec.podCIDR` where that is empty.
    pub pod_cidrs: Vec<String>,
}

/// One of `status.addresses` of a Node.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeAddress {
    /// `type`: `InternalIP`, `ExternalIP`, `Hostname`...
    pub kind: String,
    /// `address`.
    pub address: String,
}
