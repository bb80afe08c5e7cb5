//! Tells the loop which host ports this node's pods have, out of what the plugin remembers.
//!
//! The folder of attachments is the truth: it is read anew whenever something happens in it, and whenever the plugin
//! asks for its ports to be served. Must not know how attachments are kept, nor what a host port becomes.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cni::record::{Attachment, AttachmentId, PortMapping, Protocol as CniProtocol, Stage};
use proxy_common::Protocol;
use proxy_core::model::{self, HostPort, HostPortsObject, ObjectName};
use tokio::{
    sync::{Mutex as Turn, mpsc, oneshot},
    task, time,
};
use tracing::warn;

use crate::{
    reconcile::{Event, HostPortsError, Question},
    watch::Bell,
};

/// Attachments come in bursts, each with several changes in the folder: they are answered by one reading.
const SETTLE: Duration = Duration::from_millis(50);
/// The folder is read at least so often: the bell may have been lost.
const LOOK: Duration = Duration::from_mins(1);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// The plugin waits for 2 s.
const PATIENCE: Duration = Duration::from_millis(1800);

/// Reads everything that is remembered.
pub type ReadAttachments = Arc<dyn Fn() -> Result<Vec<Attachment>, String> + Send + Sync>;

/// How many pods there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PodCounts {
    /// Attachments whose wiring was done.
    pub wired: usize,
    /// Attachments that are being made.
    pub reserved: usize,
    /// Host ports of both.
    pub host_ports: usize,
}

/// See the module.
pub struct HostPorts {
    read: ReadAttachments,
    events: mpsc::Sender<Event>,
    /// Held from reading to telling: what is told last was read last.
    turn: Turn<()>,
    /// As of the last reading.
    seen: Mutex<Result<PodCounts, String>>,
}

impl HostPorts {
    /// Nothing is read yet.
    pub fn new(read: ReadAttachments, events: mpsc::Sender<Event>) -> Self {
        let seen = Mutex::new(Err("not read yet".to_owned()));
        Self { read, events, turn: Turn::new(()), seen }
    }

    /// What the last reading found.
    ///
    /// # Errors
    /// It failed, says a sentence for people.
    pub fn counts(&self) -> Result<PodCounts, String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads and tells at the start and after each change in `folder`, until the loop has ended. A reading that fails is
    /// logged once and tried again; what was told last stays.
    pub async fn follow(&self, folder: &Path) {
        // Makes the folder, if it is the first reading ever.
        let _ = self.tell().await;
        let bell = Bell::new(folder);
        let mut complaint = String::new();
        while !self.events.is_closed() {
            bell.renew();
            let pause = match self.tell().await {
                Ok(()) => {
                    complaint.clear();
                    LOOK
                }
                Err(error) => {
                    if error != complaint {
                        warn!(
                            error,
                            "cannot read the attachments of pods; their host ports stay as they are"
                        );
                        complaint = error;
                    }
                    RETRY
                }
            };
            tokio::select! {
                () = bell.rings() => time::sleep(SETTLE).await,
                () = time::sleep(pause) => {}
            }
        }
    }

    /// Returns when the attachment's host ports are in the maps.
    ///
    /// # Errors
    /// Not all of them are: see [`HostPortsError`].
    pub async fn serve(&self, id: &AttachmentId) -> Result<(), HostPortsError> {
        let ended = HostPortsError::NotYet("the agent is ending".to_owned());
        let (answer, answered) = oneshot::channel();
        let work = async {
            let name = self.tell_and_find(id).await.map_err(HostPortsError::NotYet)?;
            let question = Event::Ask(Question::HostPorts { name, answer });
            self.events.send(question).await.map_err(|_| ended.clone())?;
            answered.await.map_err(|_| ended.clone())?
        };
        let late = |_| {
            let reason = "they are not written yet; see `sheave status` for the reason";
            Err(HostPortsError::NotYet(reason.to_owned()))
        };
        time::timeout(PATIENCE, work).await.unwrap_or_else(late)
    }

    async fn tell(&self) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        self.read_and_tell().await.map(drop)
    }

    async fn tell_and_find(&self, id: &AttachmentId) -> Result<ObjectName, String> {
        let _turn = self.turn.lock().await;
        let found = self.read_and_tell().await?.into_iter().find(|attachment| attachment.id == *id);
        found
            .map(|attachment| name_of(&attachment))
            .ok_or_else(|| format!("no attachment {id} is remembered"))
    }

    async fn read_and_tell(&self) -> Result<Vec<Attachment>, String> {
        let read = Arc::clone(&self.read);
        let attachments = task::spawn_blocking(move || read()).await;
        let attachments = attachments.unwrap_or_else(|error| Err(error.to_string()));
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) =
            attachments.as_ref().map(|all| count(all)).map_err(Clone::clone);
        let attachments = attachments?;
        let event = model::Event::HostPortsListed(attachments.iter().filter_map(object).collect());
        let event = Event::Model { event, received: time::Instant::now() };
        self.events.send(event).await.map_err(|_| "the agent is ending".to_owned())?;
        Ok(attachments)
    }
}

fn count(attachments: &[Attachment]) -> PodCounts {
    let wired = attachments.iter().filter(|it| it.stage == Stage::Wired).count();
    let host_ports = attachments.iter().map(|it| it.ports.len()).sum();
    PodCounts { wired, reserved: attachments.len() - wired, host_ports }
}

/// `None` if it has no host ports.
fn object(attachment: &Attachment) -> Option<HostPortsObject> {
    (!attachment.ports.is_empty()).then(|| HostPortsObject {
        name: name_of(attachment),
        pod: pod_of(attachment),
        created: i64::try_from(attachment.since).unwrap_or(i64::MAX),
        addresses: attachment.addresses.clone(),
        ports: attachment.ports.iter().map(host_port).collect(),
    })
}

/// `shop/cart-0@shv0123456789ab`: whoever sees it finds the device.
fn name_of(attachment: &Attachment) -> ObjectName {
    HostPortsObject::name_of(&pod_of(attachment), attachment.id.host_device())
}

/// A runtime that is not Kubernetes' tells no pod.
fn pod_of(attachment: &Attachment) -> ObjectName {
    let pod = &attachment.pod;
    let name = if pod.name.is_empty() { &attachment.id.container_id } else { &pod.name };
    ObjectName::new(pod.namespace.clone(), name.clone())
}

fn host_port(mapping: &PortMapping) -> HostPort {
    HostPort {
        host_ip: mapping.host_ip,
        host_port: mapping.host_port,
        container_port: mapping.container_port,
        protocol: match mapping.protocol {
            CniProtocol::Tcp => Protocol::Tcp,
            CniProtocol::Udp => Protocol::Udp,
            CniProtocol::Sctp => Protocol::Sctp,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::pods::sample::{attachment, port};

    type Shelf = Arc<Mutex<Result<Vec<Attachment>, String>>>;

    fn fixture(first: Vec<Attachment>) -> (Arc<HostPorts>, Shelf, mpsc::Receiver<Event>) {
        let (events, queue) = mpsc::channel(64);
        let shelf: Shelf = Arc::new(Mutex::new(Ok(first)));
        let read = Arc::clone(&shelf);
        let read: ReadAttachments = Arc::new(move || read.lock().unwrap().clone());
        (Arc::new(HostPorts::new(read, events)), shelf, queue)
    }

    async fn told(queue: &mut mpsc::Receiver<Event>) -> Vec<String> {
        let event = time::timeout(Duration::from_secs(5), queue.recv()).await.unwrap().unwrap();
        let Event::Model { event: model::Event::HostPortsListed(objects), .. } = event else {
            unreachable!("{event:?}")
        };
        objects.iter().map(|object| object.pod.to_string()).collect()
    }

    #[tokio::test]
    async fn only_pods_with_host_ports_are_told_and_all_are_counted() {
        let with = Attachment { ports: vec![port(80), port(81)], ..attachment("c1", "web") };
        let without = Attachment { stage: Stage::Reserved, ..attachment("c2", "job") };
        let (ports, _shelf, mut queue) = fixture(vec![with.clone(), without]);
        assert!(ports.counts().is_err());
        ports.tell().await.unwrap();
        assert_eq!(told(&mut queue).await, ["ns/web"]);
        assert_eq!(ports.counts(), Ok(PodCounts { wired: 1, reserved: 1, host_ports: 2 }));
        let object = object(&with).unwrap();
        assert_eq!(object.name.name, format!("web@{}", with.id.host_device()));
        assert_eq!((object.ports[1].host_port, object.ports[1].container_port), (81, 8080));
    }

    #[tokio::test]
    async fn the_plugin_is_answered_after_its_pod_was_told_of() {
        let web = Attachment { ports: vec![port(80)], ..attachment("c1", "web") };
        let (ports, _shelf, mut queue) = fixture(vec![web.clone()]);
        let asking = tokio::spawn({
            let (ports, id) = (Arc::clone(&ports), web.id.clone());
            async move { ports.serve(&id).await }
        });
        assert_eq!(told(&mut queue).await, ["ns/web"]);
        let Some(Event::Ask(Question::HostPorts { name, answer })) = queue.recv().await else {
            unreachable!()
        };
        assert_eq!(name, name_of(&web));
        let taken = Err(HostPortsError::Wrong("taken".to_owned()));
        answer.send(taken.clone()).unwrap();
        assert_eq!(asking.await.unwrap(), taken);
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_asks_for_what_nobody_remembers_or_nobody_writes_gets_a_reason() {
        let web = Attachment { ports: vec![port(80)], ..attachment("c1", "web") };
        let (ports, shelf, _queue) = fixture(vec![web.clone()]);
        let reason = async || match ports.serve(&web.id).await.unwrap_err() {
            HostPortsError::NotYet(reason) => reason,
            HostPortsError::Wrong(reason) => unreachable!("{reason}"),
        };
        assert!(reason().await.contains("not written yet"));
        *shelf.lock().unwrap() = Ok(Vec::new());
        assert!(reason().await.contains("no attachment eth0 of container c1"));
        *shelf.lock().unwrap() = Err("no disk".to_owned());
        assert_eq!(reason().await, "no disk");
        assert_eq!(ports.counts(), Err("no disk".to_owned()));
    }

    #[tokio::test]
    async fn a_change_in_the_folder_is_told_and_a_reading_that_fails_tells_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let web = Attachment { ports: vec![port(80)], ..attachment("c1", "web") };
        let (ports, shelf, mut queue) = fixture(Vec::new());
        let following = tokio::spawn({
            let (ports, folder) = (Arc::clone(&ports), folder.path().to_owned());
            async move { ports.follow(&folder).await }
        });
        for _ in 0..2 {
            assert!(told(&mut queue).await.is_empty());
        }
        *shelf.lock().unwrap() = Ok(vec![web]);
        fs::write(folder.path().join("one"), "").unwrap();
        assert_eq!(told(&mut queue).await, ["ns/web"]);
        *shelf.lock().unwrap() = Err("no disk".to_owned());
        fs::write(folder.path().join("two"), "").unwrap();
        *shelf.lock().unwrap() = Ok(Vec::new());
        assert!(told(&mut queue).await.is_empty(), "tried again");
        following.abort();
    }
}
