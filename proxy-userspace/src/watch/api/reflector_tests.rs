//! What one list-and-watch loop does with a scripted API server, in paused time.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use futures::stream;
use http::{Request, Response};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::client::Body;
use proxy_core::model::{Event, ObjectName, Source};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::watch::{SourceStatus, nodes::NodeEvent};

/// What the server answers to one request.
enum Reply {
    /// A status code and a body.
    Code(u16, Value),
    /// Lines of a watch, and then its end.
    Lines(Vec<Value>),
    /// Lines of a watch, and then silence.
    Hang(Vec<Value>),
    /// No answer at all.
    Mute,
}

use Reply::{Code, Hang, Lines, Mute};

#[derive(Clone, Default)]
struct Server {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.answer(request.uri().to_string()).await }
        });
        Client::new(service, "default")
    }

    /// Carries out the next reply; without one the server is mute.
    async fn answer(&self, request: String) -> Result<Response<axum::body::Body>, Infallible> {
        let reply = {
            lock(&self.requests).push(request);
            lock(&self.replies).pop_front()
        };
        let (code, lines, hang) = match reply.unwrap_or(Mute) {
            Code(code, body) => (code, vec![body], false),
            Lines(lines) => (200, lines, false),
            Hang(lines) => (200, lines, true),
            Mute => std::future::pending().await,
        };
        let lines = lines.into_iter().map(|line| Ok::<_, Infallible>(format!("{line}\n")));
        let end = if hang { stream::pending().left_stream() } else { stream::empty().right_stream() };
        let body = axum::body::Body::from_stream(stream::iter(lines).chain(end));
        Ok(Response::builder().status(code).body(body).unwrap())
    }

    fn requests(&self) -> Vec<String> {
        lock(&self.requests).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Fixture<E = Event> {
    server: Server,
    rx: mpsc::Receiver<E>,
    status: Arc<WatchStatus>,
    task: JoinHandle<()>,
}

impl<E> Drop for Fixture<E> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn settings() -> KubeSettings {
    // Nothing may be read from the machine of whoever runs the test.
    KubeSettings { kubeconfig: Some("/nonexistent/kubeconfig".into()), ..KubeSettings::default() }
}

fn selection() -> Selection {
    Selection { proxy_name: None, node_name: Some("node-1".into()) }
}

fn start<K: Watched>(replies: impl IntoIterator<Item = Reply>) -> Fixture<K::Event> {
    let server = Server { replies: Arc::new(Mutex::new(replies.into_iter().collect())), ..Server::default() };
    let clients = vec![server.client()];
    start_with::<K>(server, clients)
}

fn start_with<K: Watched>(server: Server, clients: Vec<Client>) -> Fixture<K::Event> {
    let (tx, rx) = mpsc::channel(64);
    let status = Arc::new(WatchStatus::new());
    let reflector = Reflector::<K>::new(&settings(), &selection(), connect::fixed(clients), &tx, &status);
    Fixture { server, rx, status, task: tokio::spawn(reflector.run()) }
}

impl<E: std::fmt::Debug> Fixture<E> {
    async fn next(&mut self) -> E {
        timeout(Duration::from_mins(10), self.rx.recv()).await.expect("no event in time").expect("it ended")
    }

    async fn silent_for(&mut self, seconds: u64) {
        timeout(Duration::from_secs(seconds), self.rx.recv()).await.expect_err("an event");
    }

    fn services(&self) -> SourceStatus {
        self.status.sources().into_iter().find(|each| each.source == Source::Services).unwrap()
    }

    /// The part of the n-th request that tells from where it reads.
    fn version(&self, n: usize) -> String {
        let requests = self.server.requests();
        let (_, version) = requests[n].split_once("&resourceVersion=").unwrap_or_default();
        version.to_owned()
    }
}

fn service(name: &str, version: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": version}, "spec": {}})
}

fn added(name: &str, version: &str) -> Value {
    json!({"type": "ADDED", "object": service(name, version)})
}

fn bookmark(version: &str, annotations: &Value) -> Value {
    json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "Service",
        "metadata": {"resourceVersion": version, "annotations": annotations}}})
}

fn end_of_list(version: &str) -> Value {
    bookmark(version, &json!({"k8s.io/initial-events-end": "true"}))
}

fn status_of(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": format!("this is a {code}")})
}

fn refusal(code: u16) -> Reply {
    Code(code, status_of(code, "Whatever"))
}

fn page(names: &[&str], version: &str, next: &str) -> Reply {
    let items: Vec<_> = names.iter().map(|name| service(name, version)).collect();
    Code(
        200,
        json!({"apiVersion": "v1", "kind": "ServiceList",
        "metadata": {"resourceVersion": version, "continue": next}, "items": items}),
    )
}

fn listed(event: Event) -> Vec<String> {
    match event {
        Event::ServicesListed(all) => all.into_iter().map(|service| service.name.name).collect(),
        other => panic!("{other:?} is no list of Services"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_streaming_list_is_told_as_one_list_and_its_watch_goes_on() {
    let mut fixture = start::<Service>([Hang(vec![
        added("a", "1"),
        added("b", "2"),
        bookmark("2", &json!({})),
        end_of_list("3"),
        json!({"type": "MODIFIED", "object": service("a", "4")}),
        json!({"type": "DELETED", "object": service("b", "5")}),
    ])]);
    assert_eq!(listed(fixture.next().await), ["a", "b"]);
    assert!(matches!(fixture.next().await, Event::ServiceApplied(service) if service.name.name == "a"));
    assert_eq!(fixture.next().await, Event::ServiceDeleted(ObjectName::new("shop", "b")));
    let status = fixture.services();
    assert!(status.listed && status.error.is_none() && status.restarts == 0, "{status:?}");
    let request = &fixture.server.requests()[0];
    for part in [
        "sendInitialEvents=true",
        "resourceVersionMatch=NotOlderThan",
        "timeoutSeconds=45",
        "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name%2C%21service.kubernetes.io%2Fheadless",
    ] {
        assert!(request.contains(part), "{request}");
    }
    assert_eq!(fixture.version(0), "");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_the_server_ends_is_renewed_from_the_last_bookmark_without_a_new_list() {
    let mut fixture = start::<Service>([
        Hang(vec![end_of_list("3"), bookmark("7", &json!({}))]),
        Hang(vec![added("a", "8")]),
    ]);
    assert_eq!(listed(fixture.next().await), [] as [&str; 0]);
    assert!(matches!(fixture.next().await, Event::ServiceApplied(_)));
    assert_eq!(fixture.version(1), "7");
    assert!(!fixture.server.requests()[1].contains("sendInitialEvents"));
}

#[tokio::test(start_paused = true)]
async fn a_server_without_streaming_lists_is_listed_page_by_page() {
    let mut fixture = start::<Service>([
        refusal(422),
        page(&["a", "b"], "5", "more"),
        page(&["c"], "5", ""),
        Hang(vec![added("d", "6")]),
    ]);
    assert_eq!(listed(fixture.next().await), ["a", "b", "c"]);
    assert!(matches!(fixture.next().await, Event::ServiceApplied(service) if service.name.name == "d"));
    assert!(fixture.server.requests()[2].contains("continue=more"));
    assert_eq!(fixture.version(3), "5");
    assert_eq!(fixture.services().restarts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_know_streaming_lists_and_falls_silent_is_listed_page_by_page() {
    let mut fixture = start::<Service>([Hang(vec![added("a", "1")]), page(&["a"], "5", ""), Hang(vec![])]);
    assert_eq!(listed(fixture.next().await), ["a"]);
}

/// The server, or a proxy before it, cuts a response that takes long: streaming again would never come to an end.
#[tokio::test(start_paused = true)]
async fn a_streaming_list_that_breaks_off_is_never_told_as_complete_and_pages_are_tried_next() {
    let mut fixture = start::<Service>([
        Lines(vec![added("a", "1")]),
        page(&["a"], "5", "more"),
        page(&["b"], "5", ""),
        Hang(vec![]),
    ]);
    assert_eq!(listed(fixture.next().await), ["a", "b"]);
    assert!(!fixture.server.requests()[1].contains("sendInitialEvents"));
    assert_eq!(fixture.services().restarts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_position_that_the_server_has_forgotten_leads_to_a_new_list() {
    let gone = || json!({"type": "ERROR", "object": status_of(410, "Expired")});
    let mut fixture = start::<Service>([
        Hang(vec![end_of_list("3"), gone()]),
        Hang(vec![added("a", "9"), end_of_list("9")]),
    ]);
    assert_eq!(listed(fixture.next().await), [] as [&str; 0]);
    assert_eq!(listed(fixture.next().await), ["a"]);
    assert_eq!(fixture.version(1), "");
    assert_eq!(fixture.services().restarts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_position_that_a_restored_server_never_had_leads_to_a_new_list() {
    let mut too_new = status_of(504, "Timeout");
    too_new["details"] = json!({"causes": [{"reason": "ResourceVersionTooLarge"}]});
    let mut fixture = start::<Service>([
        Lines(vec![end_of_list("300")]),
        Code(504, too_new),
        Hang(vec![added("a", "9"), end_of_list("9")]),
    ]);
    assert_eq!(listed(fixture.next().await), [] as [&str; 0]);
    assert_eq!(listed(fixture.next().await), ["a"]);
    assert_eq!((fixture.version(1), fixture.version(2)), ("300".into(), String::new()));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_back_without_the_position_is_listed_at_once() {
    let failures = (0..7).map(|_| refusal(503));
    let replies = [Hang(vec![end_of_list("3")])].into_iter().chain(failures).chain([refusal(410)]);
    let mut fixture = start::<Service>(replies.chain([Hang(vec![end_of_list("9")])]));
    fixture.next().await;
    while fixture.server.requests().len() < 9 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let start = Instant::now();
    fixture.next().await;
    assert!(start.elapsed() < Duration::from_millis(250), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_forgets_every_position_at_once_is_not_listed_without_pause() {
    let replies = (0..1000).flat_map(|_| [Lines(vec![end_of_list("3")]), refusal(410)]);
    let mut fixture = start::<Service>(replies);
    let listening = async { while fixture.rx.recv().await.is_some() {} };
    timeout(Duration::from_mins(1), listening).await.expect_err("it ended");
    assert!(fixture.server.requests().len() < 40, "{} requests", fixture.server.requests().len());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_goes_silent_is_given_up_within_the_watch_timeout_and_five_seconds() {
    let mut fixture = start::<Service>([Hang(vec![end_of_list("3")]), Hang(vec![added("a", "4")])]);
    fixture.next().await;
    let start = Instant::now();
    assert!(matches!(fixture.next().await, Event::ServiceApplied(_)));
    let passed = start.elapsed();
    assert!(passed >= Duration::from_secs(50) && passed < Duration::from_secs(52), "{passed:?}");
    assert_eq!(fixture.version(1), "3");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_a_request_is_asked_again() {
    let mut fixture = start::<Service>([Mute, Hang(vec![end_of_list("3")])]);
    let start = Instant::now();
    fixture.next().await;
    assert!(start.elapsed() < Duration::from_secs(52), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_looks_alive_and_a_cut_off_one_grows_old() {
    let quiet = || Lines(vec![]);
    let mut fixture = start::<Service>([Hang(vec![end_of_list("3")])]);
    fixture.next().await;
    fixture.silent_for(40).await;
    let age = fixture.services().age.unwrap();
    assert!(age >= Duration::from_secs(39) && age <= Duration::from_secs(45), "{age:?}");
    // The server's end of a watch at its time-out, seen as a renewal that is accepted.
    lock(&fixture.server.replies).extend([Hang(vec![]), quiet()]);
    fixture.silent_for(12).await;
    let age = fixture.services().age.unwrap();
    assert!(age < Duration::from_secs(3), "{age:?}");
    fixture.silent_for(600).await;
    assert!(fixture.services().age.unwrap() > Duration::from_secs(500));
    assert_eq!(fixture.services().error.as_deref(), Some("the API server does not answer"));
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_with_pauses_and_take_nothing_away() {
    let failures = (0..5).map(|_| refusal(503));
    let replies = [Lines(vec![added("a", "1"), end_of_list("3")])].into_iter().chain(failures);
    let mut fixture = start::<Service>(replies.chain([Hang(vec![added("b", "4")])]));
    assert_eq!(listed(fixture.next().await), ["a"]);
    let start = Instant::now();
    assert!(matches!(fixture.next().await, Event::ServiceApplied(service) if service.name.name == "b"));
    assert!(start.elapsed() > Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!((1..=6).map(|n| fixture.version(n)).collect::<Vec<_>>(), ["3"; 6]);
    assert_eq!(fixture.services().restarts, 6);
}

#[tokio::test(start_paused = true)]
async fn the_reason_of_a_failure_is_in_the_status() {
    let mut fixture = start::<Service>([Hang(vec![end_of_list("3")])]);
    fixture.next().await;
    lock(&fixture.server.replies).extend((0..100).map(|_| refusal(403)));
    fixture.silent_for(60).await;
    assert_eq!(fixture.services().error.as_deref(), Some("API server: this is a 403 (403)"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_every_watch_at_once_does_not_make_it_spin() {
    let replies = [Lines(vec![end_of_list("3")])].into_iter().chain((0..10_000).map(|_| Lines(vec![])));
    let mut fixture = start::<Service>(replies);
    fixture.next().await;
    fixture.silent_for(60).await;
    assert!(fixture.server.requests().len() < 20, "{} requests", fixture.server.requests().len());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_spoils_only_itself() {
    let mut bad = service("bad", "2");
    bad["spec"] = json!({"ports": "nonsense"});
    let mut fixture = start::<Service>([Hang(vec![
        added("a", "1"),
        json!({"type": "ADDED", "object": bad}),
        end_of_list("3"),
        json!({"type": "MODIFIED", "object": bad}),
        added("b", "4"),
    ])]);
    assert_eq!(listed(fixture.next().await), ["a"]);
    assert!(matches!(fixture.next().await, Event::ServiceApplied(service) if service.name.name == "b"));
    assert!(fixture.services().error.unwrap().contains("cannot be read"));
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_the_next_server_is_asked() {
    let dead = Server::default();
    lock(&dead.replies).push_back(refusal(500));
    let live = Server::default();
    lock(&live.replies).push_back(Hang(vec![added("a", "1"), end_of_list("1")]));
    let clients = vec![dead.client(), live.client()];
    let mut fixture = start_with::<Service>(live, clients);
    assert_eq!(listed(fixture.next().await), ["a"]);
    assert_eq!(dead.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_own_node_comes_goes_and_is_asked_for_by_name() {
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "resourceVersion": "2"}});
    let mut fixture = start::<Node>([Hang(vec![
        end_of_list("1"),
        json!({"type": "ADDED", "object": node}),
        json!({"type": "DELETED", "object": node}),
    ])]);
    assert_eq!(fixture.next().await, NodeEvent::Listed(Vec::new()));
    assert!(matches!(fixture.next().await, NodeEvent::Applied(node) if node.name == "node-1"));
    assert_eq!(fixture.next().await, NodeEvent::Deleted("node-1".into()));
    assert!(fixture.server.requests()[0].contains("fieldSelector=metadata.name%3Dnode-1"));
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_listens_any_more() {
    let mut fixture = start::<Service>([Hang(vec![end_of_list("1")])]);
    fixture.next().await;
    fixture.rx.close();
    timeout(Duration::from_secs(1), &mut fixture.task).await.unwrap().unwrap();
}
