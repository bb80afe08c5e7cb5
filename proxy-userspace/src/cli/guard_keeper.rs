//! Keeps the guard on every pod, and its way: at the start and every minute, for pods that are there already.
//!
//! New pods get theirs from the plugin. Must not know what the guard checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cni::{
    facts::NodeFacts,
    record::{Attachment, Stage},
    store::Store,
    wire,
};
use nix::net::if_::if_nametoindex;
use tokio::{task, time};
use tracing::{info, warn};

use super::with_causes;
use crate::{
    dataplane::{DataPlane, GuardRepair, PacketOnly},
    metrics::Metrics,
};

/// Between two looks.
const ROUND: Duration = Duration::from_mins(1);

/// See the module.
pub(super) struct GuardKeeper {
    pub(super) data_plane: Arc<Mutex<DataPlane>>,
    pub(super) run_dir: PathBuf,
    pub(super) pin_dir: PathBuf,
    pub(super) metrics: Metrics,
}

impl GuardKeeper {
    /// Keeps on for ever.
    pub(super) async fn run(self) {
        let (keeper, mut complaints) = (Arc::new(self), BTreeSet::new());
        loop {
            let this = Arc::clone(&keeper);
            let troubles = task::spawn_blocking(move || this.round()).await;
            let troubles = troubles.unwrap_or_else(|error| BTreeSet::from([error.to_string()]));
            for trouble in troubles.difference(&complaints) {
                warn!("guards of pods: {trouble}; trying again every minute");
            }
            complaints = troubles;
            time::sleep(ROUND).await;
        }
    }

    /// Returns what went wrong.
    fn round(&self) -> BTreeSet<String> {
        match self.repair() {
            Ok(repair) => repair
                .failed
                .iter()
                .map(|(index, error)| format!("device {index}: {}", with_causes(error)))
                .collect(),
            Err(error) => BTreeSet::from([error]),
        }
    }

    fn repair(&self) -> Result<GuardRepair, String> {
        let attachments = self.attachments()?;
        self.leave_sockets_alone(&attachments)?;
        self.wire_again(&attachments);
        let mut data_plane = self.data_plane.lock().unwrap_or_else(PoisonError::into_inner);
        let first = data_plane.repair_guards().map_err(|error| with_causes(&error))?;
        self.count(&first);
        let missing = missing(&attachments, &first, |name| if_nametoindex(name).ok());
        if missing.is_empty() {
            return Ok(first);
        }
        for (index, attachment) in missing {
            let value = wire::endpoint(attachment);
            data_plane.restore_endpoint(index, &value).map_err(|error| with_causes(&error))?;
            info!(device = attachment.host_device, id = %attachment.id, "its record was missing and is there again");
        }
        let second = data_plane.repair_guards().map_err(|error| with_causes(&error))?;
        self.count(&second);
        Ok(second)
    }

    /// Others may have brought a pod's device down and up again, which costs its routes, or have flushed them.
    fn wire_again(&self, attachments: &[Attachment]) {
        // Without facts nothing was ever wired.
        let Ok(facts) = NodeFacts::read(&self.run_dir) else { return };
        for attachment in attachments.iter().filter(|attachment| attachment.stage == Stage::Wired) {
            match wire::repair(attachment, &facts.pins) {
                Ok(missing) if missing.is_empty() => {}
                Ok(missing) => {
                    warn!(id = %attachment.id, missing = missing.join("; "), "a pod's way was broken and is mended");
                    self.metrics.pod_repairs.get_or_create(&[("kind", "wiring")]).inc();
                }
                // Its namespace is gone: the keeper of pods sees to that.
                Err(wire::WireError::Gone(_) | wire::WireError::OtherNamespace(_)) => {}
                Err(error) => {
                    warn!(id = %attachment.id, error = with_causes(&error), "cannot mend a pod's way");
                }
            }
        }
    }

    /// The map may be new, or somebody has emptied it: pods that were not to be translated at their sockets still are not.
    fn leave_sockets_alone(&self, attachments: &[Attachment]) -> Result<(), String> {
        let is_switched = |it: &&Attachment| it.stage == Stage::Wired && it.socket_lb_off;
        let switched: Vec<&Attachment> = attachments.iter().filter(is_switched).collect();
        if switched.is_empty() {
            return Ok(());
        }
        let mut map = PacketOnly::open(&self.pin_dir).map_err(|error| with_causes(&error))?;
        let listed = map.list().map_err(|error| with_causes(&error))?;
        for attachment in switched.iter().filter(|it| !listed.contains(&it.netns.cookie)) {
            let cookie = attachment.netns.cookie;
            map.translate_sockets(cookie, false).map_err(|error| with_causes(&error))?;
            info!(id = %attachment.id, "its sockets were translated, and are left alone again as its annotation says");
        }
        Ok(())
    }

    fn attachments(&self) -> Result<Vec<Attachment>, String> {
        Store::open(&self.run_dir).and_then(|store| store.list()).map_err(|error| with_causes(&error))
    }

    fn count(&self, repair: &GuardRepair) {
        for index in &repair.attached {
            warn!(index, "a pod's device had no guard and has it again");
        }
        for index in &repair.gone {
            info!(index, "the guard of a device that is gone was removed");
        }
        let repaired = u64::try_from(repair.attached.len() + repair.gone.len()).unwrap_or(u64::MAX);
        self.metrics.pod_repairs.get_or_create(&[("kind", "guard")]).inc_by(repaired);
    }
}

/// The pods that have a device and no record for the guard to go by: the map is new, or somebody emptied it. What is
/// being attached gets its record from the plugin.
fn missing<'a>(
    attachments: &'a [Attachment],
    repair: &GuardRepair,
    index_of: impl Fn(&str) -> Option<u32>,
) -> BTreeMap<u32, &'a Attachment> {
    let wired = attachments.iter().filter(|attachment| attachment.stage == Stage::Wired);
    let present = wired.filter_map(|attachment| Some((index_of(&attachment.host_device)?, attachment)));
    present
        .filter(|(index, _)| !repair.guarded.contains(index) && !repair.failed.contains_key(index))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::sample::attachment;

    #[test]
    fn a_pod_that_is_wired_and_not_guarded_gets_its_record_again() {
        let pods = [
            attachment("guarded", "a"),
            attachment("bare", "b"),
            attachment("gone", "c"),
            Attachment { stage: Stage::Reserved, ..attachment("coming", "d") },
        ];
        let names: Vec<String> = pods.iter().map(|pod| pod.host_device.clone()).collect();
        let index_of = |name: &str| {
            let place = names.iter().position(|known| known == name)?;
            (place != 2).then(|| u32::try_from(place).unwrap())
        };
        let repair = GuardRepair { guarded: BTreeSet::from([0]), ..GuardRepair::default() };
        let found = missing(&pods, &repair, index_of);
        assert_eq!(
            found.into_iter().map(|(index, pod)| (index, &*pod.id.container_id)).collect::<Vec<_>>(),
            [(1, "bare")]
        );
    }
}
