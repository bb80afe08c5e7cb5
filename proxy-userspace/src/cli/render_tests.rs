//! What `sheave render` prints for the example in the book, and what it refuses.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::*;

fn example() -> Manifests {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/shop.yaml");
    Manifests::read(&path).unwrap()
}

fn json_of(manifests: &Manifests, node_name: &str) -> Value {
    let (desired, warnings) = decide(manifests, node_name);
    serde_json::to_value(rendered(node_name, &desired, warnings)).unwrap()
}

fn manifests(text: &str) -> Manifests {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m.yaml"), text).unwrap();
    Manifests::read(&folder.path().join("m.yaml")).unwrap()
}

/// The entries of `rendered`, those of one kind, as "address:port scope -> backends or what happens".
fn brief(rendered: &Value, kind: &str) -> Vec<String> {
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let one = |entry: &Value| {
        let backends: Vec<_> =
            entry["backends"].as_array().unwrap().iter().map(|each| each.as_str().unwrap()).collect();
        let target = if backends.is_empty() { text(entry, "whenEmpty") } else { backends.join(" ") };
        format!("{} {} {} -> {target}", text(entry, "address"), entry["port"], text(entry, "scope"))
    };
    let entries = rendered["frontends"].as_array().unwrap();
    entries.iter().filter(|entry| entry["kind"] == kind).map(one).collect()
}

#[test]
fn the_example_renders_as_the_text_in_the_golden_file() {
    assert_eq!(text_of(&example(), "node-1"), include_str!("golden/shop.txt"));
}

#[test]
fn the_example_renders_as_the_json_in_the_golden_file() {
    let golden: Value = serde_json::from_str(include_str!("golden/shop.json")).unwrap();
    assert_eq!(json_of(&example(), "node-1"), golden);
}

#[test]
fn the_page_about_render_shows_the_text_of_the_golden_file() {
    assert!(include_str!("../../../docs/render.md").contains(include_str!("golden/shop.txt")));
}

#[test]
fn keys_come_in_the_documented_order() {
    let (desired, warnings) = decide(&example(), "node-1");
    let text = serde_json::to_string(&rendered("node-1", &desired, warnings)).unwrap();
    let keys = [
        "node",
        "frontends",
        "service",
        "portName",
        "kind",
        "address",
        "port",
        "protocol",
        "scope",
        "backends",
        "whenEmpty",
        "affinitySeconds",
        "sourceRanges",
    ];
    let places: Vec<_> = keys.iter().map(|key| text.find(&format!("\"{key}\":")).unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert!(text.find("\"healthCheckNodePorts\"").unwrap() < text.find("\"warnings\"").unwrap());
}

#[test]
fn a_node_without_local_backends_drops_outside_clients_and_serves_inside_ones() {
    let rendered = json_of(&example(), "node-3");
    assert_eq!(
        brief(&rendered, "LoadBalancer"),
        ["192.0.2.200 443 internal -> 10.244.1.5:8443 10.244.2.5:8443", "192.0.2.200 443 external -> drop"]
    );
    assert_eq!(
        brief(&rendered, "NodePort"),
        ["* 30443 internal -> 10.244.1.5:8443 10.244.2.5:8443", "* 30443 external -> drop"]
    );
    assert_eq!(
        rendered["healthCheckNodePorts"],
        json!([{"service": "shop/checkout", "port": 31020, "localReady": 0}])
    );
    assert_eq!(
        rendered["warnings"],
        json!([r#"Node node-3 is not in the manifests: "*" stands for its addresses"#])
    );
}

#[test]
fn without_its_node_the_text_has_a_star_for_the_address() {
    let text = text_of(&example(), "node-3");
    assert!(text.contains("\n*:30443/TCP external -> drop keep 10.244.1.5:8443 10.244.2.5:8443\n"), "{text}");
    assert!(!text.contains("0.0.0.0"), "{text}");
}

#[test]
fn the_order_of_documents_does_not_matter() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/shop.yaml");
    let text = fs::read_to_string(path).unwrap();
    let mut documents: Vec<_> = text.split("\n---\n").collect();
    documents.reverse();
    assert_eq!(json_of(&manifests(&documents.join("\n---\n")), "node-1"), json_of(&example(), "node-1"));
}

#[test]
fn problems_of_the_manifests_and_of_the_objects_are_both_warnings() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  clusterIP: 10.96.0.1\n  \
                externalIPs: [nonsense]\n  ports: [{port: 80}]\n---\napiVersion: v1\nkind: Service\n";
    let rendered = json_of(&manifests(text), "n");
    let warnings: Vec<_> =
        rendered["warnings"].as_array().unwrap().iter().map(|each| each.as_str().unwrap()).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].ends_with("m.yaml:9: Service without a metadata.name that is text"), "{warnings:?}");
    assert!(warnings[1].contains("default/a") && warnings[1].contains("spec.externalIPs[0]"), "{warnings:?}");
    assert_eq!(brief(&rendered, "ClusterIP"), ["10.96.0.1 80 internal -> reject"]);
}

#[test]
fn manifests_of_which_nothing_can_be_used_are_an_error_and_empty_ones_are_not() {
    let error = refuse_rubble(&manifests("a: [\n")).unwrap_err().to_string();
    assert!(error.contains("nothing in the manifests can be used") && error.contains("m.yaml:"), "{error}");
    assert!(refuse_rubble(&manifests("# nothing\n")).is_ok());
    assert!(refuse_rubble(&manifests("apiVersion: v1\nkind: Pod\n")).is_ok());
}

#[test]
fn a_dual_stack_node_port_without_its_node_is_one_entry_for_each_scope() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, clusterIPs: [10.96.0.1, 'fd00:10:96::1'], ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.0.1]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{port: 8080}]
endpoints: [{addresses: ['2001:db8::1']}]
";
    let rendered = json_of(&manifests(text), "node-1");
    let expected = ["internal", "external"]
        .map(|scope| format!("* 30080 {scope} -> 10.244.0.1:8080 [2001:db8::1]:8080"));
    assert_eq!(brief(&rendered, "NodePort"), expected);
}
