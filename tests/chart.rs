//! The Helm chart, by helm itself, and the manifest that is rendered from it: `cargo xtask test chart`.
//!
//! What the API server says of it is in the class `apiserver`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Output};

use proxy_userspace::config::{self, Layers, SETTINGS};
use serde_json::{Value, json};
use sheave_tests::deployment::{manifest, object, objects, path};

/// Where `cargo xtask test chart` puts it.
const HELM: &str = "target/helm/helm";

/// The chart with further arguments, as the manifest is rendered.
fn template(arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut helm = Command::new(path(HELM).unwrap());
    for variable in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
        helm.env(variable, home.path());
    }
    helm.env_remove("KUBECONFIG").current_dir(path(".").unwrap());
    helm.args(["template", "sheave", "deploy/helm/sheave", "--namespace", "kube-system"]);
    helm.args(arguments).output().unwrap_or_else(|error| panic!("{HELM}: {error}: cargo xtask test chart"))
}

fn rendered(arguments: &[&str]) -> Vec<Value> {
    let output = template(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    objects(&String::from_utf8(output.stdout).unwrap()).unwrap()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// The agent's configuration file.
fn agent_file(objects: &[Value]) -> String {
    of_kind(objects, "ConfigMap")["data"]["agent.yaml"].as_str().unwrap().to_owned()
}

/// What the agent makes of that file: each setting that it sets.
fn agent_settings(file: &str) -> BTreeMap<&'static str, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.yaml");
    fs::write(&path, file).unwrap();
    let loaded = config::load(&Layers { file: Some(path), ..Layers::default() });
    let loaded = loaded.unwrap_or_else(|error| panic!("{error}\n{file}"));
    let set = loaded.resolved.into_iter().filter(|it| it.origin == config::Origin::File);
    set.filter_map(|it| Some((it.setting.name, it.value?))).collect()
}

#[test]
fn the_manifest_is_what_helm_renders() {
    assert_eq!(rendered(&[]), manifest().unwrap());
}

#[test]
fn with_its_own_values_the_chart_changes_no_setting_of_the_agent_but_pods_are_its_own() {
    for (name, value) in agent_settings(&agent_file(&rendered(&[]))) {
        let setting = SETTINGS.iter().find(|setting| setting.name == name).unwrap();
        let wanted = if name == "pod-network" { Some("true".to_owned()) } else { setting.default.text() };
        assert_eq!(Some(value), wanted, "{name}");
    }
}

#[test]
fn values_become_settings_of_the_agent() {
    let cases: [(&[&str], &str, &str); 13] = [
        (&["--set", "socketLB.enabled=false"], "socket-lb", "off"),
        (&["--set", "socketLB.hostNamespaceOnly=true"], "socket-lb", "host"),
        (&["--set", "k8sServiceHost=192.0.2.1"], "api-servers", "https://192.0.2.1:6443"),
        (&["--set", "k8sServiceHost=2001:db8::1"], "api-servers", "https://[2001:db8::1]:6443"),
        (
            &["--set", "k8s.apiServerURLs={https://192.0.2.1:6443,https://192.0.2.2:6443}"],
            "api-servers",
            "https://192.0.2.1:6443,https://192.0.2.2:6443",
        ),
        (&["--set", "bpf.flowsMax=4194304"], "flows-max", "4194304"),
        (&["--set", "podNetwork.routing=vxlan"], "routing", "vxlan"),
        (&["--set", "podNetwork.mtu=1400"], "pod-mtu", "1400"),
        (&["--set", "masquerade.enabled=true"], "masquerade", "true"),
        (&["--set", "masquerade.nonMasqueradeCIDRs={192.0.2.0/24}"], "non-masquerade-cidrs", "192.0.2.0/24"),
        (&["--set", "prometheus.enabled=true"], "metrics-address", "0.0.0.0:10249"),
        (&["--set", "extraConfig.affinity-max=33554432"], "affinity-max", "33554432"),
        (
            &["--set", "podNetwork.enabled=false", "--set-string", "clusterCIDR=10.244.0.0/16"],
            "cluster-cidr",
            "10.244.0.0/16",
        ),
    ];
    for (arguments, setting, wanted) in cases {
        let settings = agent_settings(&agent_file(&rendered(arguments)));
        assert_eq!(settings.get(setting).map(String::as_str), Some(wanted), "{arguments:?}");
    }
}

#[test]
fn a_value_that_cannot_be_right_is_refused_by_its_name() {
    let cases = [
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.digest=sha256:abc", "digest"),
        ("k8sServicePort=0", "k8sServicePort"),
        ("k8sServiceHost=https://192.0.2.1", "k8sServiceHost"),
        ("k8s.apiServerURLs={192.0.2.1:6443}", "apiServerURLs"),
        ("podNetwork.routing=bgp", "routing"),
        ("podNetwork.mtu=900", "mtu"),
        ("podNetwork.vxlanVNI=16777216", "vxlanVNI"),
        ("cni.confName=05-sheave.conf", "confName"),
        ("cni.binPath=opt/cni/bin", "binPath"),
        ("bpf.lbMapMax=1", "lbMapMax"),
        ("nodePort.range=30000", "range"),
        ("health.port=65536", "port"),
        ("health.adress=0.0.0.0", "adress"),
        ("log.format=xml", "format"),
        ("updateStrategy.type=Recreate", "updateStrategy"),
        ("socketLb.enabled=true", "socketLb"),
        ("extraArgs={log-level}", "extraArgs"),
    ];
    for (value, name) in cases {
        let output = template(&["--set", value]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{value} is taken");
        assert!(error.contains(name), "{value}: {error}");
    }
}

#[test]
fn every_value_is_in_the_schema_and_the_other_way_round() {
    let values = fs::read_to_string(path("deploy/helm/sheave/values.yaml").unwrap()).unwrap();
    let schema = fs::read_to_string(path("deploy/helm/sheave/values.schema.json").unwrap()).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let values = objects(&values).unwrap().remove(0);
    let (mut of_values, mut of_schema) = (BTreeSet::new(), BTreeSet::new());
    value_names("", &values, &schema, &mut of_values);
    schema_names("", &schema, &mut of_schema);
    // What helm gives to charts that are part of another one.
    of_schema.remove("global");
    assert_eq!(of_values, of_schema);
}

/// The paths of the values that the schema does not leave to somebody else's.
fn value_names(prefix: &str, value: &Value, schema: &Value, names: &mut BTreeSet<String>) {
    for (key, value) in value.as_object().unwrap() {
        let (name, schema) = (format!("{prefix}{key}"), &schema["properties"][key]);
        match schema.get("additionalProperties") {
            Some(Value::Bool(false)) => value_names(&format!("{name}."), value, schema, names),
            _ => drop(names.insert(name)),
        }
    }
}

fn schema_names(prefix: &str, schema: &Value, names: &mut BTreeSet<String>) {
    for (key, schema) in schema["properties"].as_object().unwrap() {
        let name = format!("{prefix}{key}");
        match schema.get("additionalProperties") {
            Some(Value::Bool(false)) => schema_names(&format!("{name}."), schema, names),
            _ => drop(names.insert(name)),
        }
    }
}

#[test]
fn the_documentation_names_every_value() {
    let page = fs::read_to_string(path("docs/install.md").unwrap()).unwrap();
    let schema = fs::read_to_string(path("deploy/helm/sheave/values.schema.json").unwrap()).unwrap();
    let mut names = BTreeSet::new();
    schema_names("", &serde_json::from_str(&schema).unwrap(), &mut names);
    names.remove("global");
    let missing: Vec<&String> = names.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_pods_run_on_every_node_before_all_others_in_the_node_s_network() {
    let daemon_set = object("DaemonSet").unwrap();
    let pod = &daemon_set["spec"]["template"]["spec"];
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]));
    assert_eq!(pod["nodeSelector"], json!({ "kubernetes.io/os": "linux" }));
    assert_eq!((&pod["hostNetwork"], &pod["hostPID"]), (&json!(true), &json!(true)));
    let agent = &pod["containers"][0];
    // Neither restarts an agent because the API server is away.
    for probe in ["startupProbe", "livenessProbe"] {
        assert_eq!(agent[probe]["httpGet"]["path"], "/livez");
    }
    assert_eq!(agent["readinessProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(agent["env"][0]["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
}

#[test]
fn no_container_is_privileged_and_each_has_just_the_capabilities_that_the_documentation_explains() {
    let daemon_set = object("DaemonSet").unwrap();
    let pod = &daemon_set["spec"]["template"]["spec"];
    let wanted = BTreeMap::from([
        ("mount-bpffs", json!(["SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE"])),
        ("agent", json!(["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN", "SYS_PTRACE"])),
        ("install-cni", Value::Null),
    ]);
    let lists = ["initContainers", "containers"].map(|list| pod[list].as_array().unwrap());
    let containers = lists.into_iter().flatten();
    let found: BTreeMap<&str, Value> = containers
        .map(|container| {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
            assert!(context["privileged"].is_null());
            (container["name"].as_str().unwrap(), context["capabilities"]["add"].clone())
        })
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn the_agent_sees_what_is_mounted_on_the_node_after_it_was_started() {
    let daemon_set = object("DaemonSet").unwrap();
    let mounts = daemon_set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
    for path in ["/sys/fs/bpf", "/run/netns", "/var/run/netns"] {
        let mount = mounts.iter().find(|mount| mount["mountPath"] == path).unwrap();
        assert_eq!(mount["mountPropagation"], "HostToContainer", "{path}");
    }
}

#[test]
fn without_pod_network_nothing_of_cni_is_installed_nor_mounted() {
    let objects = rendered(&["--set", "podNetwork.enabled=false"]);
    let pod = &of_kind(&objects, "DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    assert!(!pod["volumes"].to_string().contains("cni"), "{}", pod["volumes"]);
    assert_eq!(agent_settings(&agent_file(&objects))["pod-network"], "false");
}

#[test]
fn another_configuration_is_another_pod() {
    let annotation = |arguments: &[&str]| {
        let objects = rendered(arguments);
        of_kind(&objects, "DaemonSet")["spec"]["template"]["metadata"]["annotations"]["sheave.io/config"]
            .clone()
    };
    assert_ne!(annotation(&[]), annotation(&["--set", "log.level=debug"]));
    assert_eq!(annotation(&[]), annotation(&["--set", "image.tag=other"]));
}

#[test]
fn the_base_for_kustomize_is_the_manifest() {
    let folder = path("deploy").unwrap();
    let base = objects(&fs::read_to_string(folder.join("kustomization.yaml")).unwrap()).unwrap();
    assert_eq!(base[0]["resources"], json!(["sheave.yaml"]));
    assert!(folder.join("sheave.yaml").exists());
}

#[test]
fn metrics_are_offered_to_the_prometheus_operator_only_when_asked_for() {
    let has_monitor = |arguments: &[&str]| rendered(arguments).iter().any(|it| it["kind"] == "PodMonitor");
    assert!(!has_monitor(&["--set", "prometheus.podMonitor.enabled=true"]), "without metrics");
    assert!(has_monitor(&["--set", "prometheus.enabled=true,prometheus.podMonitor.enabled=true"]));
}
