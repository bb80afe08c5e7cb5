//! The frontends of every kind of Service, and what happens when nothing is behind them.

use proxy_common::{Protocol, Scope};

use super::objects::*;
use crate::{
    desired::{DesiredService, HealthCheck, NodeView, desired_service},
    model::{IngressObject, ServiceObject},
};

fn two_places() -> [crate::model::SliceObject; 1] {
    [slice("a-1", "a", vec![endpoint("10.1.0.1", HERE), endpoint("10.1.0.2", ELSEWHERE)])]
}

#[test]
fn a_cluster_ip_answers_inside_only_and_owns_its_address() {
    let found = desired(&service("a", &["10.96.0.1"]), &two_places());
    assert_eq!(rows(&found), ["ClusterIP 10.96.0.1:80/TCP internal -> 10.1.0.1:8080 10.1.0.2:8080 | reject"]);
    let frontend = &found.ports[0].frontends[0];
    assert!(frontend.owns_address && !frontend.host_netns_only);
    assert_eq!(complaints(&found), [""; 0]);
}

#[test]
fn an_old_object_with_only_cluster_ip_is_understood() {
    let old = ServiceObject { cluster_ip: "10.96.0.1".into(), ..service("a", &[]) };
    assert_eq!(
        rows(&desired(&old, &two_places())),
        rows(&desired(&service("a", &["10.96.0.1"]), &two_places()))
    );
}

#[test]
fn a_node_port_answers_on_the_nodes_addresses_in_both_scopes() {
    let found = desired(&typed("a", "NodePort", &["10.96.0.1"]), &two_places());
    let both = "10.1.0.1:8080 10.1.0.2:8080";
    let wanted = [
        format!("ClusterIP 10.96.0.1:80/TCP internal -> {both} | reject"),
        format!("NodePort 192.0.2.1:30080/TCP external -> {both} | reject"),
        format!("NodePort 192.0.2.1:30080/TCP internal -> {both} | reject"),
    ];
    assert_eq!(rows(&found), wanted);
    assert!(found.ports[0].unbound.is_empty());
}

#[test]
fn a_node_port_on_loopback_is_for_the_host_only_inside_only_and_not_shown() {
    let found = desired(&typed("a", "NodePort", &["10.96.0.1", "fd96::1"]), &two_places());
    let mut host_only = Vec::new();
    for port in &found.ports {
        for frontend in port.frontends.iter().filter(|frontend| frontend.host_netns_only) {
            assert_eq!((frontend.key.scope, frontend.owns_address), (Scope::Internal, false));
            host_only.push(format!("{}:{}", frontend.key.address, frontend.key.port));
        }
    }
    assert_eq!(host_only, ["127.0.0.1:30080", "::1:30080"]);
    assert!(found.rows().all(|row| row.address.is_none_or(|address| !address.is_loopback())));
}

#[test]
fn a_node_port_without_known_addresses_is_shown_as_any_and_programmed_nowhere() {
    let found = desired_service(&typed("a", "NodePort", &["10.96.0.1"]), &two_places(), &NodeView::default());
    let lines = rows(&found);
    assert!(lines[1].starts_with("NodePort *:30080/TCP external"), "{lines:?}");
    assert!(lines[2].starts_with("NodePort *:30080/TCP internal"), "{lines:?}");
    assert!(found.ports[0].frontends.iter().all(|frontend| !frontend.key.address.is_unspecified()));
    // A Node without addresses is something else: nothing serves.
    let found = desired_service(&typed("a", "NodePort", &["10.96.0.1"]), &two_places(), &view(&[]));
    assert_eq!(rows(&found).len(), 1);
}

#[test]
fn a_load_balancer_without_node_ports_still_has_its_virtual_ip() {
    let mut object = typed("a", "LoadBalancer", &["10.96.0.1"]);
    object.ports[0].node_port = 0;
    object.ingress = vec![ingress("203.0.113.1")];
    let lines = rows(&desired(&object, &two_places()));
    let kinds: Vec<&str> = lines.iter().map(|line| line.split(" ->").next().unwrap()).collect();
    let wanted = [
        "ClusterIP 10.96.0.1:80/TCP internal",
        "LoadBalancer 203.0.113.1:80/TCP external",
        "LoadBalancer 203.0.113.1:80/TCP internal",
    ];
    assert_eq!(kinds, wanted);
}

#[test]
fn only_ingress_entries_with_an_ip_in_vip_mode_make_frontends() {
    let entry =
        |ip: &str, mode: Option<&str>| IngressObject { ip: ip.into(), ip_mode: mode.map(str::to_owned) };
    let mut object = typed("a", "LoadBalancer", &["10.96.0.1"]);
    object.ingress = vec![
        entry("203.0.113.1", Some("VIP")),
        entry("203.0.113.2", Some("Proxy")),
        entry("", None),
        entry("203.0.113.3", None),
        entry("203.0.113.4", Some("Magic")),
    ];
    let found = desired(&object, &two_places());
    let lines = rows(&found);
    let served: Vec<&str> =
        lines.iter().filter_map(|line| line.strip_prefix("LoadBalancer ")?.split(':').next()).collect();
    assert_eq!(served, ["203.0.113.1", "203.0.113.1", "203.0.113.3", "203.0.113.3"]);
    assert_eq!(complaints(&found), ["status.loadBalancer.ingress[4].ipMode InvalidField"]);
    // A status left over from a former type means nothing.
    object.service_type = "ClusterIP".into();
    assert_eq!(rows(&desired(&object, &two_places())).len(), 1);
}

#[test]
fn external_ips_work_with_every_type_and_may_be_a_nodes_own() {
    let mut object = service("a", &["10.96.0.1"]);
    object.external_ips = strings(&["192.0.2.1", "203.0.113.9"]);
    let lines = rows(&desired(&object, &two_places()));
    assert_eq!(lines.len(), 5);
    assert!(lines[1].starts_with("ExternalIP 192.0.2.1:80/TCP external"), "{lines:?}");
}

#[test]
fn headless_and_external_name_services_make_nothing_although_slices_exist() {
    for object in [
        service("a", &["None"]),
        ServiceObject { cluster_ip: "None".into(), ..service("a", &[]) },
        typed("a", "ExternalName", &[]),
        // What is left over from a former type counts for nothing.
        ServiceObject {
            external_ips: strings(&["203.0.113.1"]),
            ..typed("a", "ExternalName", &["10.96.0.1"])
        },
        ServiceObject { external_ips: strings(&["203.0.113.1"]), ..service("a", &["None"]) },
    ] {
        assert_eq!(desired(&object, &two_places()), DesiredService::default());
    }
}

#[test]
fn a_service_without_an_address_does_nothing_and_says_why() {
    for cluster_ips in [&[][..], &[""][..]] {
        let mut object = typed("a", "NodePort", cluster_ips);
        object.external_ips = strings(&["203.0.113.1"]);
        let found = desired(&object, &two_places());
        assert_eq!((found.ports.len(), complaints(&found)), (0, strings(&["spec.clusterIPs InvalidField"])));
    }
}

#[test]
fn families_are_independent() {
    let object = typed("a", "NodePort", &["10.96.0.1", "fd96::1"]);
    let found = desired(&object, &two_places());
    let lines = rows(&found);
    assert!(lines.contains(&"ClusterIP fd96::1:80/TCP internal ->  | reject".to_owned()), "{lines:?}");
    assert!(lines.contains(&"NodePort fd01::1:30080/TCP external ->  | reject".to_owned()), "{lines:?}");
    let only_v6 = desired(&typed("a", "NodePort", &["fd96::1"]), &two_places());
    assert!(rows(&only_v6).iter().all(|line| line.contains("fd")), "{only_v6:?}");
    let v6 = [slice6("a-6", "a", vec![endpoint("fd02::1", HERE)])];
    assert!(
        rows(&desired(&object, &v6))
            .contains(&"ClusterIP fd96::1:80/TCP internal -> [fd02::1]:8080 | reject".to_owned())
    );
}

#[test]
fn external_addresses_of_a_family_without_cluster_ip_are_refused() {
    let mut object = typed("a", "LoadBalancer", &["10.96.0.1"]);
    object.external_ips = strings(&["fd00::5", "203.0.113.5"]);
    object.ingress = vec![ingress("fd00::6"), ingress("203.0.113.6")];
    let found = desired(&object, &two_places());
    assert!(rows(&found).iter().all(|line| !line.contains("fd00")));
    assert_eq!(rows(&found).len(), 7);
    let wanted = ["spec.externalIPs[0] InvalidField", "status.loadBalancer.ingress[0].ip InvalidField"];
    assert_eq!(complaints(&found), wanted);
}

#[test]
fn protocols_share_a_port_number_and_a_name() {
    let mut object = typed("a", "NodePort", &["10.96.0.1"]);
    object.ports = vec![
        port("dns", "TCP", 53, 30_053),
        port("dns", "UDP", 53, 30_053),
        port("assoc", "SCTP", 53, 30_053),
    ];
    let mut slices = two_places();
    slices[0].ports = vec![slice_port("dns", "UDP", 5353), slice_port("dns", "TCP", 5454)];
    let found = desired(&object, &slices);
    let protocols: Vec<Protocol> = found.ports.iter().map(|port| port.name.protocol).collect();
    assert_eq!(protocols, [Protocol::Sctp, Protocol::Tcp, Protocol::Udp]);
    let lines = rows(&found);
    assert_eq!(lines.len(), 9);
    assert!(
        lines.contains(
            &"ClusterIP 10.96.0.1:53/UDP internal -> 10.1.0.1:5353 10.1.0.2:5353 | reject".to_owned()
        )
    );
    assert!(
        lines.contains(
            &"ClusterIP 10.96.0.1:53/TCP internal -> 10.1.0.1:5454 10.1.0.2:5454 | reject".to_owned()
        )
    );
    assert!(lines.contains(&"ClusterIP 10.96.0.1:53/SCTP internal ->  | reject".to_owned()));
    assert_eq!(complaints(&found), [""; 0]);
}

/// Policies (internal, external), endpoints, and per row: what is behind the ClusterIP, the NodePort from inside and
/// from outside.
#[test]
fn policies_choose_the_list_and_decide_between_reject_and_drop() {
    let (here, there, both) = ("10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.1:8080 10.1.0.2:8080");
    let cases = [
        ("", "", both, [(both, "reject"), (both, "reject"), (both, "reject")]),
        ("Cluster", "Local", both, [(both, "reject"), (both, "reject"), (here, "drop")]),
        ("Local", "Cluster", both, [(here, "drop"), (both, "reject"), (both, "reject")]),
        ("Local", "Local", both, [(here, "drop"), (both, "reject"), (here, "drop")]),
        ("Local", "Local", there, [("", "drop"), (there, "reject"), ("", "drop")]),
        ("Local", "Local", "", [("", "reject"), ("", "reject"), ("", "reject")]),
        ("Cluster", "Cluster", "", [("", "reject"), ("", "reject"), ("", "reject")]),
        // An unknown policy is Cluster, with a warning.
        ("local", "Nearby", there, [(there, "reject"), (there, "reject"), (there, "reject")]),
    ];
    for (internal, external, endpoints, [cluster_ip, inside, outside]) in cases {
        let mut object = typed("a", "NodePort", &["10.96.0.1"]);
        (object.internal_policy, object.external_policy) = (internal.into(), external.into());
        let mut slices = two_places();
        slices[0].endpoints.retain(|endpoint| endpoints.contains(&endpoint.addresses[0]));
        let wanted = [
            ("ClusterIP 10.96.0.1:80/TCP internal", cluster_ip),
            ("NodePort 192.0.2.1:30080/TCP external", outside),
            ("NodePort 192.0.2.1:30080/TCP internal", inside),
        ];
        let wanted = wanted
            .map(|(frontend, (backends, when_empty))| format!("{frontend} -> {backends} | {when_empty}"));
        let found = desired(&object, &slices);
        assert_eq!(rows(&found), wanted, "{internal} {external} {endpoints}");
        assert_eq!(found.warnings.len(), usize::from(external == "Nearby") * 2);
    }
}

#[test]
fn external_policy_local_of_a_pure_cluster_ip_leaves_no_local_list() {
    let object = ServiceObject { external_policy: "Local".into(), ..service("a", &["10.96.0.1"]) };
    let found = desired(&object, &two_places());
    assert_eq!((found.ports[0].lists.cluster.len(), found.ports[0].lists.local.len()), (2, 0));
    let object = ServiceObject { internal_policy: "Local".into(), ..service("a", &["10.96.0.1"]) };
    let found = desired(&object, &two_places());
    assert_eq!((found.ports[0].lists.cluster.len(), found.ports[0].lists.local.len()), (0, 1));
}

#[test]
fn draining_endpoints_elsewhere_make_silence_and_dead_ones_a_refusal() {
    let mut object = typed("a", "NodePort", &["10.96.0.1"]);
    object.external_policy = "Local".into();
    let external = |slices: &[crate::model::SliceObject]| {
        rows(&desired(&object, slices)).into_iter().find(|line| line.contains("external")).unwrap()
    };
    let draining_there = [slice("a-1", "a", vec![draining("10.1.0.2", ELSEWHERE)])];
    assert!(external(&draining_there).ends_with("->  | drop"));
    let dead = conditions(endpoint("10.1.0.2", ELSEWHERE), false, true, false);
    assert!(external(&[slice("a-1", "a", vec![dead])]).ends_with("->  | reject"));
}

#[test]
fn source_ranges_are_for_load_balancer_addresses_only_and_per_family() {
    let mut object = typed("a", "LoadBalancer", &["10.96.0.1", "fd96::1"]);
    object.ingress = vec![ingress("203.0.113.1"), ingress("fd00::6")];
    object.external_ips = strings(&["203.0.113.5"]);
    object.source_ranges = strings(&[" 10.0.0.0/8 "]);
    let found = desired(&object, &[]);
    let restricted: Vec<String> = found
        .rows()
        .filter(|row| !row.source_ranges.is_empty())
        .map(|row| format!("{} {} {}", row.address.unwrap(), row.scope, row.source_ranges[0]))
        .collect();
    assert_eq!(restricted, ["203.0.113.1 internal 10.0.0.0/8", "203.0.113.1 external 10.0.0.0/8"]);
}

#[test]
fn an_address_that_is_both_load_balancer_and_external_ip_keeps_the_source_ranges() {
    let mut object = typed("a", "LoadBalancer", &["10.96.0.1"]);
    object.ports[0].node_port = 0;
    object.ingress = vec![ingress("203.0.113.1")];
    object.external_ips = strings(&["203.0.113.1", "203.0.113.1"]);
    object.source_ranges = strings(&["10.0.0.0/8"]);
    let found = desired(&object, &[]);
    assert_eq!(found.rows().count(), 3);
    assert_eq!(found.rows().filter(|row| !row.source_ranges.is_empty()).count(), 2);
    assert_eq!(complaints(&found), [""; 0]);
}

#[test]
fn health_checks_count_ready_local_addresses_once() {
    let mut object = typed("a", "LoadBalancer", &["10.96.0.1", "fd96::1"]);
    object.ports.push(port("other", "TCP", 81, 30_081));
    object.external_policy = "Local".into();
    object.health_check_node_port = 31_000;
    let mut v4 = slice(
        "a-1",
        "a",
        vec![
            endpoint("10.1.0.1", HERE),
            endpoint("10.1.0.2", HERE),
            endpoint("10.1.0.3", ELSEWHERE),
            draining("10.1.0.4", HERE),
        ],
    );
    v4.ports.push(slice_port("other", "TCP", 8081));
    let v6 = slice6("a-6", "a", vec![endpoint("fd02::1", HERE)]);
    let health = |object: &ServiceObject, slices: &[_]| desired(object, slices).health_check;
    assert_eq!(health(&object, &[v4.clone(), v6]), Some(HealthCheck { port: 31_000, local_ready: 2 }));
    // Traffic still flows to a draining endpoint, but the load balancer must turn away.
    v4.endpoints.retain(|endpoint| endpoint.terminating == Some(true));
    assert_eq!(health(&object, &[v4.clone()]), Some(HealthCheck { port: 31_000, local_ready: 0 }));
    assert_eq!(
        health(&ServiceObject { external_policy: "Cluster".into(), ..object.clone() }, &[v4.clone()]),
        None
    );
    assert_eq!(
        health(&ServiceObject { service_type: "NodePort".into(), ..object.clone() }, &[v4.clone()]),
        None
    );
    assert_eq!(health(&ServiceObject { health_check_node_port: 0, ..object.clone() }, &[v4.clone()]), None);
    let found = desired(&ServiceObject { health_check_node_port: 70_000, ..object }, &[v4]);
    assert_eq!((&found.health_check, complaints(&found).len()), (&None, 1));
}

#[test]
fn affinity_applies_to_every_port() {
    let mut object = service("a", &["10.96.0.1"]);
    object.session_affinity = "ClientIP".into();
    object.ports.push(port("other", "TCP", 81, 0));
    let found = desired(&object, &[]);
    assert_eq!(found.ports.iter().map(|port| port.affinity_seconds).collect::<Vec<_>>(), [10_800, 10_800]);
}
