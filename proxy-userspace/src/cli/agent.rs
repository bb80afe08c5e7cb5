//! `sheave agent`: puts the parts together, keeps them running, and leaves the data plane in place at the end.
//!
//! Must not know how any part works.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use cni::store::Store;
use proxy_core::{
    desired::{self, NodePortAddresses},
    diff,
    model::{self, Source},
};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, oneshot, watch as watch_value},
    task, time,
};
use tracing::{info, warn};

use super::{
    CONTROL_SOCKET, CliError, LOCK_FILE, accept_local::AcceptLocal, device_keeper::DeviceKeeper,
    guard_keeper::GuardKeeper, heartbeat, keeper::Keeper, local_ports, logging,
    masquerade_keeper::MasqueradeKeeper, pod_keeper::PodKeeper, scrape, shortage, with_causes,
};
use crate::{
    config::{self, AgentFlags, Config, SourceConfig},
    control::{self, AgentState, DeviceStates},
    dataplane::{self, DataPlane, DataPlaneConfig, Observer},
    devices::{self, Choice},
    health::{self, Readiness},
    metrics::{Exposition, Metrics},
    pods::{addresses::Addresses, host_ports::HostPorts, room},
    reconcile::{self, Event, Loop, Progress, Reconciler},
    routing::{FactsFile, Router},
    watch::{self, EventSink, KubeSettings, NodesSender, ServerMemory, WatchError, WatchStatus},
};

/// In the run folder: where the API servers were last.
const KNOWN_SERVERS: &str = "api-servers";
/// Changes that wait to be taken in; the sources wait when there are more.
const QUEUE: usize = 4096;

pub(super) fn run(flags: AgentFlags) -> Result<ExitCode, CliError> {
    let loaded = config::load(&flags.into_layers())?;
    logging::start(&loaded);
    let config = loaded.config;
    local_ports::check(config.packet.snat_ports).map_err(CliError::Refused)?;
    std::fs::create_dir_all(&config.run_dir)?;
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let pacing = config.packet.pacing.unwrap_or_else(|| runtime.block_on(devices::pacing()));
    let mut data_plane = DataPlane::open(&data_plane_config(&config, pacing))?;
    info!(inherited = data_plane.inherited(), "the data plane is open");
    masquerade(&config, &mut data_plane)?;
    let ended = runtime.block_on(serve(config, data_plane));
    // Nothing is detached: what is in the kernel goes on serving. Tasks that block are not waited for.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

/// Before a program that asks for the prefixes is anywhere. Without the node's own prefixes those of all pods serve: only
/// what leaves this node is concerned.
fn masquerade(config: &Config, data_plane: &mut DataPlane) -> Result<(), CliError> {
    let packet = &config.packet;
    // Of pods that our plugin wires the router tells; until then what an earlier agent wrote is right.
    if packet.settings.masquerade == 0 || config.pods.enabled {
        return Ok(());
    }
    if packet.masquerade.pods.is_empty() {
        warn!("`masquerade` is on, but whose packets it is for is not known: set `cluster-cidr`");
    }
    Ok(data_plane.set_masquerade(&packet.masquerade).map_err(dataplane::OpenError::from)?)
}

fn data_plane_config(config: &Config, pacing: Duration) -> DataPlaneConfig {
    DataPlaneConfig {
        pin_dir: config.pin_dir.clone(),
        lock_file: config.run_dir.join(LOCK_FILE),
        cgroup: config.cgroup.clone(),
        capacities: config.capacities,
        own_pods: config.pods.enabled,
        alone: true,
        socket_lb: config.packet.socket_lb,
        packet: config.packet.settings,
        pacing,
        ..DataPlaneConfig::default()
    }
}

/// Runs until a signal comes or a part that must not end has ended.
async fn serve(config: Config, data_plane: DataPlane) -> Result<(), CliError> {
    let parts = Parts::new(&config, data_plane)?;
    let (events, queue) = mpsc::channel(QUEUE);
    let loop_ended = parts.start_loop(&config, &events, queue)?;
    let nodes = parts.start_routing(&config)?;
    let source_ended = parts.start_sources(&config, events.clone(), nodes);
    let pods = parts.start_pods(&config, &events)?;
    parts.start_servers(&config, events, pods)?;
    task::spawn(parts.keeper(&config).run());
    task::spawn(parts.device_keeper(&config).run());
    task::spawn(shortage::watch(Arc::clone(&parts.observer)));
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => info!("terminated; the data plane stays in place"),
        _ = interrupt.recv() => info!("interrupted; the data plane stays in place"),
        _ = loop_ended => return Err(CliError::Refused("the reconciler ended".to_owned())),
        error = source_ended => return Err(source_error(error)),
    }
    if config.pods.enabled {
        heartbeat::last(&config.run_dir);
    }
    Ok(())
}

fn source_error(ended: Result<Result<(), WatchError>, task::JoinError>) -> CliError {
    match ended {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) => CliError::Refused("the source of objects ended".to_owned()),
        Err(error) => CliError::Refused(format!("the source of objects broke off: {error}")),
    }
}

/// What the parts of the agent share.
struct Parts {
    data_plane: Arc<Mutex<DataPlane>>,
    observer: Arc<Observer>,
    sources: Arc<WatchStatus>,
    readiness: Arc<Readiness>,
    metrics: Metrics,
    source: watch::SourceConfig,
    /// The node's devices, as soon as they are known.
    choices: watch_value::Receiver<Option<Arc<Choice>>>,
    /// What became of putting programs on them.
    devices: Arc<DeviceStates>,
    /// Where warnings about objects go.
    warnings: EventSink,
    /// Rings when UDP sockets may be connected to backends that left.
    left: Arc<Notify>,
}

impl Parts {
    fn new(config: &Config, data_plane: DataPlane) -> Result<Self, CliError> {
        let (sources, progress) = (Arc::new(WatchStatus::new()), Arc::new(Progress::default()));
        let needs_node = matches!(config.source, SourceConfig::Kubernetes { .. });
        let (publisher, choices) = watch_value::channel(None);
        task::spawn(devices::watch(config.packet.selection.clone(), publisher));
        let source = source(config, data_plane.succeeds_another());
        let (warnings, events) = watch::event_sink(&source, &config.node_name);
        task::spawn(events.run());
        Ok(Self {
            choices,
            devices: Arc::default(),
            observer: Arc::new(data_plane.observer()?),
            source,
            warnings,
            readiness: Arc::new(
                Readiness::new(progress, Arc::clone(&sources), needs_node)
                    .with_devices()
                    .succeeding(data_plane.succeeds_another()),
            ),
            data_plane: Arc::new(Mutex::new(data_plane)),
            sources,
            metrics: Metrics::default(),
            left: Arc::default(),
        })
    }

    /// The loop gets a thread of its own, because writes to the kernel block. The result is ready when it has ended.
    fn start_loop(
        &self,
        config: &Config,
        questions: &mpsc::Sender<Event>,
        queue: mpsc::Receiver<Event>,
    ) -> Result<oneshot::Receiver<()>, CliError> {
        let maps = self.data_plane.lock().unwrap_or_else(PoisonError::into_inner).clone_maps()?;
        let (metrics, progress) = (self.metrics.clone(), Arc::clone(self.readiness.progress()));
        let reconciler =
            Reconciler::restore(desired_settings(config), maps, capacities(config), metrics, progress)?;
        let reconciler = if config.pods.enabled { reconciler.needing(Source::HostPorts) } else { reconciler };
        let round = Loop::new(reconciler, self.loop_settings(config, questions.clone()));
        let runtime = runtime::Builder::new_current_thread().enable_time().build()?;
        let (ended, loop_ended) = oneshot::channel();
        thread::Builder::new().name("reconcile".to_owned()).spawn(move || {
            runtime.block_on(round.run(queue));
            drop(ended);
        })?;
        Ok(loop_ended)
    }

    fn loop_settings(&self, config: &Config, questions: mpsc::Sender<Event>) -> reconcile::Settings {
        let sink = self.warnings.clone();
        let left = Arc::clone(&self.left);
        let (observer, metrics) = (Arc::clone(&self.observer), self.metrics.clone());
        task::spawn(reconcile::end_udp_sockets(Arc::clone(&left), questions, observer, metrics.clone()));
        reconcile::Settings {
            min_sync_interval: config.min_sync_interval,
            audit_interval: config.audit_interval,
            grace_wait: Arc::new(|| {
                dataplane::wait_grace();
            }),
            on_warning: Box::new(move |warning| sink.publish(warning)),
            left,
            metrics,
            progress: Arc::clone(self.readiness.progress()),
        }
    }

    fn keeper(&self, config: &Config) -> Keeper {
        Keeper {
            data_plane: Arc::clone(&self.data_plane),
            readiness: Arc::clone(&self.readiness),
            metrics: self.metrics.clone(),
            exchanged: Arc::clone(&self.left),
            audit_interval: config.audit_interval,
        }
    }

    fn device_keeper(&self, config: &Config) -> DeviceKeeper {
        DeviceKeeper {
            data_plane: Arc::clone(&self.data_plane),
            readiness: Arc::clone(&self.readiness),
            metrics: self.metrics.clone(),
            choices: self.choices.clone(),
            states: Arc::clone(&self.devices),
            accept_local: AcceptLocal::new(&config.run_dir),
            audit_interval: config.audit_interval,
        }
    }

    /// Keeps the ways to other nodes, if pods get their network from us. Returns where all Nodes are to be told.
    fn start_routing(&self, config: &Config) -> Result<Option<NodesSender>, CliError> {
        if !config.pods.enabled {
            return Ok(None);
        }
        let settings = config.pods.routing.clone();
        let (sender, nodes) = watch_value::channel(None);
        let pins = {
            let data_plane = self.data_plane.lock().unwrap_or_else(PoisonError::into_inner);
            // The keeper of guards puts them on the pods that are there, and counts.
            data_plane.pin_guards()?;
            let path = config.packet.selection.takes_own_pods().then(|| data_plane.path_pins());
            cni::facts::Pins { path, ..data_plane.guard_pins()? }
        };
        let facts = FactsFile::new(&config.run_dir, config.node_name.clone(), pins);
        let router = Router::new(settings, nodes, self.choices.clone(), facts, self.metrics.clone());
        let addresses = self.addresses(config);
        if config.packet.settings.masquerade != 0 {
            let keeper = MasqueradeKeeper {
                data_plane: Arc::clone(&self.data_plane),
                exempt: config.packet.masquerade.exempt.clone(),
                plans: router.plans(),
                held: addresses.held(),
            };
            task::spawn(keeper.run());
        }
        let folder = Store::open(&config.run_dir)?.folder().to_owned();
        task::spawn(addresses.run(folder));
        task::spawn(router.run());
        Ok(Some(sender))
    }

    fn addresses(&self, config: &Config) -> Addresses {
        let data_plane = self.data_plane.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = self.metrics.released_flows.clone();
        Addresses::new(config.run_dir.clone(), data_plane.flow_table(), removed)
    }

    /// The result is ready when the source of objects has ended, which it must not.
    fn start_sources(
        &self,
        config: &Config,
        events: mpsc::Sender<Event>,
        nodes: Option<NodesSender>,
    ) -> task::JoinHandle<Result<(), WatchError>> {
        let (changes, changed) = mpsc::channel(QUEUE);
        let only_primary = config.node_port_addresses == config::NodePortAddresses::Primary;
        task::spawn(devices::tell_addresses(self.choices.clone(), only_primary, changes.clone()));
        let memory = ServerMemory::new(config.run_dir.join(KNOWN_SERVERS));
        task::spawn(stamp(changed, events, memory));
        task::spawn(watch::run(
            self.source.clone(),
            config.node_name.clone(),
            changes,
            nodes,
            Arc::clone(&self.sources),
        ))
    }

    /// What the plugin leaves to the agent; `None` if pods are not ours.
    fn start_pods(
        &self,
        config: &Config,
        events: &mpsc::Sender<Event>,
    ) -> Result<Option<Arc<HostPorts>>, CliError> {
        if !config.pods.enabled {
            return Ok(None);
        }
        let folder = Store::open(&config.run_dir)?.folder().to_owned();
        let run_dir = config.run_dir.clone();
        let read =
            move || Store::open(&run_dir).and_then(|store| store.list()).map_err(|it| with_causes(&it));
        let ports = Arc::new(HostPorts::new(Arc::new(read), events.clone()));
        let follower = Arc::clone(&ports);
        task::spawn(async move { follower.follow(&folder).await });
        let guards = GuardKeeper {
            data_plane: Arc::clone(&self.data_plane),
            run_dir: config.run_dir.clone(),
            pin_dir: config.pin_dir.clone(),
            metrics: self.metrics.clone(),
        };
        task::spawn(guards.run());
        let warnings = self.warnings.clone();
        let tell = move |warning: &desired::Warning| warnings.publish(warning);
        task::spawn(room::watch(config.run_dir.clone(), config.node_name.clone(), tell));
        let (run_dir, pin_dir) = (config.run_dir.clone(), config.pin_dir.clone());
        task::spawn(heartbeat::beat(config.run_dir.clone()));
        task::spawn(PodKeeper { run_dir, pin_dir, metrics: self.metrics.clone() }.run());
        Ok(Some(ports))
    }

    fn start_servers(
        &self,
        config: &Config,
        questions: mpsc::Sender<Event>,
        pods: Option<Arc<HostPorts>>,
    ) -> Result<(), CliError> {
        let run_dir = config.pods.enabled.then(|| config.run_dir.clone());
        let read = scrape::read_at_scrape(Arc::clone(&self.observer), Arc::clone(&self.sources), run_dir);
        let metrics = health::metrics_router(Arc::new(Exposition::new(&self.metrics, read)));
        task::spawn(health::serve("metrics", config.metrics_address, metrics));
        let router = health::health_router(Arc::clone(&self.readiness));
        task::spawn(health::serve("health", config.health_address, router));
        let checks = self.readiness.progress().watch_health_checks();
        task::spawn(health::serve_health_check_ports(checks, Arc::clone(&self.readiness)));
        let state = AgentState {
            node_name: config.node_name.clone(),
            readiness: Arc::clone(&self.readiness),
            observer: Arc::clone(&self.observer),
            data_plane: Arc::clone(&self.data_plane),
            devices: Arc::clone(&self.devices),
            socket_lb: config.packet.socket_lb,
            questions,
            pods,
            run_dir: config.run_dir.clone(),
        };
        task::spawn(control::serve(&config.run_dir.join(CONTROL_SOCKET), Arc::new(state))?);
        Ok(())
    }
}

fn source(config: &Config, inherited: bool) -> watch::SourceConfig {
    match &config.source {
        SourceConfig::Manifests(folder) => watch::SourceConfig::Manifests { path: folder.clone(), inherited },
        SourceConfig::Kubernetes { kubeconfig, api_servers } => watch::SourceConfig::Kube(KubeSettings {
            kubeconfig: kubeconfig.clone(),
            api_servers: api_servers.clone(),
            known_servers: Some(config.run_dir.join(KNOWN_SERVERS)),
            watch_timeout: config.watch_timeout,
            proxy_name: config.service_proxy_name.clone(),
        }),
    }
}

fn desired_settings(config: &Config) -> desired::Settings {
    desired::Settings {
        node_name: config.node_name.clone(),
        proxy_name: config.service_proxy_name.clone(),
        node_port_addresses: match &config.node_port_addresses {
            config::NodePortAddresses::All => NodePortAddresses::All,
            config::NodePortAddresses::Primary => NodePortAddresses::Primary,
            config::NodePortAddresses::Within(networks) => NodePortAddresses::Within(networks.clone()),
        },
    }
}

fn capacities(config: &Config) -> diff::Capacities {
    let dataplane::Capacities { services, ring, backends, source_ranges, .. } = config.capacities;
    diff::Capacities { services, ring, backends, source_ranges }
}

/// Notes when each change arrived: the latency that is measured begins here.
async fn stamp(
    mut changes: mpsc::Receiver<model::Event>,
    events: mpsc::Sender<Event>,
    mut memory: ServerMemory,
) {
    while let Some(event) = changes.recv().await {
        let received = time::Instant::now();
        memory.note(&event);
        if events.send(Event::Model { event, received }).await.is_err() {
            return;
        }
    }
}
