//! The loop: reads, plans, carries out and tells, whenever something changed and every minute.
//!
//! Must not know how any of these is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use cni::facts::NodeFacts;
use proxy_core::nodes::{self, Nodes, Plan, Remark, Settings, peer_addresses};
use rtnetlink::{Handle, new_connection_with_strict_check};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tracing::{info, warn};

use super::{
    FactsFile,
    apply::apply,
    netconf::Switches,
    read::{GROUPS, matters, read, underlay},
    state::{Device, State},
    steps::{Step, steps},
    sysctl,
};
use crate::{
    devices::{
        Choice,
        netlink::{Connection, Notifications, ReadError},
        other_primary,
    },
    metrics::Metrics,
};

/// Time between two looks when nothing seems to have changed.
const INTERVAL: Duration = Duration::from_mins(1);
/// Pause before something is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Changes come in groups; they are answered by one reading.
const SETTLE: Duration = Duration::from_millis(20);
/// After a reading that took long so many times as much passes before the next.
const REST: u32 = 4;

/// Why routes and the tunnel are not looked after.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    /// The kernel cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Something could not be carried out.
    #[error("cannot {step}: {reason}")]
    Step {
        /// What.
        step: String,
        /// What the kernel said.
        reason: String,
    },
    /// The plugin cannot be told.
    #[error("cannot replace {}: {source}", path.display())]
    Facts {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Router {
    settings: Settings,
    nodes: watch::Receiver<Option<Arc<Nodes>>>,
    choices: watch::Receiver<Option<Arc<Choice>>>,
    facts: FactsFile,
    metrics: Metrics,
    known: Known,
    /// The kernel's index of the tunnel's device, for the filter of notifications; 0: there is none.
    tunnel: Arc<AtomicU32>,
    plans: watch::Sender<Option<Arc<Plan>>>,
}

/// What the last round left.
#[derive(Debug, Default)]
struct Known {
    /// The node's primary addresses that the last round was about: of its devices nothing else counts.
    primary: Option<BTreeSet<IpAddr>>,
    /// What was carried out completely.
    plan: Option<Plan>,
    remarks: BTreeSet<Remark>,
    /// What failed, by what was tried; each is told once.
    troubles: BTreeMap<String, String>,
}

impl Router {
    /// Nothing is done before [`Self::run`].
    pub fn new(
        settings: Settings,
        nodes: watch::Receiver<Option<Arc<Nodes>>>,
        choices: watch::Receiver<Option<Arc<Choice>>>,
        facts: FactsFile,
        metrics: Metrics,
    ) -> Self {
        Self {
            settings,
            nodes,
            choices,
            facts,
            metrics,
            known: Known::default(),
            tunnel: Arc::default(),
            plans: watch::Sender::default(),
        }
    }

    /// Where each new plan is told, whether or not all of it could be carried out; `None` before the first.
    pub fn plans(&self) -> watch::Receiver<Option<Arc<Plan>>> {
        self.plans.subscribe()
    }

    /// Runs until nobody tells of Nodes any more. What it made stays.
    pub async fn run(mut self) {
        if let Err(error) = self.facts.begin() {
            warn!(%error, "cannot tell the plugin of this node");
        }
        while let Err(error) = self.follow().await {
            warn!(%error, "cannot look after the ways to other nodes; trying again in {} s", RETRY.as_secs());
            time::sleep(RETRY).await;
        }
    }

    /// Returns without an error when nobody tells of Nodes.
    async fn follow(&mut self) -> Result<(), RoutingError> {
        // Subscribed before the first reading: a change in between is seen by one of both.
        let tunnel = Arc::clone(&self.tunnel);
        let of_interest = move |message: &_| matters(message, tunnel.load(Ordering::Relaxed));
        let mut notifications = Notifications::subscribe(&GROUPS, Box::new(of_interest))?;
        let switches = Switches::subscribe().map_err(ReadError::Socket)?;
        loop {
            let start = Instant::now();
            self.round().await?;
            let rest = start.elapsed() * REST;
            let calm = INTERVAL.mul_f64(0.9 + 0.2 * fastrand::f64());
            let wait = if self.known.troubles.is_empty() { calm } else { RETRY };
            tokio::select! {
                told = self.nodes.changed() => if told.is_err() { return Ok(()) },
                // The devices' watcher ends only with the agent.
                Ok(()) = other_primary(&mut self.choices, self.known.primary.as_ref()) => {}
                told = notifications.next() => told?,
                off = switches.off() => off.map_err(ReadError::Socket)?,
                () = time::sleep(wait) => {}
            }
            time::sleep(rest.max(SETTLE)).await;
            notifications.forget();
        }
    }

    async fn round(&mut self) -> Result<(), RoutingError> {
        let Some(nodes) = self.nodes.borrow_and_update().clone() else { return Ok(()) };
        let Some(choice) = self.choices.borrow_and_update().clone() else { return Ok(()) };
        self.known.primary = Some(choice.primary.clone());
        let mut troubles = BTreeMap::new();
        let (_connection, handle) = connect()?;
        let state = read(&handle).await?;
        let obstacle = self.forward(&state, &mut troubles);
        let peers = peer_addresses(&nodes, &self.settings);
        let underlay = underlay(&handle, &state, &choice.primary, &peers).await;
        let plan = nodes::plan(&nodes, &self.settings, &underlay);
        let (steps, in_the_way) = steps(&plan, &state);
        self.carry_out(&handle, &plan, &state, &steps, &mut troubles).await;
        self.tell(&plan, in_the_way);
        self.report(troubles);
        self.plans.send_if_modified(|told| {
            let is_new = told.as_deref() != Some(&plan);
            if is_new {
                *told = Some(Arc::new(plan.clone()));
            }
            is_new
        });
        self.known.plan = self.known.troubles.is_empty().then(|| plan.clone());
        let told = self.facts.tell(&plan, obstacle);
        if told.map_err(|source| self.facts.error(source))? {
            info!(pod_cidrs = ?plan.pod_cidrs, mtu = plan.mtu, obstacle = plan.obstacle, "told the plugin of this node");
        }
        Ok(())
    }

    /// Returns what keeps the node from forwarding.
    fn forward(&self, state: &State, troubles: &mut BTreeMap<String, String>) -> Option<String> {
        match sysctl::forward(&state.advertised) {
            Ok(changed) => {
                for switch in changed {
                    if self.known.plan.is_some() {
                        self.metrics.drift_repaired.inc();
                        warn!(switch, "somebody had switched it off; switched on again, for pods");
                    } else {
                        info!(switch, "switched on, for pods");
                    }
                }
                None
            }
            Err(error) => {
                troubles.insert("forward packets".to_owned(), error.to_string());
                Some(error.to_string())
            }
        }
    }

    /// One failure does not hold up the other steps.
    async fn carry_out(
        &self,
        handle: &Handle,
        plan: &Plan,
        state: &State,
        steps: &[Step],
        troubles: &mut BTreeMap<String, String>,
    ) {
        let is_repair = self.known.plan.as_ref() == Some(plan);
        let mut device = state.tunnel.as_ref().map(|device| device.index);
        self.tunnel.store(device.unwrap_or_default(), Ordering::Relaxed);
        for step in steps {
            if let Err(error) = apply(handle, step, device).await {
                troubles.insert(step.to_string(), reason(&error));
                continue;
            }
            if matches!(step, Step::MakeDevice(_)) {
                device = tunnel_index(handle).await;
                self.tunnel.store(device.unwrap_or_default(), Ordering::Relaxed);
            }
            if is_repair {
                self.metrics.drift_repaired.inc();
                warn!(%step, "something was not as we left it any more; repaired");
            } else {
                info!(%step, "done");
            }
        }
    }

    fn tell(&mut self, plan: &Plan, in_the_way: BTreeSet<Remark>) {
        let remarks: BTreeSet<Remark> = plan.remarks.iter().cloned().chain(in_the_way).collect();
        for remark in remarks.difference(&self.known.remarks) {
            warn!(node = remark.node, "{}", remark.text);
        }
        self.known.remarks = remarks;
    }

    fn report(&mut self, troubles: BTreeMap<String, String>) {
        for (step, reason) in &troubles {
            if self.known.troubles.get(step) != Some(reason) {
                warn!(reason, "cannot {step}: trying again");
            }
        }
        self.known.troubles = troubles;
    }
}

fn connect() -> Result<(Connection, Handle), ReadError> {
    let (connection, handle, _) = new_connection_with_strict_check().map_err(ReadError::Socket)?;
    Ok((Connection::drive(connection), handle))
}

async fn tunnel_index(handle: &Handle) -> Option<u32> {
    use futures::TryStreamExt as _;
    let answer = handle.link().get().match_name(super::DEVICE.to_owned()).execute();
    let message = std::pin::pin!(answer).try_next().await.ok()??;
    Device::of(&message).map(|device| device.index)
}

/// What the kernel said, in its own words where it has some.
fn reason(error: &rtnetlink::Error) -> String {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
        other => other.to_string(),
    }
}

/// Removes every route, the device and the file. Returns what was removed: nothing where there is no file, for then no
/// agent of this run folder made anything, and what there is may be another's.
///
/// # Errors
/// Something could not be removed; the rest was, but for the file.
pub async fn cleanup(run_dir: &std::path::Path) -> Result<Vec<String>, RoutingError> {
    let (path, mut removed) = (NodeFacts::path(run_dir), Vec::new());
    if !path.exists() {
        return Ok(removed);
    }
    let (_connection, handle) = connect()?;
    let (steps, _) = steps(&Plan::default(), &read(&handle).await?);
    let mut failed = None;
    for step in &steps {
        match apply(&handle, step, None).await {
            Ok(()) => removed.push(step.to_string().replacen("remove", "removed", 1)),
            Err(error) => {
                failed.get_or_insert(RoutingError::Step { step: step.to_string(), reason: reason(&error) });
            }
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    std::fs::remove_file(&path).map_err(|source| RoutingError::Facts { path: path.clone(), source })?;
    removed.push(format!("removed {}", path.display()));
    Ok(removed)
}
