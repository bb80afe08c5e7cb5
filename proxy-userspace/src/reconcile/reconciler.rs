//! State of the loop: what is wanted, what is realised, and the writes that turn one into the other.
//!
//! Must not know time: when to call what is the loop's business.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    net::SocketAddr,
    sync::Arc,
};

use proxy_common::{Protocol, TranslatedSocket};
use proxy_core::{
    desired::{
        DesiredService, Engine, Frontend, FrontendKey, FrontendKind, HealthCheck, ServicePortName, Settings,
        Warning, WarningReason,
    },
    diff::{Capacities, Epoch, MapOp, Planner, Refusal},
    model::{self, ObjectName, Source},
};
use tracing::info;

use super::{HostPortsError, NodeState, Progress, ledger::Ledger};
use crate::{
    dataplane::{ApplyError, LbMaps},
    metrics::Metrics,
};

/// Nothing is written or removed before each of these, and those of [`Reconciler::needing`], has told everything once.
const NEEDED: [Source; 4] = [Source::Services, Source::Slices, Source::Node, Source::Addresses];

/// When so many Services in a row cannot be written, it is not the Services.
const HOPELESS: usize = 8;

/// The `healthCheckNodePort`s to answer on, by Service.
pub type HealthChecks = BTreeMap<ObjectName, HealthCheck>;

/// Whose a frontend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendName {
    /// ServicePort.
    pub port: ServicePortName,
    /// How the frontend came to be.
    pub kind: FrontendKind,
}

/// Whose the frontends are.
pub type FrontendNames = BTreeMap<FrontendKey, FrontendName>;

/// The maps could not be brought to where they should be.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// A write failed.
    #[error("{}", chain(.0))]
    Write(ApplyError),
    /// Every Service is written, but what nobody wants may still be there.
    #[error("what no Service wants may not all be removed yet")]
    Incomplete,
    /// The maps could not be read.
    #[error("cannot read the maps back: {}", chain(.0))]
    Read(ApplyError),
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What is wanted and what is realised.
pub struct Reconciler<M> {
    engine: Engine,
    needed: Vec<Source>,
    planner: Planner,
    maps: M,
    ledger: Ledger,
    /// Changed and not yet written. `None`: gone.
    pending: BTreeMap<ObjectName, Option<DesiredService>>,
    /// Do not fit; what they have in the kernel stays.
    refused: BTreeMap<ObjectName, (DesiredService, Refusal)>,
    /// Writes that failed since the last plan; at most a few, as a failure ends a plan.
    stuck: Vec<MapOp>,
    /// Everything has to be planned: at the start, and until that succeeded.
    full_due: bool,
    /// Frontends by Service.
    frontends: BTreeMap<ObjectName, usize>,
    health_checks: HealthChecks,
    warnings: BTreeSet<Warning>,
    /// Warnings that nobody has taken yet.
    unsaid: Vec<Warning>,
    /// A UDP frontend may have lost a backend since somebody asked last.
    udp_left: bool,
    metrics: Metrics,
    progress: Arc<Progress>,
}

impl<M: LbMaps> Reconciler<M> {
    /// Takes over what the maps hold. Clients of Services that are gone are forgotten: a new Service may get the id of
    /// such a one.
    ///
    /// # Errors
    /// The maps cannot be read, or a stale client cannot be removed.
    pub fn restore(
        settings: Settings,
        mut maps: M,
        capacities: Capacities,
        metrics: Metrics,
        progress: Arc<Progress>,
    ) -> Result<Self, SyncError> {
        // A reader may still be at work with what the predecessor replaced last.
        maps.wait_grace();
        let dump = maps.dump().map_err(SyncError::Read)?;
        let mut planner = Planner::restore(&dump, capacities);
        planner.start_generations_at(fastrand::u32(..));
        let stale = maps.forget_clients(&planner.service_ids().collect()).map_err(SyncError::Read)?;
        if stale > 0 {
            info!(clients = stale, "forgot clients of Services that are gone");
        }
        Ok(Self {
            engine: Engine::new(settings),
            needed: NEEDED.to_vec(),
            planner,
            ledger: Ledger::restore(&dump),
            maps,
            pending: BTreeMap::new(),
            refused: BTreeMap::new(),
            stuck: Vec::new(),
            full_due: true,
            frontends: BTreeMap::new(),
            health_checks: HealthChecks::new(),
            warnings: BTreeSet::new(),
            unsaid: Vec::new(),
            udp_left: false,
            metrics,
            progress,
        })
    }

    /// Nothing is written or removed before `source` has told everything either.
    #[must_use]
    pub fn needing(mut self, source: Source) -> Self {
        self.needed.push(source);
        self
    }

    /// What became of the host ports of a pod, an object of this name: `None` while they are not written.
    ///
    /// # Errors
    /// Not all of them are served: see [`HostPortsError`].
    pub fn host_ports(&self, name: &ObjectName) -> Option<Result<(), HostPortsError>> {
        let store = self.engine.store();
        if self.full_due || store.is_dirty(name) || self.pending.contains_key(name) {
            return None;
        }
        if store.host_ports_of(name).is_none() {
            return Some(Err(HostPortsError::NotYet(format!("no attachment of {name} is remembered"))));
        }
        let refused = self.refused.get(name).map(|(_, refusal)| HostPortsError::NotYet(refusal.to_string()));
        let wrong =
            || self.engine.warnings_of(name).first().map(|it| HostPortsError::Wrong(it.message.clone()));
        Some(refused.or_else(wrong).map_or(Ok(()), Err))
    }

    /// Takes in a change; writes nothing.
    pub fn handle(&mut self, event: model::Event) {
        if let model::Event::Node(node) = &event {
            self.progress.node_is(match node {
                None => NodeState::Absent,
                Some(node) if node.deleting => NodeState::Deleting,
                Some(_) => NodeState::Present,
            });
        }
        self.engine.handle(event);
    }

    /// Whether every source has told everything once.
    pub fn is_complete(&self) -> bool {
        self.engine.is_complete(&self.needed)
    }

    /// Whether everything was planned and written once.
    pub fn is_synced(&self) -> bool {
        !self.full_due
    }

    /// Writes what has changed. What could not be written is tried again by the next call.
    ///
    /// # Errors
    /// Not everything could be written.
    pub fn sync(&mut self) -> Result<(), SyncError> {
        self.absorb();
        let written = if self.full_due { self.sync_full() } else { self.sync_changed() };
        self.report();
        written
    }

    /// The warnings that arose since the last call.
    pub fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.unsaid)
    }

    /// Reads the maps back and repairs what is not as it should be. Returns how many writes that took.
    ///
    /// # Errors
    /// The maps cannot be read, or not everything could be repaired.
    pub fn audit(&mut self) -> Result<usize, SyncError> {
        let dump = self.maps.dump().map_err(SyncError::Read)?;
        self.planner.reload(&dump);
        self.ledger = Ledger::restore(&dump);
        let wanted = self.engine.all();
        let plan = self.planner.plan_full(&wanted);
        let changed = wanted.into_iter().map(|(name, service)| (name, Some(service))).collect();
        self.note_refused(&changed, &plan.refused);
        // Until it is repaired, everything is in doubt.
        self.full_due = true;
        self.apply(&plan.ops)?;
        self.full_due = false;
        self.udp_left = true;
        Ok(plan.ops.len())
    }

    /// Closes the batch of what the writes so far made unreachable; a grace period after that, call
    /// [`Reconciler::grace_passed`].
    pub fn seal_epoch(&mut self) -> Option<Epoch> {
        self.planner.seal_epoch()
    }

    /// Frees what nobody can reach any more. Returns whether Services that did not fit should be tried again.
    ///
    /// # Errors
    /// A place could not be cleared; it is offered again after a later grace period.
    pub fn grace_passed(&mut self, epoch: Epoch) -> Result<bool, SyncError> {
        let ops = self.planner.grace_passed(epoch);
        let cleared = self.apply(&ops);
        self.report();
        cleared?;
        let again = self.refused.iter().map(|(name, (wanted, _))| (name.clone(), Some(wanted.clone())));
        for (name, wanted) in again {
            self.pending.entry(name).or_insert(wanted);
        }
        Ok(!self.refused.is_empty())
    }

    /// Whether, since the last call that said so, sockets may have come to be stranded: a UDP frontend lost a backend,
    /// or what the maps hold was compared with everything that is wanted. Never before that was written once.
    pub fn take_udp_left(&mut self) -> bool {
        !self.full_due && std::mem::take(&mut self.udp_left)
    }

    /// Those of `sockets` that are connected to a UDP backend that their Service's records no longer list, be it for
    /// new flows or for those that have it. The list must have been made after the last write, or just before this
    /// call. None before everything was written.
    pub fn stranded(&self, mut sockets: Vec<TranslatedSocket>) -> Vec<TranslatedSocket> {
        // Many sockets, few pairs.
        let mut judged = BTreeMap::new();
        sockets.retain(|TranslatedSocket { peer, .. }| {
            let frontend = SocketAddr::new(peer.frontend.into(), peer.frontend_port.to_host());
            let backend = SocketAddr::new(peer.backend.into(), peer.backend_port.to_host());
            let judge = || self.is_stranded(frontend, backend);
            let is_udp = peer.protocol == Protocol::Udp as u32;
            is_udp && !self.full_due && *judged.entry((frontend, backend)).or_insert_with(judge)
        });
        sockets
    }

    /// A Service that does not fit into new maps at all has no records, and its sockets are no worse for that.
    fn is_stranded(&self, frontend: SocketAddr, backend: SocketAddr) -> bool {
        let asked = (frontend.ip(), frontend.port(), Protocol::Udp);
        let is_refused = |(wanted, _): &(DesiredService, Refusal)| {
            let mut frontends = wanted.ports.iter().flat_map(|port| &port.frontends);
            frontends.any(|Frontend { key, .. }| (key.address, key.port, key.protocol) == asked)
        };
        !self.planner.offers(frontend, Protocol::Udp, backend) && !self.refused.values().any(is_refused)
    }

    /// Whose the frontends are. Costs a computation of the whole desired state.
    pub fn frontend_names(&self) -> FrontendNames {
        let ports = self.engine.all().into_values().flat_map(|service| service.ports);
        let named = ports.flat_map(|port| {
            let name = port.name;
            port.frontends
                .into_iter()
                .map(move |frontend| (frontend.key, FrontendName { port: name.clone(), kind: frontend.kind }))
        });
        named.collect()
    }

    /// Moves the engine's changes into `pending`, and what is wrong now and was not before into `unsaid`.
    fn absorb(&mut self) {
        for (name, desired) in self.engine.refresh() {
            self.count(&name, desired.as_ref());
            self.pending.insert(name, desired);
        }
        let new: BTreeSet<&Warning> =
            self.engine.warnings().filter(|warning| !self.warnings.contains(*warning)).collect();
        if !new.is_empty() || self.engine.warnings().count() != self.warnings.len() {
            self.unsaid.extend(new.into_iter().cloned());
            self.warnings = self.engine.warnings().cloned().collect();
            self.progress.warned(self.warnings.iter());
        }
    }

    fn count(&mut self, name: &ObjectName, desired: Option<&DesiredService>) {
        let frontends =
            desired.map_or(0, |desired| desired.ports.iter().map(|port| port.frontends.len()).sum());
        match frontends {
            0 => self.frontends.remove(name),
            _ => self.frontends.insert(name.clone(), frontends),
        };
        match desired.and_then(|desired| desired.health_check.clone()) {
            Some(check) => self.health_checks.insert(name.clone(), check),
            None => self.health_checks.remove(name),
        };
    }

    /// Plans everything. Only if every write of the plan succeeded is it known that nothing unwanted is left.
    fn sync_full(&mut self) -> Result<(), SyncError> {
        // Everything is planned, whatever had changed; and it need not be in memory twice.
        self.pending.clear();
        let wanted = self.engine.all();
        self.stuck.clear();
        let plan = self.planner.plan_full(&wanted);
        let changed = wanted.into_iter().map(|(name, service)| (name, Some(service))).collect();
        self.note_refused(&changed, &plan.refused);
        let written = self.apply(&plan.ops);
        self.full_due = written.is_err();
        let Err(error) = written else {
            self.udp_left = true;
            return Ok(());
        };
        self.pending = changed;
        // Even if this succeeds, everything is planned again: what is unwanted may still be there.
        Err(self.sync_one_by_one(error).err().unwrap_or(SyncError::Incomplete))
    }

    /// Plans what changed, and what an earlier plan left over.
    fn sync_changed(&mut self) -> Result<(), SyncError> {
        let changed = std::mem::take(&mut self.pending);
        if changed.is_empty() && self.stuck.is_empty() {
            return Ok(());
        }
        self.stuck.clear();
        let plan = self.planner.plan(&changed);
        self.note_refused(&changed, &plan.refused);
        let Err(error) = self.apply(&plan.ops) else { return Ok(()) };
        self.pending = changed;
        self.sync_one_by_one(error)
    }

    /// After `error`, tries the pending Services one by one, so that the one it happened for holds up no other.
    fn sync_one_by_one(&mut self, mut error: SyncError) -> Result<(), SyncError> {
        let mut in_a_row = 0;
        for (name, wanted) in std::mem::take(&mut self.pending) {
            let one = BTreeMap::from([(name, wanted)]);
            let written = if in_a_row < HOPELESS { self.sync_one(&one) } else { Err(None) };
            match written {
                Ok(()) => in_a_row = 0,
                Err(latest) => {
                    in_a_row += 1;
                    self.pending.extend(one);
                    error = latest.unwrap_or(error);
                }
            }
        }
        if self.pending.is_empty() && self.stuck.is_empty() { Ok(()) } else { Err(error) }
    }

    /// Plans one Service. Its plan has what earlier plans left over as well: a write of that kind that fails again is
    /// left out, as the Service does not depend on it.
    fn sync_one(
        &mut self,
        one: &BTreeMap<ObjectName, Option<DesiredService>>,
    ) -> Result<(), Option<SyncError>> {
        let plan = self.planner.plan(one);
        self.note_refused(one, &plan.refused);
        for op in &plan.ops {
            let failed_before = self.stuck.contains(op);
            match self.write(op) {
                Err(_) if failed_before => {}
                Err(error) => return Err(Some(error)),
                Ok(()) => self.stuck.retain(|stuck| stuck != op),
            }
        }
        Ok(())
    }

    /// Performs writes until one fails.
    fn apply(&mut self, ops: &[MapOp]) -> Result<(), SyncError> {
        ops.iter().try_for_each(|op| self.write(op))
    }

    fn write(&mut self, op: &MapOp) -> Result<(), SyncError> {
        self.progress.beat();
        if let Err(error) = self.maps.apply(op) {
            self.metrics.sync_errors.inc();
            if !self.stuck.contains(op) {
                self.stuck.push(op.clone());
            }
            return Err(SyncError::Write(error));
        }
        self.udp_left |= takes_udp_away(&self.planner, op);
        self.planner.commit(op);
        self.ledger.commit(op);
        self.metrics.map_writes.get_or_create(&[("op", kind(op))]).inc();
        Ok(())
    }

    fn note_refused(&mut self, changed: &BTreeMap<ObjectName, Option<DesiredService>>, refusals: &[Refusal]) {
        let mut before = std::mem::take(&mut self.refused);
        for refusal in refusals {
            let Some(Some(wanted)) = changed.get(&refusal.service) else { continue };
            let known = before.get(&refusal.service).is_some_and(|(_, known)| known.map == refusal.map);
            if !known {
                self.unsaid.push(no_room(refusal));
            }
            self.refused.insert(refusal.service.clone(), (wanted.clone(), refusal.clone()));
        }
        before.retain(|name, _| !self.refused.contains_key(name));
        for (name, refused) in before {
            if changed.contains_key(&name) {
                info!(service = %name, "the Service fits now, or is gone");
            } else {
                self.refused.insert(name, refused);
            }
        }
    }

    fn report(&mut self) {
        let served = self.frontends.iter().filter(|(name, _)| !self.refused.contains_key(*name));
        let is_service = |name| usize::from(self.engine.store().service(name).is_some());
        let (services, frontends) = served.fold((0, 0), |(services, all), (name, frontends)| {
            (services + is_service(name), all + frontends)
        });
        self.metrics.services.set(gauge(services));
        self.metrics.frontends.set(gauge(frontends));
        self.metrics.backends.set(gauge(self.ledger.len()));
        self.metrics.refused_services.set(gauge(self.refused.len()));
        self.progress.refused(self.refused.values().map(|(_, refusal)| refusal));
        self.progress.health_checks(&self.health_checks);
        self.progress.counted(services, frontends);
    }
}

fn no_room(refusal: &Refusal) -> Warning {
    Warning {
        kind: "Service",
        object: refusal.service.clone(),
        field: String::new(),
        reason: WarningReason::NoRoom,
        message: format!("{refusal}; what it had before stays in force"),
    }
}

/// Whether a write that is not committed yet takes a UDP frontend a backend.
fn takes_udp_away(planner: &Planner, op: &MapOp) -> bool {
    match op {
        MapOp::Service(op) => op.key().protocol == Protocol::Udp as u8 && planner.takes_away(op),
        _ => false,
    }
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The label of a write.
fn kind(op: &MapOp) -> &'static str {
    match op {
        MapOp::Backend(_) => "backend",
        MapOp::WriteRing { .. } => "ring",
        MapOp::PutSourceRange { .. } => "put_source_range",
        MapOp::DeleteSourceRange { .. } => "delete_source_range",
        MapOp::Service(_) => "service",
    }
}
