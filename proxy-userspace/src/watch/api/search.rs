//! Where the API server may be, for an agent in a pod that nobody told.
//!
//! The address that a pod is told is that of the Service `kubernetes`, which nobody serves before this agent does. So
//! the other places where a node's programs have it are asked, too, all at once. Whoever answers has proved by its
//! certificate to belong to the cluster whose certificate authority the pod was given. Must not know what is asked of
//! the server later.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use kube::{Client, Config, config::Kubeconfig};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::connect::Servers;

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
/// How long the others' answers may take once there is one: the address that the pod was told never answers on a new
/// node, which would be ready so much later.
const PATIENCE_AFTER_ONE: Duration = Duration::from_secs(1);
/// How long the others' answers may take altogether to count: nobody waits for them meanwhile.
const PATIENCE_LATE: Duration = Duration::from_mins(1);

/// Questions that are open, each with its place in the order.
type Questions<T> = FuturesUnordered<BoxFuture<'static, (usize, Option<T>)>>;

/// An address of an API server, and who named it.
#[derive(Debug)]
pub(super) struct Candidate {
    config: Config,
    origin: String,
}

/// The addresses to ask, in the order in which they are preferred, each once: the node's own, the pod's, those that an
/// earlier agent was told of by the cluster, and those of the node itself.
pub(super) fn candidates(pod: &Config, known: Option<&Path>) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    let node = node_files().into_iter().filter_map(|path| {
        let config = at(pod, &server(&path)?)?;
        Some(Candidate { config, origin: path.display().to_string() })
    });
    let own = Candidate { config: pod.clone(), origin: "the pod's environment".to_owned() };
    let known = known.into_iter().flat_map(remembered);
    let local = LOCAL.iter().map(|address| ((*address).to_owned(), "the node itself".to_owned()));
    let named = known.chain(local).filter_map(|(address, origin)| {
        let mut config = at(pod, &address)?;
        config.tls_server_name = Some(NAME.to_owned());
        Some(Candidate { config, origin })
    });
    for candidate in node.chain([own]).chain(named) {
        if found.iter().all(|earlier| earlier.config.cluster_url != candidate.config.cluster_url) {
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
fn remembered(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|address| (address.to_owned(), path.display().to_string())).collect()
}

fn at(config: &Config, address: &str) -> Option<Config> {
    let mut config = config.clone();
    config.cluster_url = address.parse().ok()?;
    // Without TLS whoever listens would be told the token.
    (config.cluster_url.scheme_str() == Some("https")).then_some(config)
}

/// Clients for those whose server answers, in their order; each is told in the log. Who answers late is added at the end.
///
/// # Errors
/// No client can be made of the configuration.
pub(super) async fn answering(candidates: Vec<Candidate>) -> kube::Result<Servers> {
    let clients = candidates.into_iter().map(|it| Ok((Client::try_from(it.config.clone())?, it)));
    let clients: Vec<_> = clients.collect::<kube::Result<_>>()?;
    let mut open = ask(clients.into_iter().map(|(client, candidate)| answer(client, candidate)));
    let (sender, servers) = watch::channel(in_time(&mut open).await);
    tokio::spawn(add_late(open, sender));
    Ok(servers)
}

async fn answer(client: Client, Candidate { config, origin }: Candidate) -> Option<Client> {
    match client.apiserver_version().await {
        // A refusal is an answer, too: who may ask is looked at later.
        Ok(_) | Err(kube::Error::Api(_)) => {
            tracing::info!(server = %config.cluster_url, origin, "an API server answers");
            Some(client)
        }
        Err(_) => None,
    }
}

fn ask<T, F>(questions: impl Iterator<Item = F>) -> Questions<T>
where
    T: Send + 'static,
    F: Future<Output = Option<T>> + Send + 'static,
{
    questions.enumerate().map(|(at, question)| question.map(move |answer| (at, answer)).boxed()).collect()
}

/// Adds what comes of questions that are still open, until nobody looks any more.
async fn add_late<T>(mut open: Questions<T>, servers: watch::Sender<Vec<T>>) {
    let end = Instant::now() + PATIENCE_LATE;
    loop {
        let next = tokio::select! {
            next = timeout_at(end, open.next()) => next,
            () = servers.closed() => return,
        };
        let Ok(Some((_, answer))) = next else { return };
        servers.send_modify(|all| all.extend(answer));
    }
}

/// What comes of the questions in time, in their order.
async fn in_time<T>(open: &mut Questions<T>) -> Vec<T> {
    let mut found = BTreeMap::new();
    let mut end = Instant::now() + PATIENCE;
    while let Ok(Some((at, answer))) = timeout_at(end, open.next()).await {
        if let Some(answer) = answer {
            end = end.min(Instant::now() + PATIENCE_AFTER_ONE);
            found.insert(at, answer);
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Config {
        Config::new("https://10.96.0.1:443".parse().unwrap())
    }

    fn addresses(known: Option<&Path>) -> Vec<String> {
        candidates(&pod(), known).iter().map(|it| it.config.cluster_url.to_string()).collect()
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
        let all = candidates(&pod(), Some(&known));
        let origins: Vec<&str> = all.iter().rev().map(|it| it.origin.as_str()).collect();
        let remembered = known.to_str().unwrap();
        let local = "the node itself";
        assert_eq!(origins[..5], [local, local, remembered, remembered, "the pod's environment"]);
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

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_waited_for_only_until_another_has_answered_and_a_little_longer() {
        let after = |millis: u64, answer: Option<&'static str>| async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            answer
        };
        let silent = 3_600_000;
        let cases = [
            (vec![(silent, Some("a")), (900, Some("b")), (10, Some("c"))], vec!["b", "c"], 1010),
            (vec![(silent, Some("a")), (4500, Some("b")), (1, None)], vec!["b"], 5000),
            (vec![(20, Some("a")), (10, Some("b"))], vec!["a", "b"], 20),
            (vec![(silent, Some("a"))], vec![], 5000),
        ];
        for (questions, answers, millis) in cases {
            let start = Instant::now();
            let mut open = ask(questions.into_iter().map(|(millis, answer)| after(millis, answer)));
            let found = in_time(&mut open).await;
            // The clock stands still but for sleeps, which end up to a millisecond late.
            assert_eq!((found, start.elapsed().as_millis() / 10 * 10), (answers, millis));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_late_is_added_at_the_end_until_nobody_looks_any_more() {
        let after = |seconds: u64, answer: Option<&'static str>| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            answer
        };
        let questions = [(10, Some("a")), (0, Some("b")), (5, None), (20, Some("c")), (3_600, Some("d"))];
        let mut open = ask(questions.into_iter().map(|(seconds, answer)| after(seconds, answer)));
        let (sender, mut servers) = watch::channel(in_time(&mut open).await);
        assert_eq!(*servers.borrow(), ["b"]);
        let adding = tokio::spawn(add_late(open, sender));
        servers.wait_for(|all| all.len() == 3).await.unwrap();
        assert_eq!(*servers.borrow(), ["b", "a", "c"]);
        drop(servers);
        let left = Instant::now();
        adding.await.unwrap();
        assert!(left.elapsed() < PATIENCE_LATE / 2);
    }

    #[tokio::test]
    async fn a_server_that_refuses_the_connection_does_not_answer() {
        let config = Config::new("http://127.0.0.1:1".parse().unwrap());
        assert!(
            answering(vec![Candidate { config, origin: String::new() }]).await.unwrap().borrow().is_empty()
        );
    }
}
