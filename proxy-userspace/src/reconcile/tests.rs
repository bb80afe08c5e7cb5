//! The loop with maps in memory, maps that fail, and a paused clock.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use proxy_common::{AffinityKey, AffinityValue, PortBe, Protocol, SocketPeer, TranslatedSocket};
use proxy_core::{
    desired,
    diff::{Capacities, MapOp, RealisedDump, ServiceOp},
    model::{
        EndpointObject, Event as Change, NodeObject, ObjectName, PortObject, ServiceObject, SliceObject,
        SlicePort,
    },
};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task,
    time::{self, Instant},
};

use super::*;
use crate::{
    control::{ServiceView, Views},
    dataplane::{ApplyError, FaultyMaps, LbMaps, MemoryMaps},
    metrics::Metrics,
};

/// Maps that the test can look at, and damage, while the loop has them.
#[derive(Clone, Default)]
pub(super) struct SharedMaps(Arc<Mutex<MemoryMaps>>);

impl LbMaps for SharedMaps {
    fn apply(&mut self, op: &MapOp) -> Result<(), ApplyError> {
        self.0.lock().unwrap().apply(op)
    }

    fn dump(&self) -> Result<RealisedDump, ApplyError> {
        self.0.lock().unwrap().dump()
    }

    fn forget_clients(&mut self, in_use: &BTreeSet<u32>) -> Result<usize, ApplyError> {
        self.0.lock().unwrap().forget_clients(in_use)
    }

    fn wait_grace(&self) {}
}

impl SharedMaps {
    fn services(&self) -> Vec<ServiceView> {
        Views::new(&self.dump().unwrap(), &FrontendNames::new()).services
    }

    /// Frontends with their backends, and nothing that depends on the order of events.
    pub(super) fn served(&self) -> Vec<(String, Vec<String>)> {
        self.services().into_iter().map(|view| (view.frontend, view.backends)).collect()
    }
}

pub(super) struct Fixture {
    pub(super) events: mpsc::Sender<Event>,
    left: Arc<Notify>,
    warnings: Arc<Mutex<Vec<desired::Warning>>>,
    metrics: Metrics,
    pub(super) progress: Arc<Progress>,
}

pub(super) fn start_with(maps: impl LbMaps + Send + 'static, capacities: Capacities) -> Fixture {
    let (events, queue) = mpsc::channel(64);
    let left = Arc::new(Notify::new());
    let (metrics, progress) = (Metrics::default(), Arc::new(Progress::default()));
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let warned = Arc::clone(&warnings);
    let settings = desired::Settings { node_name: "n".to_owned(), ..desired::Settings::default() };
    let reconciler =
        Reconciler::restore(settings, maps, capacities, metrics.clone(), Arc::clone(&progress)).unwrap();
    let settings = Settings {
        min_sync_interval: Duration::from_millis(50),
        audit_interval: Some(Duration::from_mins(10)),
        grace_wait: Arc::new(|| {}),
        on_warning: Box::new(move |warning| warned.lock().unwrap().push(warning.clone())),
        left: Arc::clone(&left),
        metrics: metrics.clone(),
        progress: Arc::clone(&progress),
    };
    task::spawn(Loop::new(reconciler, settings).run(queue));
    Fixture { events, left, warnings, metrics, progress }
}

pub(super) fn start(maps: impl LbMaps + Send + 'static) -> Fixture {
    start_with(maps, Capacities::default())
}

impl Fixture {
    pub(super) async fn send(&self, event: Change) {
        self.events.send(Event::Model { event, received: Instant::now() }).await.unwrap();
    }

    pub(super) async fn list(&self, services: Vec<ServiceObject>, slices: Vec<SliceObject>) {
        self.send(Change::ServicesListed(services)).await;
        self.send(Change::SlicesListed(slices)).await;
        self.send(Change::Node(Some(NodeObject { name: "n".to_owned(), ..NodeObject::default() }))).await;
        self.send(Change::Addresses(BTreeSet::new())).await;
        self.settle().await;
    }

    /// Lets the loop do what is due now and soon, without a retry or an audit.
    pub(super) async fn settle(&self) {
        time::sleep(Duration::from_millis(60)).await;
    }

    /// Whether the loop has said, since the last question, that UDP sockets may be stranded.
    async fn is_rung(&self) -> bool {
        time::timeout(Duration::from_millis(1), self.left.notified()).await.is_ok()
    }

    /// The cookies of those sockets that have to go.
    async fn stranded(&self, sockets: &[TranslatedSocket]) -> Vec<u64> {
        let (answer, stranded) = oneshot::channel();
        let question = Question::Stranded { sockets: sockets.to_vec(), answer };
        self.events.send(Event::Ask(question)).await.unwrap();
        stranded.await.unwrap().iter().map(|socket| socket.cookie).collect()
    }

    /// An answered question is the proof that all that was sent before was taken in.
    async fn taken_in(&self) {
        let (answer, names) = oneshot::channel();
        self.events.send(Event::Ask(Question::FrontendNames(answer))).await.unwrap();
        names.await.unwrap();
        task::yield_now().await;
    }
}

fn name(number: u8) -> ObjectName {
    ObjectName::new("ns", format!("s{number}"))
}

pub(super) fn service(number: u8, protocol: &str) -> ServiceObject {
    ServiceObject {
        name: name(number),
        cluster_ip: format!("10.96.0.{number}"),
        cluster_ips: vec![format!("10.96.0.{number}")],
        ports: vec![PortObject { protocol: protocol.to_owned(), port: 80, ..PortObject::default() }],
        ..ServiceObject::default()
    }
}

fn slice(number: u8, protocol: &str, endpoints: &[u8]) -> SliceObject {
    let endpoint = |last: &u8| EndpointObject {
        addresses: vec![format!("10.244.{number}.{last}")],
        ..EndpointObject::default()
    };
    SliceObject {
        name: ObjectName::new("ns", format!("slice{number}")),
        service: Some(format!("s{number}")),
        address_type: "IPv4".to_owned(),
        ports: vec![SlicePort {
            name: Some(String::new()),
            protocol: Some(protocol.to_owned()),
            port: Some(8080),
        }],
        endpoints: endpoints.iter().map(endpoint).collect(),
        ..SliceObject::default()
    }
}

fn serves(number: u8, endpoints: &[u8]) -> (String, Vec<String>) {
    let backends = endpoints.iter().map(|last| format!("10.244.{number}.{last}:8080"));
    (format!("10.96.0.{number}:80"), backends.collect())
}

pub(super) fn refused_by_test() -> ApplyError {
    ApplyError::Kernel { action: "write", map: "any", source: io::Error::from(io::ErrorKind::Interrupted) }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_or_removed_before_every_source_has_listed() {
    let maps = SharedMaps::default();
    start(maps.clone()).list(vec![service(1, "TCP")], vec![slice(1, "TCP", &[1])]).await;
    assert_eq!(maps.served(), [serves(1, &[1])]);
    let inherited = maps.dump().unwrap();

    let fixture = start(maps.clone());
    let lists = [
        Change::ServicesListed(vec![service(2, "TCP")]),
        Change::SlicesListed(vec![slice(2, "TCP", &[1])]),
        Change::Addresses(BTreeSet::new()),
    ];
    for list in lists {
        fixture.send(list).await;
        time::sleep(Duration::from_hours(1)).await;
        assert_eq!(maps.dump().unwrap(), inherited);
        assert!(!fixture.progress.is_up_to_date());
    }
    fixture.send(Change::Node(None)).await;
    fixture.settle().await;
    assert_eq!(maps.served(), [serves(2, &[1])]);
    assert!(fixture.progress.is_up_to_date());
}

#[tokio::test(start_paused = true)]
async fn a_restart_with_unchanged_input_writes_nothing() {
    let maps = SharedMaps::default();
    let input = || {
        (vec![service(1, "TCP"), service(2, "UDP")], vec![slice(1, "TCP", &[1, 2]), slice(2, "UDP", &[3])])
    };
    let (services, slices) = input();
    start(maps.clone()).list(services, slices).await;
    assert_eq!(maps.services().len(), 2);
    let writes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&writes);
    let counting = FaultyMaps::new(maps.clone(), move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let (services, slices) = input();
    let fixture = start(counting);
    fixture.list(services, slices).await;
    assert!(fixture.progress.is_up_to_date());
    assert_eq!(writes.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn clients_of_services_that_are_gone_are_forgotten_at_the_start() {
    let maps = SharedMaps::default();
    start(maps.clone()).list(vec![service(1, "TCP")], vec![slice(1, "TCP", &[1])]).await;
    let live = maps.services()[0].id;
    for id in [live, live + 1, live + 2] {
        let value = AffinityValue { backend_id: 1, tag: 1, last_used_ns: 1 };
        maps.0.lock().unwrap().note_client(AffinityKey::of_netns(7, id, 4), value);
    }
    let _fixture = start(maps.clone());
    let left: Vec<u32> = maps.0.lock().unwrap().clients().map(|key| key.service_id).collect();
    assert_eq!(left, [live]);
}

#[tokio::test(start_paused = true)]
async fn whichever_write_fails_the_maps_end_as_they_should() {
    let lists = || {
        (vec![service(1, "TCP"), service(2, "TCP")], vec![slice(1, "TCP", &[1]), slice(2, "TCP", &[1, 2])])
    };
    for nth in 1..40 {
        let maps = SharedMaps::default();
        let fixture = start(FaultyMaps::failing_at(maps.clone(), nth));
        let (services, slices) = lists();
        fixture.list(services, slices).await;
        fixture.send(Change::SliceApplied(Box::new(slice(1, "TCP", &[2, 3])))).await;
        fixture.send(Change::ServiceDeleted(name(2))).await;
        fixture.send(Change::ServiceApplied(Box::new(service(3, "TCP")))).await;
        time::sleep(Duration::from_secs(30)).await;
        assert_eq!(maps.served(), [serves(1, &[2, 3]), serves(3, &[])], "write {nth} failed");
        assert!(fixture.progress.is_up_to_date(), "write {nth} failed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_be_written_holds_up_no_other_and_comes_when_it_can() {
    let maps = SharedMaps::default();
    let broken = Arc::new(AtomicBool::new(true));
    let is_broken = Arc::clone(&broken);
    let poisoned: std::net::Ipv4Addr = "10.96.0.2".parse().unwrap();
    let faulty = FaultyMaps::new(maps.clone(), move |_, op| match op {
        MapOp::Service(ServiceOp::V4(key, _))
            if key.address == poisoned.into() && is_broken.load(Ordering::SeqCst) =>
        {
            Err(refused_by_test())
        }
        _ => Ok(()),
    });
    let fixture = start(faulty);
    let all = [1, 2, 3];
    let slices = all.map(|number| slice(number, "TCP", &[1])).to_vec();
    fixture.list(all.map(|number| service(number, "TCP")).to_vec(), slices).await;
    assert_eq!(maps.served(), [serves(1, &[1]), serves(3, &[1])]);
    assert!(!fixture.progress.is_up_to_date());
    assert!(fixture.progress.report().error.is_some());
    broken.store(false, Ordering::SeqCst);
    time::sleep(Duration::from_mins(1)).await;
    assert_eq!(maps.served(), all.map(|number| serves(number, &[1])));
    assert!(fixture.progress.is_up_to_date());
}

#[tokio::test(start_paused = true)]
async fn the_first_change_is_written_at_once_and_those_close_behind_together() {
    let maps = SharedMaps::default();
    let fixture = start(maps.clone());
    fixture.list(vec![service(1, "TCP")], vec![slice(1, "TCP", &[1])]).await;
    time::sleep(Duration::from_secs(1)).await;
    let published = || fixture.metrics.map_writes.get_or_create(&[("op", "service")]).get();
    let (before, published_before) = (Instant::now(), published());
    fixture.send(Change::SliceApplied(Box::new(slice(1, "TCP", &[2])))).await;
    fixture.taken_in().await;
    assert_eq!(maps.served(), [serves(1, &[2])]);
    for last in [3, 4] {
        fixture.send(Change::SliceApplied(Box::new(slice(1, "TCP", &[last])))).await;
        fixture.taken_in().await;
        assert_eq!(maps.served(), [serves(1, &[2])]);
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
    time::sleep(Duration::from_millis(51)).await;
    assert_eq!(maps.served(), [serves(1, &[4])]);
    assert_eq!(published() - published_before, 2, "one write for the first change, one for the two others");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_fit_is_served_as_soon_as_another_makes_room() {
    let maps = SharedMaps::default();
    // Place 0 is reserved: room for two.
    let fixture = start_with(maps.clone(), Capacities { backends: 3, ..Capacities::default() });
    let slices = vec![slice(1, "TCP", &[1, 2]), slice(2, "TCP", &[1])];
    fixture.list(vec![service(1, "TCP"), service(2, "TCP")], slices).await;
    assert_eq!(maps.served(), [serves(1, &[1, 2])]);
    assert_eq!(fixture.metrics.refused_services.get(), 1);
    let report = fixture.progress.report();
    assert_eq!((report.services, report.frontends, fixture.metrics.services.get()), (1, 1, 1));
    assert!(fixture.progress.report().refused[0].contains("--backends-max"));
    fixture.send(Change::SliceApplied(Box::new(slice(2, "TCP", &[1, 2])))).await;
    time::sleep(Duration::from_secs(1)).await;
    let warnings = fixture.warnings.lock().unwrap().clone();
    assert_eq!(warnings.len(), 1, "told once: {warnings:?}");
    assert_eq!((warnings[0].reason, &warnings[0].object), (desired::WarningReason::NoRoom, &name(2)));
    assert!(warnings[0].message.contains("raise --backends-max"), "{}", warnings[0]);
    fixture.send(Change::ServiceDeleted(name(1))).await;
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(maps.served(), [serves(2, &[1, 2])]);
    assert_eq!(fixture.metrics.refused_services.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_node_s_object_decides_whether_it_should_get_traffic() {
    let fixture = start(SharedMaps::default());
    let node = |deleting| Some(NodeObject { name: "n".to_owned(), deleting, ..NodeObject::default() });
    let cases = [
        (None, NodeState::Absent),
        (node(false), NodeState::Present),
        (node(true), NodeState::Deleting),
        (None, NodeState::Absent),
    ];
    for (object, state) in cases {
        fixture.send(Change::Node(object)).await;
        fixture.taken_in().await;
        assert_eq!(fixture.progress.node(), state);
    }
}

#[tokio::test(start_paused = true)]
async fn an_audit_finds_and_repairs_what_somebody_else_changed() {
    let maps = SharedMaps::default();
    let fixture = start(maps.clone());
    fixture.list(vec![service(1, "TCP")], vec![slice(1, "TCP", &[1])]).await;
    let record =
        maps.dump().unwrap().services4.into_iter().find(|(key, _)| !key.is_address_record()).unwrap();
    maps.clone().apply(&MapOp::Service(ServiceOp::V4(record.0, None))).unwrap();
    assert_eq!(maps.served(), []);
    time::sleep(Duration::from_secs(500)).await;
    assert_eq!(maps.served(), [], "the audit is not due yet");
    time::sleep(Duration::from_secs(200)).await;
    assert_eq!(maps.served(), [serves(1, &[1])]);
    assert_eq!(fixture.metrics.audits.get(), 1);
    let repaired = fixture.metrics.drift_repaired.get();
    assert!(repaired > 0);
    time::sleep(Duration::from_secs(700)).await;
    assert_eq!(fixture.metrics.audits.get(), 2);
    assert_eq!(fixture.metrics.drift_repaired.get(), repaired, "nothing was wrong any more");
}

/// A socket that asked for a Service and was connected to an endpoint of a slice.
fn socket(cookie: u64, frontend: u8, slice: u8, endpoint: u8) -> TranslatedSocket {
    let mapped = |address: [u8; 4]| std::net::Ipv4Addr::from(address).to_ipv6_mapped().into();
    let peer = SocketPeer {
        frontend: mapped([10, 96, 0, frontend]),
        frontend_port: PortBe::from_host(80),
        backend: mapped([10, 244, slice, endpoint]),
        backend_port: PortBe::from_host(8080),
        protocol: Protocol::Udp as u32,
        ..SocketPeer::NONE
    };
    TranslatedSocket { cookie, peer }
}

/// Service 2 has the endpoints of Service 1 as well.
fn shared(endpoints: &[u8]) -> SliceObject {
    let mut shared = slice(1, "UDP", endpoints);
    shared.name = ObjectName::new("ns", "shared");
    shared.service = Some("s2".to_owned());
    shared
}

#[tokio::test(start_paused = true)]
async fn a_udp_socket_is_stranded_when_its_own_service_loses_the_backend_or_is_gone() {
    let fixture = start(SharedMaps::default());
    let tcp = TranslatedSocket {
        peer: SocketPeer { protocol: Protocol::Tcp as u32, ..socket(9, 1, 1, 9).peer },
        cookie: 9,
    };
    let none = TranslatedSocket { cookie: 8, peer: SocketPeer::NONE };
    let sockets = [socket(1, 1, 1, 1), socket(2, 1, 1, 2), socket(3, 2, 1, 1), none, tcp];
    assert_eq!(fixture.stranded(&sockets).await, [] as [u64; 0], "nothing is known yet");
    assert!(!fixture.is_rung().await);
    let slices = vec![slice(1, "UDP", &[1, 2]), shared(&[1])];
    fixture.list(vec![service(1, "UDP"), service(2, "UDP")], slices).await;
    assert!(fixture.is_rung().await, "after the first lists everything is looked at");
    assert_eq!(fixture.stranded(&sockets).await, [] as [u64; 0]);

    fixture.send(Change::SliceApplied(Box::new(slice(1, "UDP", &[2])))).await;
    fixture.settle().await;
    assert!(fixture.is_rung().await);
    assert_eq!(fixture.stranded(&sockets).await, [1], "though Service 2 still has the backend");

    fixture.send(Change::ServiceDeleted(name(2))).await;
    fixture.settle().await;
    assert!(fixture.is_rung().await);
    assert_eq!(fixture.stranded(&sockets).await, [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn sockets_are_looked_for_only_when_a_udp_frontend_lost_a_backend() {
    let fixture = start(SharedMaps::default());
    let slices = vec![slice(1, "UDP", &[1]), slice(2, "TCP", &[1, 2])];
    fixture.list(vec![service(1, "UDP"), service(2, "TCP")], slices).await;
    assert!(fixture.is_rung().await);
    let mut draining = slice(1, "UDP", &[1, 2]);
    draining.endpoints[0].terminating = Some(true);
    draining.endpoints[0].ready = Some(false);
    draining.endpoints[0].serving = Some(true);
    for change in [slice(2, "TCP", &[1]), slice(1, "UDP", &[1, 2]), draining] {
        fixture.send(Change::SliceApplied(Box::new(change))).await;
        fixture.settle().await;
        assert!(!fixture.is_rung().await);
    }
    assert_eq!(
        fixture.stranded(&[socket(1, 1, 1, 1)]).await,
        [] as [u64; 0],
        "it drains, and keeps its flows"
    );
    time::sleep(Duration::from_mins(12)).await;
    assert_eq!(fixture.metrics.audits.get(), 1);
    assert!(fixture.is_rung().await, "with each audit");
}

/// Other capacities are other maps, in which service ids begin anew.
#[tokio::test(start_paused = true)]
async fn sockets_are_judged_over_a_restart_with_empty_maps_too() {
    let sockets = [socket(1, 1, 1, 1), socket(2, 1, 1, 2), socket(3, 3, 3, 1)];
    let fixture = start(SharedMaps::default());
    fixture.list(vec![service(1, "UDP"), service(2, "UDP")], vec![slice(1, "UDP", &[2]), shared(&[1])]).await;
    assert!(fixture.is_rung().await);
    assert_eq!(fixture.stranded(&sockets).await, [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn sockets_of_a_service_that_does_not_fit_are_left_alone() {
    let fixture = start_with(SharedMaps::default(), Capacities { backends: 2, ..Capacities::default() });
    fixture.list(vec![service(1, "UDP")], vec![slice(1, "UDP", &[1, 2])]).await;
    assert_eq!(fixture.metrics.refused_services.get(), 1);
    assert_eq!(fixture.stranded(&[socket(1, 1, 1, 1), socket(2, 2, 1, 1)]).await, [2]);
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_begins_its_generations_elsewhere() {
    let generations: BTreeSet<u32> = {
        let mut all = BTreeSet::new();
        for _ in 0..3 {
            let maps = SharedMaps::default();
            start(maps.clone()).list(vec![service(1, "UDP")], vec![slice(1, "UDP", &[1])]).await;
            let records = maps.dump().unwrap().services4;
            all.extend(
                records.iter().map(|(_, value)| value.generation).filter(|generation| *generation != 0),
            );
        }
        all
    };
    // Two alike are one in 10^9.
    assert_eq!(generations.len(), 3, "{generations:?}");
}

#[tokio::test(start_paused = true)]
async fn the_names_of_the_frontends_can_be_asked_for() {
    let fixture = start(SharedMaps::default());
    fixture.list(vec![service(1, "TCP")], vec![]).await;
    let (answer, names) = oneshot::channel();
    fixture.events.send(Event::Ask(Question::FrontendNames(answer))).await.unwrap();
    let names: Vec<_> =
        names.await.unwrap().into_iter().map(|(key, name)| (key.port, name.port.service)).collect();
    assert_eq!(names, [(80, name(1))]);
}
