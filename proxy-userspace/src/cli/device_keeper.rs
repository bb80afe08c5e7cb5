//! Puts programs on the devices that are chosen, follows the choice, and looks after them.
//!
//! A device on which that fails holds up no other: it is told once, shown in `sheave status` and tried again. Must not
//! know how devices are chosen, nor what the programs do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task, time};
use tracing::{info, warn};

use super::{accept_local::AcceptLocal, with_causes};
use crate::{
    control::{DeviceStates, DeviceView},
    dataplane::{DataPlane, LinkAction},
    devices::{Choice, Chosen},
    health::Readiness,
    metrics::Metrics,
};

/// First and longest pause before attaching is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// See the module.
pub(super) struct DeviceKeeper {
    pub(super) data_plane: Arc<Mutex<DataPlane>>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) metrics: Metrics,
    pub(super) choices: watch::Receiver<Option<Arc<Choice>>>,
    pub(super) states: Arc<DeviceStates>,
    /// For the loopback device.
    pub(super) accept_local: AcceptLocal,
    /// Time between two looks at the devices; `None`: only when the choice changes.
    pub(super) audit_interval: Option<Duration>,
}

impl DeviceKeeper {
    /// Waits until everything is written, then keeps on until nobody chooses any more.
    pub(super) async fn run(mut self) {
        let mut synced = self.readiness.progress().watch_synced();
        if synced.wait_for(|synced| *synced).await.is_err() {
            return;
        }
        let (first, longest) = RETRY;
        let (mut pause, mut known) = (first, Known::default());
        loop {
            let choice = self.choices.borrow_and_update().clone();
            let mut wait = None;
            if let Some(choice) = choice {
                let (next, troubled) = self.work(choice, known).await;
                known = next;
                wait = if troubled { Some(pause) } else { self.audit_interval };
                pause = if troubled { (pause * 2).min(longest) } else { first };
            }
            tokio::select! {
                changed = self.choices.changed() => match changed {
                    Ok(()) => pause = first,
                    Err(_) => return,
                },
                () = elapsed(wait) => {}
            }
        }
    }

    /// Returns what is known afterwards, and whether something has to be tried again.
    async fn work(&self, choice: Arc<Choice>, known: Known) -> (Known, bool) {
        let (data_plane, accept_local) = (Arc::clone(&self.data_plane), self.accept_local.clone());
        let before = known.clone();
        let worked = task::spawn_blocking(move || {
            Work { data_plane: &data_plane, choice: &choice, before, now: Known::default() }
                .run(&accept_local)
        });
        let Ok((known, views, repaired)) = worked.await else { return (known, true) };
        self.metrics.drift_repaired.inc_by(repaired);
        self.states.set(views);
        self.readiness.devices_done();
        let troubled = !known.troubles.is_empty();
        (known, troubled)
    }
}

async fn elapsed(wait: Option<Duration>) {
    match wait {
        Some(wait) => time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// What became of the last round.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Devices that have their programs.
    attached: BTreeMap<u32, Chosen>,
    /// What failed, by what was tried; each is told once.
    troubles: BTreeMap<String, String>,
}

/// One round.
struct Work<'a> {
    data_plane: &'a Mutex<DataPlane>,
    choice: &'a Choice,
    before: Known,
    now: Known,
}

impl Work<'_> {
    /// For one step only: a link takes some 10 ms, and others have things to do, too.
    fn lock(&self) -> MutexGuard<'_, DataPlane> {
        self.data_plane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is known now, what people see, and how many devices had lost their programs.
    fn run(mut self, accept_local: &AcceptLocal) -> (Known, Vec<DeviceView>, u64) {
        let written = self.lock().set_devices(&self.choice.values).map_err(|error| with_causes(&error));
        self.note("the addresses of devices", written);
        let switched = self.switch(accept_local);
        self.note("net.ipv4.conf.lo.accept_local", switched);
        let wanted: BTreeSet<u32> = self.choice.devices.keys().copied().collect();
        let kept = self.lock().keep_devices(&wanted, &self.choice.others);
        let kept = kept.map_err(|error| with_causes(&error));
        for index in kept.iter().flatten() {
            info!(
                index,
                name = self.before.attached.get(index).map(|it| it.name.as_str()),
                "the device has no programs any more"
            );
        }
        self.note("programs of other devices", kept.map(drop));
        let (mut views, mut repaired) = (Vec::new(), 0);
        for (index, chosen) in &self.choice.devices {
            let result = self.attach(*index, chosen);
            repaired += u64::from(result == Ok(true));
            views.push(self.view(*index, chosen, result.err()));
        }
        (self.now, views, repaired)
    }

    /// Requests of the host to itself come back from the loopback device.
    fn switch(&self, accept_local: &AcceptLocal) -> Result<(), String> {
        let is_loopback = |chosen: &Chosen| chosen.name == "lo";
        if self.choice.devices.values().any(is_loopback) {
            let remedy = |error| format!("{error}; set it to 1 on the host: --socket-lb=off needs it");
            if accept_local.switch_on().map_err(remedy)? {
                info!(
                    "set net.ipv4.conf.lo.accept_local to 1, for --socket-lb=off; `sheave cleanup` restores it"
                );
            }
        } else if accept_local.restore().map_err(|error| error.to_string())? {
            info!("restored net.ipv4.conf.lo.accept_local");
        }
        Ok(())
    }

    /// Returns whether the device had lost its programs.
    fn attach(&mut self, index: u32, chosen: &Chosen) -> Result<bool, String> {
        let what = format!("device {} ({index})", chosen.name);
        let result = self.lock().attach_device(index, chosen.role);
        let had = self.before.attached.get(&index).is_some_and(|before| before.role == chosen.role);
        let lost = match &result {
            // The device is gone: a new choice is on its way.
            Err(error) if error.is_device_gone() => return Err(with_causes(error)),
            Err(_) => false,
            Ok(action) => {
                self.now.attached.insert(index, chosen.clone());
                let lost = had && *action != LinkAction::Updated;
                if lost {
                    warn!(
                        index,
                        name = chosen.name,
                        "the device had lost its programs; they are attached again"
                    );
                } else if !had {
                    info!(index, name = chosen.name, role = %chosen.role, link = ?action, "attached to a device");
                }
                lost
            }
        };
        let result = result.map(|_| lost).map_err(|error| with_causes(&error));
        self.note(&what, result.clone().map(drop));
        result
    }

    /// Remembers a trouble, and tells it if it is new.
    fn note(&mut self, what: &str, result: Result<(), String>) {
        let Err(reason) = result else { return };
        if self.before.troubles.get(what) != Some(&reason) {
            warn!(reason, "{what}: trying again");
        }
        self.now.troubles.insert(what.to_owned(), reason);
    }

    fn view(&self, index: u32, chosen: &Chosen, error: Option<String>) -> DeviceView {
        let hook = self.lock().device_hook(chosen.role);
        DeviceView { name: chosen.name.clone(), index, role: chosen.role, hook, error }
    }
}
