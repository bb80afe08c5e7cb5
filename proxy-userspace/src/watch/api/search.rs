//! Where the API server may be, for an agent in a pod that nobody told.
//!
//! The address that a pod is told is that of the Service `kubernetes`, which nobody serves before this agent does. So
//! the other places where a node's programs have it are asked, too, all at once. Whoever answers has proved by its
//! certificate to belong to the cluster whose certificate authority the pod was given. Must not know what is asked of
//! the server later.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::join_all;
use kube::{Client, Config, config::Kubeconfig};

/// Kubeconfigs of the node's own programs. Only the server's address is read.
const NODE_FILES: [&str; 6] = [
    "/var/lib/kube-proxy/kubeconfig",
    "/etc/kubernetes/kubelet.conf",
    "/var/lib/rancher/k3s/agent/kubelet.kubeconfig",
    "/var/lib/rancher/rke2/agent/kubelet.kubeconfig",
    "/var/lib/k0s/kubelet.conf",
    "/var/lib/kubelet/kubeconfig",
];
/// The node's files, where the node's process ids are ours.
const NODE: &str = "/proc/1/root";
/// What listens on nodes themselves: API servers, and the balancers of k3s and Talos.
const LOCAL: [&str; 3] = ["https://127.0.0.1:6443", "https://127.0.0.1:6444", "https://127.0.0.1:7445"];
/// Every API server's certificate has this name, whatever addresses it has.
const NAME: &str = "kubernetes.default.svc";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The addresses to ask, in the order in which they are preferred, each once: the node's own, the pod's, those that an
/// earlier agent was told of by the cluster, and those of the node itself.
pub(super) fn candidates(pod: &Config, known: Option<&Path>) -> Vec<Config> {
    let mut found: Vec<Config> = Vec::new();
    let node =
        node_files().into_iter().filter_map(|path| server(&path)).filter_map(|address| at(pod, &address));
    let known = known.map(remembered).unwrap_or_default();
    let local = LOCAL.iter().map(|address| (*address).to_owned());
    let named = known.into_iter().chain(local).filter_map(|address| {
        let mut config = at(pod, &address)?;
        config.tls_server_name = Some(NAME.to_owned());
        Some(config)
    });
    for candidate in node.chain([pod.clone()]).chain(named) {
        if found.iter().all(|earlier| earlier.cluster_url != candidate.cluster_url) {
            found.push(candidate);
        }
    }
    found
}

fn node_files() -> Vec<PathBuf> {
    let below = |path: &&str| Path::new(NODE).join(path.trim_start_matches('/'));
    NODE_FILES.iter().map(below).chain(NODE_FILES.iter().map(PathBuf::from)).collect()
}

fn server(kubeconfig: &Path) -> Option<String> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).ok()?;
    kubeconfig.clusters.into_iter().find_map(|cluster| cluster.cluster?.server)
}

/// One address a line: see [`crate::watch::ServerMemory`].
fn remembered(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn at(config: &Config, address: &str) -> Option<Config> {
    let mut config = config.clone();
    config.cluster_url = address.parse().ok()?;
    // Without TLS whoever listens would be told the token.
    (config.cluster_url.scheme_str() == Some("https")).then_some(config)
}

/// Those of the clients whose server answers, in their order.
pub(super) async fn answering(clients: Vec<Client>) -> Vec<Client> {
    let asked = clients.into_iter().map(|client| async move {
        let answer = tokio::time::timeout(PATIENCE, client.apiserver_version()).await;
        // A refusal is an answer, too: who may ask is looked at later.
        matches!(answer, Ok(Ok(_) | Err(kube::Error::Api(_)))).then_some(client)
    });
    join_all(asked).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Config {
        Config::new("https://10.96.0.1:443".parse().unwrap())
    }

    fn addresses(known: Option<&Path>) -> Vec<String> {
        candidates(&pod(), known).iter().map(|it| it.cluster_url.to_string()).collect()
    }

    #[test]
    fn what_the_pod_was_told_comes_before_what_was_remembered_and_the_node_itself_comes_last() {
        let folder = tempfile::tempdir().unwrap();
        let known = folder.path().join("api-servers");
        fs::write(
            &known,
            "https://192.0.2.1:6443\nhttp://192.0.2.2:6443\nhttps://127.0.0.1:6444\nno address at all\n",
        )
        .unwrap();
        let found = addresses(Some(&known));
        let wanted = ["10.96.0.1", "192.0.2.1:6443", "127.0.0.1:6444", "127.0.0.1:6443", "127.0.0.1:7445"];
        // A machine that is a node comes before.
        let found: Vec<&String> = found.iter().skip_while(|it| !it.contains(wanted[0])).collect();
        assert_eq!(found.len(), wanted.len(), "{found:?}");
        assert!(found.iter().zip(wanted).all(|(found, wanted)| found.contains(wanted)), "{found:?}");
        assert!(!addresses(None).iter().any(|it| it.contains("192.0.2.1")));
    }

    #[test]
    fn of_a_node_s_kubeconfig_only_the_server_is_read_and_a_broken_one_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubelet.conf");
        let text = "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'https://192.0.2.9:6443'}}]\n\
                    users: [{name: u, user: {client-certificate: /none}}]\n";
        fs::write(&path, text).unwrap();
        assert_eq!(server(&path).as_deref(), Some("https://192.0.2.9:6443"));
        fs::write(&path, "{{{").unwrap();
        assert_eq!(server(&path), None);
        assert_eq!(server(&folder.path().join("none")), None);
    }

    #[tokio::test]
    async fn a_server_that_refuses_the_connection_does_not_answer() {
        let config = Config::new("http://127.0.0.1:1".parse().unwrap());
        assert!(answering(vec![Client::try_from(config).unwrap()]).await.is_empty());
    }
}
