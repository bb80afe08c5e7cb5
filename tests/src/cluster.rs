//! What a test says to the API server: nodes, pods with ready statuses, Services, and what it asks.
//!
//! There is no kubelet: the test writes the pod statuses a kubelet would write, and the real
//! controllers make EndpointSlices of them.
//! Must not know: how the API server was started (`controlplane.rs`).

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::controlplane::User;
use crate::deployment;
use crate::wait::wait_for;

const NAMESPACE: &str = "default";
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// The test's own access to the API server. Every call is a blocking one with a connection of its
/// own, because the server may have been restarted since the last.
#[derive(Debug)]
pub struct Cluster {
    runtime: Runtime,
    kubeconfig: PathBuf,
}

/// A client for the API server that `kubeconfig` names.
pub(crate) async fn connect(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Whether `/readyz` says so.
pub(crate) async fn is_ready(client: &Client) -> bool {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return false };
    client.request_text(request).await.is_ok()
}

impl Cluster {
    /// Waits until the controllers work (they have made the account every pod has) and lets the
    /// agent's user read what it watches.
    ///
    /// # Errors
    /// The API server refuses, or the controllers do nothing within `limit`.
    pub fn new(kubeconfig: PathBuf, limit: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let cluster = Self { runtime, kubeconfig };
        wait_for("the controllers work", limit, || {
            cluster.call(async |client| {
                Ok(Api::<ServiceAccount>::namespaced(client, NAMESPACE).get_opt("default").await?)
            })
        })?;
        cluster.allow_agent()?;
        Ok(cluster)
    }

    fn call<T>(&self, action: impl AsyncFnOnce(Client) -> Result<T>) -> Result<T> {
        let answer = async { action(connect(&self.kubeconfig).await?).await };
        self.runtime
            .block_on(async { tokio::time::timeout(CALL_LIMIT, answer).await })
            .context("the API server did not answer in time")?
    }

    /// The rights that the manifest gives, and no others.
    fn allow_agent(&self) -> Result<()> {
        let binding = json!({
            "metadata": { "name": "sheave" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sheave" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": User::Agent.name() }],
        });
        self.create::<ClusterRole>(deployment::object("ClusterRole")?, Api::all)?;
        self.create::<ClusterRoleBinding>(binding, Api::all)?;
        Ok(())
    }

    /// Gives the agent other rights.
    ///
    /// # Errors
    /// The API server refuses them.
    pub fn set_rules(&self, rules: &Value) -> Result<()> {
        let patch = json!({ "rules": rules });
        self.call(async |client| {
            let roles = Api::<ClusterRole>::all(client);
            roles.patch("sheave", &PatchParams::default(), &Patch::Merge(&patch)).await?;
            Ok(())
        })
    }

    /// Has the API server check an object as if it were created, in the namespace that it names.
    ///
    /// # Errors
    /// It refuses the object.
    pub fn check(&self, manifest: Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(manifest)?;
        let types = object.types.clone().context("an object without kind")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
        let namespace = object.metadata.namespace.clone();
        self.call(async |client| {
            let api: Api<DynamicObject> = match &namespace {
                Some(namespace) => Api::namespaced_with(client, namespace, &resource),
                None => Api::all_with(client, &resource),
            };
            // Unknown fields are refused, too, which `kubectl apply` only warns of.
            let strict = PatchParams::apply("sheave-tests").dry_run().validation_strict();
            Ok(api.patch(&object.name_any(), &strict, &Patch::Apply(&object)).await.map(drop)?)
        })
    }

    fn create<K>(&self, manifest: Value, api: impl FnOnce(Client) -> Api<K>) -> Result<K>
    where
        K: Clone + Debug + DeserializeOwned + Serialize,
    {
        let object: K = serde_json::from_value(manifest)?;
        self.call(async |client| Ok(api(client).create(&PostParams::default(), &object).await?))
    }

    /// # Errors
    /// The API server refuses it.
    pub fn create_node(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let node = json!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } } });
        self.create::<Node>(node, Api::all)?;
        self.set_node_addresses(name, addresses)
    }

    /// What a kubelet reports of its node.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn set_node_addresses(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let addresses: Vec<_> =
            addresses.iter().map(|address| json!({ "type": "InternalIP", "address": address })).collect();
        let status = json!({ "status": { "addresses": addresses } });
        self.call(async |client| {
            let nodes = Api::<Node>::all(client);
            nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
            Ok(())
        })
    }

    /// # Errors
    /// The API server refuses it.
    pub fn delete_node(&self, name: &str) -> Result<()> {
        self.call(async |client| {
            Api::<Node>::all(client).delete(name, &DeleteParams::default()).await?;
            Ok(())
        })
    }

    /// The prefixes that the controller has given a node, one of each family.
    ///
    /// # Errors
    /// There are none within `limit`.
    pub fn pod_cidrs(&self, node: &str, limit: Duration) -> Result<Vec<String>> {
        wait_for(format!("{node} has prefixes for pods"), limit, || {
            let node = self.call(async |client| Ok(Api::<Node>::all(client).get(node).await?))?;
            let cidrs = node.spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default();
            Ok((cidrs.len() == 2).then_some(cidrs))
        })
    }

    /// Makes a Service of `spec` and returns its cluster addresses.
    ///
    /// # Errors
    /// The API server refuses it or gives it no address.
    pub fn create_service(&self, name: &str, spec: &Value) -> Result<Vec<IpAddr>> {
        let manifest = json!({ "metadata": { "name": name }, "spec": spec });
        let service = self.create(manifest, |client| Api::<Service>::namespaced(client, NAMESPACE))?;
        let addresses = service.spec.and_then(|spec| spec.cluster_ips).context("no clusterIPs")?;
        addresses.iter().map(|address| address.parse().context("clusterIPs")).collect()
    }

    /// # Errors
    /// The API server refuses it.
    pub fn patch_service(&self, name: &str, patch: &Value) -> Result<()> {
        self.call(async |client| {
            let services = Api::<Service>::namespaced(client, NAMESPACE);
            services.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            Ok(())
        })
    }

    /// What a load balancer's controller writes: `ingress` is the list of `status.loadBalancer`.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn set_ingress(&self, service: &str, ingress: &Value) -> Result<()> {
        let patch = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
        self.call(async |client| {
            let services = Api::<Service>::namespaced(client, NAMESPACE);
            services.patch_status(service, &PatchParams::default(), &Patch::Merge(&patch)).await?;
            Ok(())
        })
    }

    /// Makes an EndpointSlice that no controller looks after.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn create_slice(&self, manifest: Value) -> Result<()> {
        self.create::<EndpointSlice>(manifest, |client| Api::namespaced(client, NAMESPACE)).map(drop)
    }

    /// # Errors
    /// The API server refuses it.
    pub fn delete_service(&self, name: &str) -> Result<()> {
        self.call(async |client| {
            Api::<Service>::namespaced(client, NAMESPACE).delete(name, &DeleteParams::default()).await?;
            Ok(())
        })
    }

    /// A pod labelled `app: <app>` that runs on `node` with `addresses`, as its kubelet reports it.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn create_ready_pod(&self, name: &str, app: &str, node: &str, addresses: &[IpAddr]) -> Result<()> {
        let pod = json!({
            "metadata": { "name": name, "labels": { "app": app } },
            "spec": {
                "nodeName": node,
                "automountServiceAccountToken": false,
                "containers": [{ "name": "server", "image": "registry.invalid/server" }],
            },
        });
        self.create(pod, |client| Api::<Pod>::namespaced(client, NAMESPACE))?;
        let ips: Vec<_> = addresses.iter().map(|address| json!({ "ip": address })).collect();
        let status = json!({ "phase": "Running", "podIP": addresses.first(), "podIPs": ips });
        self.patch_pod_status(name, &status)?;
        self.set_ready(name, true)
    }

    /// What a kubelet writes when the pod's readiness probe changes its mind.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn set_ready(&self, pod: &str, ready: bool) -> Result<()> {
        let ready = if ready { "True" } else { "False" };
        self.patch_pod_status(pod, &json!({ "conditions": [{ "type": "Ready", "status": ready }] }))
    }

    fn patch_pod_status(&self, name: &str, status: &Value) -> Result<()> {
        let patch = json!({ "status": status });
        self.call(async |client| {
            let pods = Api::<Pod>::namespaced(client, NAMESPACE);
            pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
            Ok(())
        })
    }

    /// Removes a pod at once, as the last message of its kubelet does.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn delete_pod(&self, name: &str) -> Result<()> {
        self.call(async |client| {
            let now = DeleteParams::default().grace_period(0);
            Api::<Pod>::namespaced(client, NAMESPACE).delete(name, &now).await?;
            Ok(())
        })
    }

    /// The ready addresses in all slices of a Service.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn ready_addresses(&self, service: &str) -> Result<BTreeSet<IpAddr>> {
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let slices = self.call(async |client| {
            Ok(Api::<EndpointSlice>::namespaced(client, NAMESPACE).list(&of_service).await?)
        })?;
        let endpoints = slices.items.into_iter().filter_map(|slice| slice.endpoints).flatten();
        let ready = endpoints.filter(|endpoint| {
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
        });
        ready.flat_map(|endpoint| endpoint.addresses).map(|address| Ok(address.parse()?)).collect()
    }

    /// Waits until the slices of a Service hold just these ready addresses.
    ///
    /// # Errors
    /// They do not within `limit`.
    pub fn wait_for_slices(&self, service: &str, wanted: &[IpAddr], limit: Duration) -> Result<()> {
        let wanted: BTreeSet<IpAddr> = wanted.iter().copied().collect();
        wait_for(format!("the slices of {service} hold {wanted:?}"), limit, || {
            Ok((self.ready_addresses(service)? == wanted).then_some(()))
        })
    }

    /// The reasons of the Events about a Service, one per Event.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn events_about(&self, service: &str) -> Result<Vec<String>> {
        self.reasons("Service", service)
    }

    /// The reasons of the Events about a Node.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn events_about_node(&self, node: &str) -> Result<Vec<String>> {
        self.reasons("Node", node)
    }

    fn reasons(&self, kind: &str, name: &str) -> Result<Vec<String>> {
        let about = self.events()?.into_iter().filter(|event| {
            let regarding = event.regarding.as_ref();
            regarding.is_some_and(|object| {
                object.kind.as_deref() == Some(kind) && object.name.as_deref() == Some(name)
            })
        });
        Ok(about.filter_map(|event| event.reason).collect())
    }

    /// Kind of the object of each Event, and whether its uid is in it.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn kinds_of_events(&self) -> Result<BTreeSet<(String, bool)>> {
        let regarding = self.events()?.into_iter().filter_map(|event| event.regarding);
        Ok(regarding.map(|object| (object.kind.unwrap_or_default(), object.uid.is_some())).collect())
    }

    fn events(&self) -> Result<Vec<Event>> {
        let list = async |client| {
            Ok(Api::<Event>::namespaced(client, NAMESPACE).list(&ListParams::default()).await?)
        };
        Ok(self.call(list)?.items)
    }

    /// The resource version at which the cluster is now.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn resource_version(&self) -> Result<String> {
        let services = self.call(async |client| {
            Ok(Api::<Service>::all(client).list(&ListParams::default().limit(1)).await?)
        })?;
        services.metadata.resource_version.context("a list without resourceVersion")
    }

    /// Whether a watch of Services that goes on from `version` is answered by 410 Gone.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn is_gone(&self, version: &str) -> Result<bool> {
        self.call(async |client| {
            let services = Api::<Service>::all(client);
            let short = WatchParams::default().timeout(2);
            let mut events = match services.watch(&short, version).await {
                Ok(events) => pin!(events),
                Err(kube::Error::Api(status)) if status.code == 410 => return Ok(true),
                Err(error) => return Err(error.into()),
            };
            let first = events.next().await.transpose()?;
            Ok(matches!(first, Some(WatchEvent::Error(status)) if status.code == 410))
        })
    }
}
