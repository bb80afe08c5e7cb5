//! What becomes of texts and sets of files.

use std::fs;

use super::*;

const MIXED: &str = r#"# nothing but a comment
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.10
  ports: [{port: 80}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: shop
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
--- {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
"#;

fn read(text: &str) -> Manifests {
    read_as("a.yaml", text)
}

fn read_as(file: &str, text: &str) -> Manifests {
    Manifests::merge([(file, &parse::content(file, text.as_bytes()))])
}

fn problems(manifests: &Manifests) -> Vec<String> {
    manifests.problems.iter().map(ToString::to_string).collect()
}

fn services(manifests: &Manifests) -> Vec<String> {
    manifests.services.keys().map(ToString::to_string).collect()
}

fn service(name: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: 10.96.0.1\n  \
         ports:\n  - name: p\n    port: {port}\n"
    )
}

#[test]
fn a_mix_of_documents_gives_its_objects_and_counts_the_kinds_that_do_not_matter() {
    let manifests = read(MIXED);
    assert_eq!(problems(&manifests), [] as [String; 0]);
    assert_eq!(services(&manifests), ["default/web"]);
    assert_eq!(manifests.slices.keys().map(ToString::to_string).collect::<Vec<_>>(), ["shop/web-1"]);
    assert_eq!(manifests.nodes.keys().collect::<Vec<_>>(), ["n1"]);
    assert_eq!(manifests.ignored, 1);
}

#[test]
fn an_unnamed_port_of_a_slice_gets_the_empty_name_as_from_an_api_server() {
    let manifests = read(MIXED);
    let slice = manifests.slices.values().next().unwrap();
    assert_eq!(slice.ports[0].name.as_deref(), Some(""));
}

#[test]
fn objects_of_other_groups_with_our_kinds_are_ignored() {
    let manifests = read(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: nonsense}\n",
    );
    assert_eq!((manifests.services.len(), manifests.ignored, manifests.problems.len()), (0, 1, 0));
}

#[test]
fn lists_give_their_items_also_where_only_the_list_says_the_kind() {
    let item = r#"{"metadata": {"name": "a", "namespace": "x"}, "spec": {"clusterIP": "None"}}"#;
    let list = format!(r#"{{"apiVersion": "v1", "kind": "ServiceList", "items": [{item}]}}"#);
    assert_eq!(services(&read(&list)), ["x/a"]);
    let nested = format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{list}, {list}]}}"#);
    assert_eq!(services(&read(&nested)), ["x/a"]);
    let empty = read("apiVersion: discovery.k8s.io/v1\nkind: EndpointSliceList\nitems: null\n");
    assert_eq!(problems(&empty), [] as [String; 0]);
}

#[test]
fn lists_that_contain_each_other_too_deeply_are_refused() {
    let mut list = String::from("{apiVersion: v1, kind: List, items: []}");
    for _ in 0..6 {
        list = format!("{{apiVersion: v1, kind: List, items: [{list}]}}");
    }
    assert_eq!(problems(&read(&list)), ["a.yaml:1: too many lists inside lists"]);
}

#[test]
fn json_objects_may_follow_each_other_and_be_indented_with_tabs() {
    let one = |name: &str| {
        format!(
            "{{\n\t\"apiVersion\":\"v1\",\n\t\"kind\":\"Service\",\n\t\"metadata\":{{\"name\":\"{name}\"}},\n\t\"spec\":{{\"clusterIP\":\"None\"}}\n}}\n"
        )
    };
    let manifests = read_as("a.json", &format!("{}{}", one("a"), one("b\",\"bad\":\"é\\u00e9\\/")));
    assert_eq!(problems(&manifests), [] as [String; 0]);
    assert_eq!(services(&manifests), ["default/a", "default/b"]);
}

#[test]
fn a_wrong_field_is_told_with_its_line_and_path_and_spoils_only_its_object() {
    let text = format!("{}---\n{}---\n{}", service("a", "80"), service("b", "eighty"), service("c", "80"));
    let manifests = read(&text);
    assert_eq!(services(&manifests), ["default/a", "default/c"]);
    let told = problems(&manifests);
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with("a.yaml:19: Service b: spec.ports[0].port: invalid type: string"),
        "{told:?}"
    );
}

#[test]
fn a_wrong_item_of_a_list_is_told_with_its_own_line() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  \
                spec: {clusterIP: None}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: b}\n  spec:\n    \
                externalIPs: 192.0.2.1\n- apiVersion: v1\n  kind: Node\n- nonsense\n";
    let manifests = read(text);
    assert_eq!(services(&manifests), ["default/a"]);
    let told = problems(&manifests);
    assert!(told[0].starts_with("a.yaml:12: Service b: spec.externalIPs: invalid type: string"), "{told:?}");
    assert_eq!(told[1], "a.yaml:13: Node without a metadata.name that is text");
    assert_eq!(told[2], "a.yaml:15: no Kubernetes object: it has no kind");
}

#[test]
fn a_syntax_error_is_told_with_its_line_and_spoils_only_its_document() {
    let text =
        format!("{}---\nkind: Service\n  bad: [indent\n---\n{}", service("a", "80"), service("c", "80"));
    let manifests = read(&text);
    assert_eq!(services(&manifests), ["default/a", "default/c"]);
    let told = problems(&manifests);
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("a.yaml:12: ") || told[0].starts_with("a.yaml:13: "), "{told:?}");
}

#[test]
fn a_syntax_error_in_json_is_told_with_its_line() {
    let manifests = read_as("a.json", "{\n \"kind\": \"Service\",\n \"metadata\": {]\n}\n");
    let told = problems(&manifests);
    assert!(told.len() == 1 && told[0].starts_with("a.json:3: "), "{told:?}");
}

#[test]
fn bytes_that_are_no_text_are_told_with_their_line() {
    let content = parse::content("a.yaml", b"kind: x\n\xff\n");
    assert_eq!(problems(&Manifests::merge([("a.yaml", &content)])), ["a.yaml:2: this is not UTF-8 text"]);
}

#[test]
fn an_old_version_of_a_known_kind_is_told_and_not_guessed() {
    let told =
        problems(&read("apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: a}\n"));
    let expected = r#"a.yaml:1: EndpointSlice a: apiVersion "discovery.k8s.io/v1beta1" is not known, write discovery.k8s.io/v1"#;
    assert_eq!(told, [expected]);
}

#[test]
fn remarks_do_not_cost_the_object() {
    let manifests = read("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n");
    assert_eq!(services(&manifests), ["default/a"]);
    assert!(!manifests.problems[0].broken);
    assert!(problems(&manifests)[0].contains("no spec.clusterIP"), "{manifests:?}");
}

#[test]
fn of_two_objects_with_one_name_the_later_wins_with_a_remark_that_names_both_places() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), service("web", "80")).unwrap();
    fs::write(folder.path().join("b.yaml"), format!("\n{}", service("web", "81"))).unwrap();
    let manifests = Manifests::read(folder.path()).unwrap();
    assert_eq!(manifests.services.values().next().unwrap().ports[0].port, 81);
    let place = folder.path().display();
    let expected = format!("{place}/b.yaml:2: Service default/web replaces the one at {place}/a.yaml:1");
    assert_eq!(problems(&manifests), [expected]);
}

#[test]
fn a_broken_file_does_not_spoil_the_others_and_a_missing_path_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), "{{{").unwrap();
    fs::write(folder.path().join("b.yaml"), service("web", "80")).unwrap();
    let manifests = Manifests::read(folder.path()).unwrap();
    assert_eq!(services(&manifests), ["default/web"]);
    assert!(manifests.problems[0].broken);
    assert!(Manifests::read(&folder.path().join("none")).is_err());
}

#[test]
fn ten_thousand_services_in_one_list_are_no_trouble() {
    let item = |i| {
        format!("- {{apiVersion: v1, kind: Service, metadata: {{name: s{i}}}, spec: {{clusterIP: None}}}}\n")
    };
    let items: Vec<_> = (0..10_000).map(item).collect();
    let text = format!("apiVersion: v1\nkind: List\nitems:\n{}", items.concat());
    let manifests = read(&text);
    assert_eq!((manifests.services.len(), manifests.problems.len()), (10_000, 0));
}
