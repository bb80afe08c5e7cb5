//! Follows which addresses pods have, and has the flows of those that were given back removed.
//!
//! An address may be another pod's within milliseconds, so the folder of attachments is read as soon as something happens
//! in it. Must not know how a flow is removed, nor what else depends on addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cni::{
    facts::NodeFacts,
    record::{Attachment, AttachmentId},
    store::{Store, StoreError},
};
use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::watch,
    task,
    time::{self, Instant},
};
use tracing::{debug, warn};

use crate::{
    dataplane::{ApplyError, Flow, FlowTable},
    watch::Bell,
};

/// The folder is read at least so often: the bell may have been lost.
const LOOK: Duration = Duration::from_mins(1);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// The least pause between two readings...
const PAUSE: Duration = Duration::from_millis(2);
/// ...and how many times as long as a reading: with many flows, removing those of pods takes a fifth of one CPU at most.
const REST: u32 = 4;
/// Whatever a reading had to wait for.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A flow's idle time and a reservation are known to the second.
const VAGUENESS: Duration = Duration::from_secs(1);

/// Who has which address, by a number that tells holders apart.
type Holders = BTreeMap<IpAddr, u64>;

/// What the last reading left.
#[derive(Clone, Debug, Default)]
struct Known {
    holders: Holders,
    /// Addresses for pods of this node that nobody has, and of which there were flows when the agent started.
    strays: BTreeSet<IpAddr>,
}

/// See the module.
pub struct Addresses {
    run_dir: PathBuf,
    flows: FlowTable,
    removed: Counter,
    held: watch::Sender<Option<Arc<BTreeSet<IpAddr>>>>,
}

/// Why addresses are not followed.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    /// The plugin's files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The connection table.
    #[error(transparent)]
    Flows(#[from] ApplyError),
    /// The thread.
    #[error("{0}")]
    Broken(#[from] task::JoinError),
}

impl Addresses {
    /// Nothing is read yet; `removed` counts flows.
    pub fn new(run_dir: PathBuf, flows: FlowTable, removed: Counter) -> Self {
        Self { run_dir, flows, removed, held: watch::Sender::default() }
    }

    /// The addresses that pods have; `None` before the first reading.
    pub fn held(&self) -> watch::Receiver<Option<Arc<BTreeSet<IpAddr>>>> {
        self.held.subscribe()
    }

    /// Keeps on for ever. What fails is logged once and tried again.
    pub async fn run(self, folder: PathBuf) {
        let (this, bell) = (Arc::new(self), Bell::new(&folder));
        let (mut known, mut given_back, mut complaint) = (None, BTreeSet::new(), String::new());
        loop {
            bell.renew();
            let start = Instant::now();
            let pause = match this.round(&mut known, &mut given_back).await {
                Ok(()) => {
                    complaint.clear();
                    LOOK
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != complaint {
                        warn!(error, "cannot follow which addresses pods have; trying again");
                        complaint = error;
                    }
                    RETRY
                }
            };
            time::sleep((start.elapsed() * REST).clamp(PAUSE, LONGEST_PAUSE)).await;
            tokio::select! {
                names = bell.removals() => {
                    let names = names.iter().filter_map(|name| name.to_str());
                    given_back.extend(names.flat_map(Store::addresses_in_name));
                }
                () = time::sleep(pause) => {}
            }
        }
    }

    /// Forgets what was `given_back` when it was dealt with.
    async fn round(
        self: &Arc<Self>,
        known: &mut Option<Known>,
        given_back: &mut BTreeSet<IpAddr>,
    ) -> Result<(), FollowError> {
        let (this, before, gone) = (Arc::clone(self), known.clone(), given_back.clone());
        let now = task::spawn_blocking(move || match before {
            None => this.begin(),
            Some(before) => this.go_on(before, gone),
        });
        let now = now.await??;
        given_back.clear();
        self.held.send_if_modified(|held| {
            let all: BTreeSet<IpAddr> = now.holders.keys().copied().collect();
            let is_new = held.as_deref() != Some(&all);
            if is_new {
                *held = Some(Arc::new(all));
            }
            is_new
        });
        *known = Some(now);
        Ok(())
    }

    /// What happened while no agent ran is not known: flows that have been silent since before an address was given to who
    /// has it now are an earlier holder's.
    fn begin(&self) -> Result<Known, FollowError> {
        let store = Store::open(&self.run_dir)?;
        let (holders, ages) = (store.held()?, ages(&store)?);
        // Before the first facts no pod was wired.
        let ranges = NodeFacts::read(&self.run_dir).map(|facts| facts.pod_cidrs).unwrap_or_default();
        let is_stray = |address: &IpAddr| {
            !holders.contains_key(address) && ranges.iter().any(|range| range.contains(*address))
        };
        let mut strays = BTreeSet::new();
        self.forget(
            |_| true,
            |flow| {
                strays.extend(ends(flow).into_iter().filter(is_stray));
                is_earlier(flow, &ages)
            },
        )?;
        Ok(Known { holders, strays })
    }

    /// `gone`: addresses of which a file was removed, whoever has them now.
    fn go_on(&self, before: Known, mut gone: BTreeSet<IpAddr>) -> Result<Known, FollowError> {
        let store = Store::open(&self.run_dir)?;
        let (holders, mut strays) = (store.held()?, before.strays);
        gone.extend(given_back(&before.holders, &holders));
        // An ADD that found it to be a pod's of which nothing is remembered has given it back: that pod has it still.
        gone.retain(|address| holders.contains_key(address) || !leads_to_pod(*address));
        if !gone.is_empty() {
            self.forget(|address| gone.contains(&address), |_| true)?;
        }
        let found: BTreeSet<IpAddr> =
            strays.iter().filter(|stray| holders.contains_key(*stray)).copied().collect();
        if !found.is_empty() {
            let ages = ages(&store)?;
            self.forget(|address| found.contains(&address), |flow| is_earlier(flow, &ages))?;
            strays.retain(|stray| !found.contains(stray));
        }
        Ok(Known { holders, strays })
    }

    fn forget(
        &self,
        is_suspect: impl Fn(IpAddr) -> bool,
        is_over: impl FnMut(&Flow) -> bool,
    ) -> Result<(), ApplyError> {
        let removed = self.flows.forget(is_suspect, is_over)?;
        debug!(removed, "flows of pods that are gone");
        self.removed.inc_by(u64::try_from(removed).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// The addresses that somebody had who does not have them any more.
fn given_back(before: &Holders, now: &Holders) -> BTreeSet<IpAddr> {
    let is_gone = |(address, holder): &(&IpAddr, &u64)| now.get(*address) != Some(*holder);
    before.iter().filter(is_gone).map(|(address, _)| *address).collect()
}

/// Whether the kernel has it lead to a pod. DEL removes the device, and the route with it, before it gives the address back.
fn leads_to_pod(address: IpAddr) -> bool {
    let nobody = AttachmentId { container_id: String::new(), ifname: String::new() };
    let asked = Attachment { addresses: vec![address], ..Attachment::of(nobody) };
    cni::wire::held_by_others(&asked).is_ok_and(|held| held.iter().any(|it| it.address == address))
}

/// For how long each address has been its holder's; not those that somebody has since a time to come: the clock was set
/// back.
fn ages(store: &Store) -> Result<BTreeMap<IpAddr, Duration>, StoreError> {
    let attachments = store.list()?;
    // After the store's lock, which may have taken its time.
    let now = SystemTime::now();
    let age = |seconds| now.duration_since(UNIX_EPOCH + Duration::from_secs(seconds)).ok();
    let of = |it: &Attachment| {
        let age = age(it.since);
        it.addresses.iter().filter_map(|address| Some((*address, age?))).collect::<Vec<_>>()
    };
    Ok(attachments.iter().flat_map(of).collect())
}

fn ends(flow: &Flow) -> [IpAddr; 2] {
    [flow.client.ip(), flow.backend.ip()]
}

/// Whether the flow has been silent since before one of its ends got its address.
fn is_earlier(flow: &Flow, ages: &BTreeMap<IpAddr, Duration>) -> bool {
    let is_older = |address| ages.get(&address).is_some_and(|age| flow.idle > *age + VAGUENESS);
    ends(flow).into_iter().any(is_older)
}

#[cfg(test)]
mod tests {
    use proxy_common::{FlowFlags, FlowState};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_given_back_when_nobody_or_somebody_else_has_it() {
        let holders = |all: &[(&str, u64)]| all.iter().map(|(text, holder)| (ip(text), *holder)).collect();
        let before: Holders = holders(&[("10.1.0.2", 1), ("10.1.0.3", 2), ("fd00::4", 3)]);
        let now: Holders = holders(&[("10.1.0.2", 1), ("10.1.0.3", 9), ("fd00::5", 3)]);
        assert_eq!(given_back(&before, &now), BTreeSet::from([ip("10.1.0.3"), ip("fd00::4")]));
        assert!(given_back(&now, &now).is_empty());
    }

    #[test]
    fn a_flow_is_an_earlier_holders_if_it_was_silent_before_the_address_was_given() {
        let flow = |idle| Flow {
            protocol: 17,
            client: "10.1.0.2:1111".parse().unwrap(),
            frontend: "192.0.2.1:53".parse().unwrap(),
            backend: "192.0.2.1:53".parse().unwrap(),
            source: "192.0.2.11:12000".parse().unwrap(),
            state: FlowState::Answered,
            is_expired: false,
            flags: FlowFlags(FlowFlags::MASQUERADED),
            service_id: 0,
            idle: Duration::from_secs(idle),
        };
        let ages = BTreeMap::from([(ip("10.1.0.2"), Duration::from_secs(10))]);
        assert!(is_earlier(&flow(12), &ages) && !is_earlier(&flow(11), &ages));
        assert!(!is_earlier(&flow(12), &BTreeMap::new()), "whose it is nobody knows");
    }
}
