//! k8s-openapi objects -> model objects: copies the fields that decide, as the text they are.
//!
//! Pure, and it never fails: judging a field is the core's business. Takes objects by value, so that what is not copied
//! (managed fields, annotations) is freed at once. Must not know where an object came from.

use k8s_openapi::{
    api::{
        core::v1::{LoadBalancerIngress, Node, NodeSpec, Service, ServicePort, ServiceSpec, ServiceStatus},
        discovery::v1::{Endpoint, EndpointHints, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use proxy_core::model::{
    EndpointObject, IngressObject, NodeAddress, NodeObject, ObjectName, PortObject, ServiceObject,
    SliceObject, SlicePort,
};

/// Label of a Service and its slices: another proxy serves it.
pub(super) const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Label of a Service and its slices: no proxy serves it.
pub(super) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Label of an EndpointSlice: the Service it belongs to.
pub(super) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Taint of a Node: the cluster autoscaler is about to delete it.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
/// Label of a Node: its zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Namespace and name.
pub(super) fn name(metadata: &ObjectMeta) -> ObjectName {
    ObjectName::new(metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// A Service.
pub(super) fn service(object: Service) -> ServiceObject {
    let metadata = object.metadata;
    let spec = object.spec.unwrap_or_default();
    ServiceObject {
        name: name(&metadata),
        created: metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        proxy_name: label(&metadata, PROXY_NAME_LABEL),
        headless_label: has_label(&metadata, HEADLESS_LABEL),
        affinity_seconds: affinity_seconds(&spec),
        service_type: spec.type_.unwrap_or_default(),
        cluster_ip: spec.cluster_ip.unwrap_or_default(),
        cluster_ips: list(spec.cluster_ips, same),
        ports: list(spec.ports, service_port),
        external_ips: list(spec.external_ips, same),
        ingress: ingress(object.status),
        source_ranges: list(spec.load_balancer_source_ranges, same),
        session_affinity: spec.session_affinity.unwrap_or_default(),
        internal_policy: spec.internal_traffic_policy.unwrap_or_default(),
        external_policy: spec.external_traffic_policy.unwrap_or_default(),
        health_check_node_port: spec.health_check_node_port.unwrap_or_default(),
    }
}

/// An EndpointSlice.
pub(super) fn slice(object: EndpointSlice) -> SliceObject {
    let metadata = object.metadata;
    SliceObject {
        name: name(&metadata),
        service: label(&metadata, SERVICE_NAME_LABEL),
        proxy_name: label(&metadata, PROXY_NAME_LABEL),
        headless_label: has_label(&metadata, HEADLESS_LABEL),
        address_type: object.address_type,
        ports: list(object.ports, slice_port),
        endpoints: list(object.endpoints, endpoint),
    }
}

/// A Node.
pub(super) fn node(object: Node) -> NodeObject {
    let deleting = is_deleting(&object);
    let pod_cidrs = object.spec.map(pod_cidrs).unwrap_or_default();
    let addresses = object.status.and_then(|status| status.addresses).unwrap_or_default();
    NodeObject {
        zone: label(&object.metadata, ZONE_LABEL),
        name: object.metadata.name.unwrap_or_default(),
        deleting,
        addresses: addresses
            .into_iter()
            .map(|address| NodeAddress { kind: address.type_, address: address.address })
            .collect(),
        pod_cidrs,
    }
}

/// The list; the single prefix of old servers where there is none.
fn pod_cidrs(spec: NodeSpec) -> Vec<String> {
    let listed = spec.pod_cidrs.filter(|list| !list.is_empty());
    listed.unwrap_or_else(|| spec.pod_cidr.filter(|one| !one.is_empty()).into_iter().collect())
}

/// Converts a list into memory of its own, of just the size it needs: `collect` would keep that of the API's elements,
/// which are three times as large and read into a list with room to grow.
fn list<T, U>(elements: Option<Vec<T>>, convert: impl FnMut(T) -> U) -> Vec<U> {
    let elements = elements.unwrap_or_default();
    let mut converted = Vec::with_capacity(elements.len());
    converted.extend(elements.into_iter().map(convert));
    converted
}

fn same<T>(element: T) -> T {
    element
}

fn is_deleting(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    node.metadata.deletion_timestamp.is_some() || taints.iter().any(|taint| taint.key == TO_BE_DELETED_TAINT)
}

fn label(metadata: &ObjectMeta, key: &str) -> Option<String> {
    metadata.labels.as_ref()?.get(key).cloned()
}

fn has_label(metadata: &ObjectMeta, key: &str) -> bool {
    metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(key))
}

fn affinity_seconds(spec: &ServiceSpec) -> Option<i32> {
    spec.session_affinity_config.as_ref()?.client_ip.as_ref()?.timeout_seconds
}

fn service_port(port: ServicePort) -> PortObject {
    PortObject {
        name: port.name.unwrap_or_default(),
        protocol: port.protocol.unwrap_or_default(),
        port: port.port,
        node_port: port.node_port.unwrap_or_default(),
    }
}

fn ingress(status: Option<ServiceStatus>) -> Vec<IngressObject> {
    let entries = status.and_then(|status| status.load_balancer).and_then(|balancer| balancer.ingress);
    let one = |entry: LoadBalancerIngress| IngressObject {
        ip: entry.ip.unwrap_or_default(),
        ip_mode: entry.ip_mode,
    };
    list(entries, one)
}

fn slice_port(port: EndpointPort) -> SlicePort {
    SlicePort { name: port.name, protocol: port.protocol, port: port.port }
}

fn endpoint(endpoint: Endpoint) -> EndpointObject {
    let conditions = endpoint.conditions.unwrap_or_default();
    let EndpointHints { for_nodes, for_zones } = endpoint.hints.unwrap_or_default();
    EndpointObject {
        addresses: list(Some(endpoint.addresses), same),
        ready: conditions.ready,
        serving: conditions.serving,
        terminating: conditions.terminating,
        node_name: endpoint.node_name,
        for_zones: list(for_zones, |zone| zone.name),
        for_nodes: list(for_nodes, |node| node.name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn every_field_of_a_service_that_decides_is_copied_as_it_is_written() {
        let object: Service = from_value(json!({
            "metadata": {"namespace": "shop", "name": "web", "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": {"service.kubernetes.io/service-proxy-name": "other", "service.kubernetes.io/headless": ""}},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"],
                "ports": [{"name": "http", "protocol": "tcp?", "port": 99999, "nodePort": 30080, "targetPort": "web"}],
                "externalIPs": ["not an address"], "loadBalancerSourceRanges": [" 10.0.0.0/8 "],
                "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}},
                "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Cluster", "healthCheckNodePort": 31000},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "Proxy"}, {"hostname": "lb.example"}]}}
        }))
        .unwrap();
        let expected = ServiceObject {
            name: ObjectName::new("shop", "web"),
            created: Some(1_767_323_045),
            proxy_name: Some("other".into()),
            headless_label: true,
            service_type: "LoadBalancer".into(),
            cluster_ip: "10.96.0.9".into(),
            cluster_ips: vec!["10.96.0.9".into(), "fd00::9".into()],
            ports: vec![PortObject {
                name: "http".into(),
                protocol: "tcp?".into(),
                port: 99999,
                node_port: 30080,
            }],
            external_ips: vec!["not an address".into()],
            ingress: vec![
                IngressObject { ip: "192.0.2.1".into(), ip_mode: Some("Proxy".into()) },
                IngressObject::default(),
            ],
            source_ranges: vec![" 10.0.0.0/8 ".into()],
            session_affinity: "ClientIP".into(),
            affinity_seconds: Some(0),
            internal_policy: "Local".into(),
            external_policy: "Cluster".into(),
            health_check_node_port: 31000,
        };
        assert_eq!(service(object), expected);
    }

    #[test]
    fn an_empty_service_becomes_an_empty_object() {
        assert_eq!(service(Service::default()), ServiceObject::default());
    }

    #[test]
    fn absent_conditions_ports_and_hints_of_a_slice_stay_absent() {
        let object: EndpointSlice = from_value(json!({
            "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{}, {"name": "", "port": 8080, "protocol": "UDP"}],
            "endpoints": [{"addresses": ["10.0.0.1", "10.0.0.2"]},
                {"addresses": [], "conditions": {"ready": false, "serving": true, "terminating": true}, "nodeName": "n1",
                 "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}, {"name": "n2"}]}}]
        }))
        .unwrap();
        let expected = SliceObject {
            name: ObjectName::new("shop", "web-1"),
            service: Some("web".into()),
            address_type: "IPv4".into(),
            ports: vec![
                SlicePort::default(),
                SlicePort { name: Some(String::new()), protocol: Some("UDP".into()), port: Some(8080) },
            ],
            endpoints: vec![
                EndpointObject {
                    addresses: vec!["10.0.0.1".into(), "10.0.0.2".into()],
                    ..Default::default()
                },
                EndpointObject {
                    ready: Some(false),
                    serving: Some(true),
                    terminating: Some(true),
                    node_name: Some("n1".into()),
                    for_zones: vec!["a".into()],
                    for_nodes: vec!["n1".into(), "n2".into()],
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        assert_eq!(slice(object), expected);
    }

    #[test]
    fn a_node_gives_its_zone_every_address_and_its_prefixes_of_pods() {
        let object: Node = from_value(json!({
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "n1"}]}
        }))
        .unwrap();
        let address = |kind: &str, address: &str| NodeAddress { kind: kind.into(), address: address.into() };
        let expected = NodeObject {
            name: "n1".into(),
            zone: Some("a".into()),
            deleting: false,
            addresses: vec![address("InternalIP", "192.0.2.7"), address("Hostname", "n1")],
            pod_cidrs: vec!["10.244.1.0/24".into(), "fd00::/64".into()],
        };
        assert_eq!(node(object), expected);
        let old: Node = from_value(json!({"spec": {"podCIDR": "10.244.1.0/24"}})).unwrap();
        assert_eq!(node(old).pod_cidrs, ["10.244.1.0/24"]);
    }

    #[test]
    fn a_node_that_is_deleted_or_that_the_autoscaler_has_marked_is_about_to_go() {
        let cases = [
            (json!({}), false),
            (
                json!({"spec": {"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}}),
                false,
            ),
            (
                json!({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}),
                true,
            ),
            (json!({"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}}), true),
        ];
        for (object, deleting) in cases {
            assert_eq!(node(from_value(object.clone()).unwrap()).deleting, deleting, "{object}");
        }
    }
}
