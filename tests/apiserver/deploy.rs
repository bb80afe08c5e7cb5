//! The manifest that users apply: what the API server says of it, which rights the agent uses, and how it finds the API
//! server from inside a pod.

use std::collections::BTreeSet;
use std::process::Command;

use sheave_tests::controlplane::{Asked, Peculiarities};
use sheave_tests::deployment;

use super::{
    Agent, BpfFs, Cgroup, Cluster, ControlPlane, Duration, NODE, SOON, User, Value, dual_stack, json, sleep,
    wait_for,
};

/// An agent of its own and what it needs.
struct Stage {
    // The order is that of the end.
    agent: Option<Agent>,
    cgroup: Cgroup,
    bpffs: BpfFs,
    cluster: Cluster,
    control_plane: ControlPlane,
}

impl Stage {
    fn new(peculiarities: Peculiarities) -> Self {
        let control_plane = ControlPlane::start_peculiar(peculiarities).unwrap();
        let kubeconfig = control_plane.kubeconfig(User::Admin, control_plane.api_port()).unwrap();
        let cluster = Cluster::new(kubeconfig, SOON).unwrap();
        cluster.create_node(NODE, &["127.0.0.1".parse().unwrap()]).unwrap();
        let (cgroup, bpffs) = (Cgroup::new().unwrap(), BpfFs::new().unwrap());
        Self { agent: None, cgroup, bpffs, cluster, control_plane }
    }

    fn start_agent(&mut self) {
        let kubeconfig = self.control_plane.kubeconfig(User::Agent, self.control_plane.api_port()).unwrap();
        let arguments = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--node-name", NODE];
        let dir = self.control_plane.dir();
        self.agent = Some(Agent::start(&self.cgroup, &self.bpffs, dir, &arguments).unwrap());
    }

    /// One object of each kind that the agent warns of: the Node has an address that serves nothing.
    fn give_reasons_to_warn(&self) {
        for name in ["old", "new"] {
            let mut spec = dual_stack(name);
            spec["externalIPs"] = json!(["203.0.113.7"]);
            self.cluster.create_service(name, &spec).unwrap();
            // Creation times are whole seconds.
            sleep(Duration::from_secs(1));
        }
        let slice = json!({
            "metadata": { "name": "odd", "labels": { "kubernetes.io/service-name": "old" } },
            "addressType": "IPv4",
            "ports": [{ "name": "tcp", "protocol": "TCP", "port": 80 }],
            "endpoints": [{ "addresses": ["255.255.255.255"] }],
        });
        self.cluster.create_slice(slice).unwrap();
    }

    fn wait_for_log(&self, text: &str) {
        let agent = self.agent.as_ref().unwrap();
        wait_for(format!("the agent says {text:?}"), SOON, || Ok(agent.log().contains(text).then_some(())))
            .unwrap_or_else(|error| panic!("{error}: {}", agent.log()));
    }
}

/// The rights of the manifest, one by one: group and resource with a slash between, and verb.
fn granted() -> BTreeSet<(String, String)> {
    let role = deployment::object("ClusterRole").unwrap();
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for (group, resource) in texts(&rule["apiGroups"])
            .iter()
            .flat_map(|group| texts(&rule["resources"]).into_iter().map(move |it| (group.clone(), it)))
        {
            rights
                .extend(texts(&rule["verbs"]).into_iter().map(|verb| (format!("{group}/{resource}"), verb)));
        }
    }
    rights
}

/// As rules of a role.
fn rules(rights: &BTreeSet<(String, String)>) -> Value {
    let rule = |(name, verb): &(String, String)| {
        let (group, resource) = name.split_once('/').unwrap();
        json!({ "apiGroups": [group], "resources": [resource], "verbs": [verb] })
    };
    rights.iter().map(rule).collect()
}

#[test]
fn the_api_server_accepts_every_object_of_the_manifest() {
    let stage = Stage::new(Peculiarities::default());
    for object in deployment::manifest().unwrap() {
        let kind = object["kind"].clone();
        stage.cluster.check(with_another_name(object)).unwrap_or_else(|error| panic!("{kind}: {error:#}"));
    }
    let mut wrong = deployment::object("DaemonSet").unwrap();
    wrong["spec"]["template"]["spec"]["hostPIDs"] = json!(true);
    assert!(stage.cluster.check(wrong).is_err(), "an unknown field is not noticed");
}

/// The tests' own role is there already.
fn with_another_name(mut object: Value) -> Value {
    object["metadata"]["name"] = json!("another");
    object
}

#[test]
fn the_agent_uses_each_right_of_the_manifest_and_asks_for_no_other() {
    let mut stage = Stage::new(Peculiarities { audit: true, no_streaming_lists: true });
    stage.give_reasons_to_warn();
    stage.start_agent();
    let used = |allowed: bool| -> BTreeSet<(String, String)> {
        let asked = stage.control_plane.asked().unwrap().into_iter();
        let asked = asked.filter(|it: &Asked| it.allowed == allowed);
        asked.map(|it| (it.resource, it.verb)).collect()
    };
    let waited = wait_for("every right is used", SOON, || Ok((used(true) == granted()).then_some(())));
    assert_eq!(used(true), granted(), "{waited:?}");
    assert!(used(false).is_empty(), "{:?}", used(false));
    let wanted = ["EndpointSlice", "Node", "Service"].map(|kind| (kind.to_owned(), true));
    wait_for("each kind has an Event that names its object", SOON, || {
        Ok((stage.cluster.kinds_of_events()? == BTreeSet::from(wanted.clone())).then_some(()))
    })
    .unwrap();
}

#[test]
fn without_any_one_right_to_list_or_watch_the_agent_names_what_it_lacks() {
    let mut stage = Stage::new(Peculiarities { audit: false, no_streaming_lists: true });
    let mut needed = granted();
    needed.retain(|(_, verb)| verb == "list" || verb == "watch");
    assert_eq!(needed.len(), 6);
    for (resource, verb) in needed {
        let mut rest = granted();
        rest.remove(&(resource.clone(), verb.clone()));
        stage.cluster.set_rules(&rules(&rest)).unwrap();
        stage.start_agent();
        let name = resource.split('/').next_back().unwrap();
        stage.wait_for_log(&format!("cannot {verb} resource \"{name}\""));
        stage.agent.take().unwrap().kill();
    }
}

#[test]
fn without_the_right_to_create_there_is_no_event() {
    let mut stage = Stage::new(Peculiarities { audit: true, no_streaming_lists: false });
    stage.give_reasons_to_warn();
    let mut rest = granted();
    assert!(rest.remove(&("events.k8s.io/events".to_owned(), "create".to_owned())));
    stage.cluster.set_rules(&rules(&rest)).unwrap();
    stage.start_agent();
    wait_for("the agent may not create an Event", SOON, || {
        let asked = stage.control_plane.asked()?;
        Ok(asked.iter().any(|it| it.verb == "create" && !it.allowed).then_some(()))
    })
    .unwrap();
    assert!(stage.cluster.kinds_of_events().unwrap().is_empty());
}

#[test]
fn without_any_one_right_to_get_no_event_names_an_object_of_that_kind_and_those_of_the_others_do() {
    let mut stage = Stage::new(Peculiarities { audit: false, no_streaming_lists: false });
    stage.give_reasons_to_warn();
    let kinds =
        [("/nodes", "Node"), ("/services", "Service"), ("discovery.k8s.io/endpointslices", "EndpointSlice")];
    let mut seen = BTreeSet::new();
    for (resource, kind) in kinds {
        let mut rest = granted();
        assert!(rest.remove(&(resource.to_owned(), "get".to_owned())), "{resource}");
        stage.cluster.set_rules(&rules(&rest)).unwrap();
        stage.start_agent();
        seen.extend(kinds.map(|(_, other)| (other.to_owned(), other != kind)));
        let told = wait_for("each kind has an Event", SOON, || {
            Ok((stage.cluster.kinds_of_events()? == seen).then_some(()))
        });
        assert_eq!(stage.cluster.kinds_of_events().unwrap(), seen, "without {resource}: {told:?}");
        stage.agent.take().unwrap().kill();
    }
}

/// A program that starts the agent as in a pod: with a service account and an address that leads nowhere.
fn pod_program(stage: &Stage) -> std::path::PathBuf {
    let account = stage.control_plane.service_account(User::Agent).unwrap();
    let script = stage.control_plane.dir().join("in-a-pod");
    let text = format!(
        "#!/bin/sh\nset -e\nmount -t tmpfs none /var/run\nmkdir -p /var/run/secrets/kubernetes.io\n\
         cp -r {} /var/run/secrets/kubernetes.io/serviceaccount\nexec {} \"$@\"\n",
        account.display(),
        sheave_tests::agent::binary().unwrap().display(),
    );
    std::fs::write(&script, text).unwrap();
    let outer = stage.control_plane.dir().join("pod");
    let text = format!(
        "#!/bin/sh\nunset KUBECONFIG HOME\nexport KUBERNETES_SERVICE_HOST=127.0.0.1 KUBERNETES_SERVICE_PORT=1\n\
         exec unshare --mount --propagation private sh {} \"$@\"\n",
        script.display()
    );
    std::fs::write(&outer, text).unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&outer).status().unwrap().success());
    outer
}

#[test]
fn in_a_pod_whose_service_address_leads_nowhere_the_named_server_is_used_or_the_one_remembered() {
    let mut stage = Stage::new(Peculiarities::default());
    let program = pod_program(&stage);
    let server = format!("https://127.0.0.1:{}", stage.control_plane.api_port());
    let start = |stage: &Stage, arguments: &[&str]| {
        let arguments = [&["--node-name", NODE], arguments].concat();
        Agent::start_program(&program, &stage.cgroup, &stage.bpffs, stage.control_plane.dir(), &arguments)
            .unwrap()
    };
    let mut agent = start(&stage, &["--api-servers", &format!("https://127.0.0.1:2,{server}")]);
    agent.wait_until_ready(SOON).unwrap();
    agent.kill();
    // Without the setting nobody answers...
    stage.agent = Some(start(&stage, &[]));
    stage.wait_for_log("no API server answers");
    // ...until there is one where an earlier agent was told to find it.
    let known = stage.control_plane.dir().join("run/api-servers");
    std::fs::write(known, format!("https://127.0.0.1:3\n{server}\n")).unwrap();
    stage.agent.as_mut().unwrap().wait_until_ready(SOON).unwrap();
}

#[test]
fn where_the_api_servers_are_is_remembered_from_the_endpoints_of_the_service_kubernetes() {
    let mut stage = Stage::new(Peculiarities::default());
    let slice = json!({
        "metadata": { "name": "kubernetes", "labels": { "kubernetes.io/service-name": "kubernetes" } },
        "addressType": "IPv4",
        "ports": [{ "name": "https", "protocol": "TCP", "port": 6443 }],
        "endpoints": [{ "addresses": ["192.0.2.1"] }],
    });
    stage.cluster.create_slice(slice).unwrap();
    stage.start_agent();
    let known = stage.control_plane.dir().join("run/api-servers");
    wait_for("it is remembered", SOON, || {
        let text = std::fs::read_to_string(&known).unwrap_or_default();
        Ok((text == "https://192.0.2.1:6443\n").then_some(()))
    })
    .unwrap();
}
