//! Tells the owners of objects, by Kubernetes Events (events.k8s.io/v1), what was wrong with them.
//!
//! A courtesy: whatever fails here is logged and forgotten. Must not know why a warning arose.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::{
    api::{
        core::v1::{Node, ObjectReference, Pod, Service},
        discovery::v1::EndpointSlice,
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, PostParams},
};
use proxy_core::desired::Warning;
use tokio::{sync::mpsc, time::Instant};

use super::{KubeSettings, SourceConfig, api::connect};

/// Warnings that wait to be published; more are dropped, the log has them.
const QUEUE: usize = 64;
/// Events that may be published at once...
const BURST: u32 = 25;
/// ...and how long it takes until one more may.
const REFILL: Duration = Duration::from_secs(10);
/// The same warning is published again only after this time.
const REPEAT: Duration = Duration::from_mins(10);
/// Warnings remembered for [`REPEAT`].
const MEMORY: usize = 1024;
/// What the API allows in `note`, in bytes.
const NOTE_BYTES: usize = 1024;
/// `reportingController` of the Events.
const CONTROLLER: &str = "sheave.io/agent";

/// Where the agent puts warnings; cheap to clone.
#[derive(Clone, Debug)]
pub struct EventSink {
    /// `None`: there is no API server.
    queue: Option<mpsc::Sender<Warning>>,
}

/// Publishes what the sinks are given; runs beside [`super::run`].
#[derive(Debug)]
pub struct EventPublisher {
    queue: mpsc::Receiver<Warning>,
    settings: Option<KubeSettings>,
    node_name: String,
    limit: Limit,
}

/// A sink and what empties it. With manifests as the source, the sink swallows everything and the publisher has
/// nothing to do.
pub fn event_sink(config: &SourceConfig, node_name: &str) -> (EventSink, EventPublisher) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let settings = match config {
        SourceConfig::Kube(settings) => Some(settings.clone()),
        SourceConfig::Manifests { .. } => None,
    };
    let sink = EventSink { queue: settings.is_some().then_some(sender) };
    (
        sink,
        EventPublisher {
            queue,
            settings,
            node_name: node_name.to_owned(),
            limit: Limit::new(Instant::now()),
        },
    )
}

impl EventSink {
    /// Publishes `warning` soon, unless the same one was published lately or there are too many. Never waits.
    pub fn publish(&self, warning: &Warning) {
        if let Some(queue) = &self.queue
            && queue.try_send(warning.clone()).is_err()
        {
            tracing::debug!(object = %warning.object, "too many warnings: no Kubernetes Event for this one");
        }
    }
}

impl EventPublisher {
    /// Runs until every [`EventSink`] is dropped; returns at once without an API server. Cancel by dropping it.
    pub async fn run(mut self) {
        let Some(settings) = self.settings.take() else { return };
        let mut client = None;
        while let Some(warning) = self.queue.recv().await {
            if !self.limit.admits(&warning, Instant::now()) {
                continue;
            }
            if client.is_none() {
                let servers = connect::clients(&settings).await.ok();
                client = servers.and_then(|servers| servers.borrow().first().cloned());
            }
            let Some(connected) = client.clone() else { continue };
            let patience = settings.watch_timeout.max(super::SILENCE_MARGIN);
            let publishing = tokio::time::timeout(patience, publish(connected, &warning, &self.node_name));
            let failure = match publishing.await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => connect::text(&error),
                Err(_) => "no answer".to_owned(),
            };
            tracing::debug!(object = %warning.object, %failure, "could not publish a Kubernetes Event");
            // Rotated credentials are read again with the next warning.
            client = None;
        }
    }
}

async fn publish(client: Client, warning: &Warning, node_name: &str) -> kube::Result<()> {
    let regarding = reference(client.clone(), warning).await;
    let namespace = regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let events = Api::namespaced(client, &namespace);
    events.create(&PostParams::default(), &event(warning, regarding, node_name)).await.map(drop)
}

/// A reference with the object's uid, which `kubectl describe` looks for; without it when the object cannot be read. Pods
/// are not read: their contents are no business of the agent's.
async fn reference(client: Client, warning: &Warning) -> ObjectReference {
    let resource = match warning.kind {
        "EndpointSlice" => ApiResource::erase::<EndpointSlice>(&()),
        "Node" => ApiResource::erase::<Node>(&()),
        "Pod" => return unread(ApiResource::erase::<Pod>(&()), warning, None),
        _ => ApiResource::erase::<Service>(&()),
    };
    let objects: Api<DynamicObject> = match namespace(warning) {
        Some(namespace) => Api::namespaced_with(client, &namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let found = objects.get_metadata(&warning.object.name).await.ok();
    unread(resource, warning, found.and_then(|object| object.uid()))
}

fn unread(resource: ApiResource, warning: &Warning, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some(resource.api_version),
        kind: Some(resource.kind),
        name: Some(warning.object.name.clone()),
        namespace: namespace(warning),
        uid,
        ..ObjectReference::default()
    }
}

/// `None` for an object that is in none.
fn namespace(warning: &Warning) -> Option<String> {
    Some(warning.object.namespace.clone()).filter(|namespace| !namespace.is_empty())
}

fn event(warning: &Warning, regarding: ObjectReference, node_name: &str) -> Event {
    let now = Timestamp::now();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", warning.object.name, now.as_nanosecond())),
            namespace: regarding.namespace.clone().or_else(|| Some("default".to_owned())),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some("Warning".to_owned()),
        reason: Some(format!("{:?}", warning.reason)),
        action: Some(if warning.kind == "Node" { "AddPod" } else { "ProgramService" }.to_owned()),
        note: Some(note(warning)),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(node_name.to_owned()),
        ..Event::default()
    }
}

/// Field and message, cut to what the API takes.
fn note(warning: &Warning) -> String {
    let mut note = match warning.field.as_str() {
        "" => warning.message.clone(),
        field => format!("{field}: {}", warning.message),
    };
    while note.len() > NOTE_BYTES {
        note.pop();
    }
    note
}

/// Token bucket, and memory of what was published lately.
#[derive(Debug)]
struct Limit {
    tokens: u32,
    refilled: Instant,
    published: HashMap<Warning, Instant>,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self { tokens: BURST, refilled: now, published: HashMap::new() }
    }

    fn admits(&mut self, warning: &Warning, now: Instant) -> bool {
        self.published.retain(|_, at| now.duration_since(*at) < REPEAT);
        self.refill(now);
        if self.tokens == 0 || self.published.len() >= MEMORY || self.published.contains_key(warning) {
            return false;
        }
        self.tokens -= 1;
        self.published.insert(warning.clone(), now);
        true
    }

    fn refill(&mut self, now: Instant) {
        while self.tokens < BURST && now.duration_since(self.refilled) >= REFILL {
            self.tokens += 1;
            self.refilled += REFILL;
        }
        if self.tokens == BURST {
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proxy_core::{desired::WarningReason, model::ObjectName};

    use super::*;

    fn warning(name: &str) -> Warning {
        Warning {
            kind: "Service",
            object: ObjectName::new("shop", name),
            field: "spec.externalIPs[0]".into(),
            reason: WarningReason::AddressConflict,
            message: "shop/other owns 192.0.2.1:80/TCP".into(),
        }
    }

    #[test]
    fn a_warning_is_published_once_and_again_only_after_ten_minutes() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        assert!(limit.admits(&warning("a"), start));
        assert!(!limit.admits(&warning("a"), start + Duration::from_secs(599)));
        assert!(limit.admits(&warning("a"), start + Duration::from_mins(10)));
    }

    #[test]
    fn a_flood_of_warnings_is_cut_to_the_burst_and_then_to_one_in_ten_seconds() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let admitted = |limit: &mut Limit, prefix: &str, at| {
            (0..100).filter(|i| limit.admits(&warning(&format!("{prefix}{i}")), at)).count()
        };
        assert_eq!(admitted(&mut limit, "a", start), 25);
        assert_eq!(admitted(&mut limit, "b", start + Duration::from_secs(9)), 0);
        assert_eq!(admitted(&mut limit, "c", start + Duration::from_secs(35)), 3);
    }

    #[test]
    fn the_event_names_the_object_the_node_the_reason_and_the_field() {
        let regarding = ObjectReference { namespace: Some("shop".into()), ..Default::default() };
        let event = event(&warning("web"), regarding, "node-1");
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        assert!(event.metadata.name.unwrap().starts_with("web."));
        assert_eq!(event.reason.as_deref(), Some("AddressConflict"));
        assert_eq!(event.note.as_deref(), Some("spec.externalIPs[0]: shop/other owns 192.0.2.1:80/TCP"));
        assert_eq!(event.reporting_instance.as_deref(), Some("node-1"));
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let long = Warning { message: "ä".repeat(1000), field: String::new(), ..warning("web") };
        assert_eq!(note(&long).len(), 1024);
    }

    #[tokio::test]
    async fn without_an_api_server_warnings_go_nowhere_and_the_publisher_returns() {
        let (sink, publisher) = event_sink(
            &SourceConfig::Manifests { path: PathBuf::from("/nowhere"), inherited: false },
            "node-1",
        );
        for _ in 0..1000 {
            sink.publish(&warning("web"));
        }
        publisher.run().await;
    }
}
