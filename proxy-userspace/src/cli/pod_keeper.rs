//! Looks for what is left over of pods at the start and every minute, and removes it.
//!
//! Must not know when something is left over ([`crate::pods::repair`]), nor how a pod is wired.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use cni::{
    facts::{NodeFacts, Pins},
    record::{Attachment, AttachmentId, HOST_DEVICE_PREFIX},
    store::Store,
    wire,
};
use tokio::{
    task,
    time::{self, Instant},
};
use tracing::{info, warn};

use super::with_causes;
use crate::{
    dataplane::PacketOnly,
    devices,
    metrics::Metrics,
    pods::repair::{Judge, Repair, Sight},
    sockets,
};

/// Between two looks; a leftover is removed at the second.
const ROUND: Duration = Duration::from_mins(1);

/// See the module.
pub(super) struct PodKeeper {
    pub(super) run_dir: PathBuf,
    pub(super) pin_dir: PathBuf,
    pub(super) metrics: Metrics,
}

impl PodKeeper {
    /// Keeps on for ever.
    pub(super) async fn run(self) {
        let (keeper, start) = (Arc::new(self), Instant::now());
        let (mut judge, mut complaints) = (Judge::default(), BTreeSet::new());
        loop {
            let troubles = keeper.round(&mut judge, start.elapsed()).await;
            for trouble in troubles.difference(&complaints) {
                warn!("leftovers of pods: {trouble}; trying again every minute");
            }
            complaints = troubles;
            // Nodes of a cluster do not look in step; no look comes before the grace period has passed.
            time::sleep(ROUND.mul_f64(1.0 + 0.1 * fastrand::f64())).await;
        }
    }

    /// Returns what went wrong.
    async fn round(self: &Arc<Self>, judge: &mut Judge, now: Duration) -> BTreeSet<String> {
        let (sight, mut troubles) = match self.look().await {
            Ok(seen) => seen,
            Err(error) => return BTreeSet::from([error]),
        };
        let due = judge.judge(&sight, now);
        if due.is_empty() {
            return troubles;
        }
        let keeper = Arc::clone(self);
        let repaired = task::spawn_blocking(move || keeper.repair(&due)).await;
        troubles.extend(repaired.unwrap_or_else(|error| BTreeSet::from([error.to_string()])));
        troubles
    }

    /// What there is, and what is wrong with it that is not to be repaired.
    async fn look(self: &Arc<Self>) -> Result<(Sight, BTreeSet<String>), String> {
        let inhabited = run_blocking(|| Ok(sockets::inhabited_namespaces())).await?;
        let devices = devices::pairs(HOST_DEVICE_PREFIX, &inhabited).await.map_err(|it| with_causes(&it))?;
        let keeper = Arc::clone(self);
        run_blocking(move || keeper.look_further(devices)).await
    }

    fn look_further(&self, devices: devices::Pairs) -> Result<(Sight, BTreeSet<String>), String> {
        let mut namespaces =
            sockets::netns_cookies().map_err(|error| format!("network namespaces: {error}"))?;
        let mut troubles = BTreeSet::new();
        let packet_only = self.packet_only().unwrap_or_else(|error| {
            troubles.insert(error);
            BTreeSet::new()
        });
        let store = Store::open(&self.run_dir).map_err(|error| with_causes(&error))?;
        let attachments = store.list().map_err(|error| with_causes(&error))?;
        let damaged = store.damaged().map_err(|error| with_causes(&error))?;
        for attachment in &attachments {
            if !namespaces.contains(&attachment.netns.cookie) {
                namespaces.extend(there(attachment, &mut troubles));
            }
        }
        troubles.extend(damaged.iter().map(|it| format!("{}: {}", it.path.display(), it.reason)));
        let damaged: BTreeMap<PathBuf, String> =
            damaged.into_iter().map(|damaged| (damaged.path, damaged.host_device)).collect();
        let devices::Pairs { all, inhabited } = devices;
        let sight = Sight { namespaces, devices: all, inhabited, packet_only, attachments, damaged };
        Ok((sight, troubles))
    }

    fn packet_only(&self) -> Result<BTreeSet<u64>, String> {
        let map = PacketOnly::open(&self.pin_dir).map_err(|error| with_causes(&error))?;
        map.list().map(|cookies| cookies.into_iter().collect()).map_err(|error| with_causes(&error))
    }

    fn repair(&self, due: &[Repair]) -> BTreeSet<String> {
        // Without facts nothing was ever pinned for the plugin.
        let pins = NodeFacts::read(&self.run_dir).ok().map(|facts| facts.pins);
        let mut troubles = BTreeSet::new();
        for repair in due {
            match self.perform(repair, pins.as_ref()) {
                Ok(false) => {}
                Ok(true) => self.count(repair),
                Err(error) => drop(troubles.insert(error)),
            }
        }
        troubles
    }

    /// Returns whether it was still to be done.
    fn perform(&self, repair: &Repair, pins: Option<&Pins>) -> Result<bool, String> {
        let store = || Store::open(&self.run_dir).map_err(|error| with_causes(&error));
        match repair {
            Repair::Release { attachment, .. } => {
                wire::disconnect(attachment, pins).map_err(|error| with_causes(&error))?;
                store()?.release_unchanged(attachment).map_err(|error| with_causes(&error))
            }
            Repair::Device(name) => {
                wire::disconnect(&stranger(name), pins).map_err(|error| with_causes(&error))?;
                Ok(true)
            }
            Repair::Damaged(path) => {
                let store = store()?;
                let damaged = store.damaged().map_err(|error| with_causes(&error))?;
                let Some(found) = damaged.iter().find(|it| it.path == *path) else { return Ok(false) };
                store.discard(found).map_err(|error| with_causes(&error))
            }
            Repair::Cookie(cookie) => {
                let map = PacketOnly::open(&self.pin_dir).map_err(|error| with_causes(&error));
                map?.translate_sockets(*cookie, true).map_err(|error| with_causes(&error))?;
                Ok(true)
            }
        }
    }

    fn count(&self, repair: &Repair) {
        let kind = match repair {
            Repair::Release { attachment, reason } => {
                let Attachment { id, pod, addresses, .. } = &**attachment;
                info!(%id, pod = %format_args!("{}/{}", pod.namespace, pod.name), ?addresses, "released: {reason}");
                "attachment"
            }
            Repair::Device(name) => {
                info!(device = name, "removed: it belongs to no attachment");
                "device"
            }
            Repair::Damaged(path) => {
                info!(path = %path.display(), "removed: it cannot be read, and its device is gone");
                "damaged"
            }
            Repair::Cookie(cookie) => {
                info!(cookie, "removed from `packet_only`: the network namespace is gone");
                "packet_only"
            }
        };
        self.metrics.pod_repairs.get_or_create(&[("kind", kind)]).inc();
    }
}

/// The namespace at the path that the runtime told, which may be where nothing else is found. One that cannot be entered
/// is taken for the attachment's.
fn there(attachment: &Attachment, troubles: &mut BTreeSet<String>) -> Option<u64> {
    match wire::identify(&attachment.netns_path) {
        Ok(netns) => netns.map(|netns| netns.cookie),
        Err(error) => {
            troubles.insert(with_causes(&error));
            Some(attachment.netns.cookie)
        }
    }
}

/// An attachment of which nothing is left but the device of this name.
fn stranger(name: &str) -> Attachment {
    let nobody = AttachmentId { container_id: String::new(), ifname: String::new() };
    Attachment { host_device: name.to_owned(), ..Attachment::of(nobody) }
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, process::Command, thread};

    use cni::{record::Ipam, store::Wish};
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::pods::sample::attachment;

    /// The thread's end is the namespace's, unless the file is kept.
    fn in_new_namespace<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let inside = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::spawn(inside).join().unwrap()
    }

    fn ip(words: &str) {
        assert!(Command::new("ip").args(words.split_whitespace()).status().unwrap().success(), "ip {words}");
    }

    /// A process in a network namespace.
    struct Somebody(std::process::Child);

    impl Somebody {
        fn inside(path: &str) -> Self {
            let mut command = Command::new("nsenter");
            let somebody = Self(command.arg(format!("--net={path}")).args(["sleep", "600"]).spawn().unwrap());
            let identity =
                |path: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
            let own = format!("/proc/{}/ns/net", somebody.0.id());
            for _ in 0..1000 {
                if identity(&own) == identity(path) {
                    return somebody;
                }
                thread::sleep(Duration::from_millis(10));
            }
            panic!("it does not enter {path}");
        }
    }

    impl Drop for Somebody {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn keeper(dir: &std::path::Path) -> Arc<PodKeeper> {
        let (run_dir, pin_dir) = (dir.to_owned(), dir.join("none"));
        Arc::new(PodKeeper { run_dir, pin_dir, metrics: Metrics::default() })
    }

    fn names() -> Vec<String> {
        let names = nix::net::if_::if_nameindex().unwrap();
        names.iter().map(|it| it.name().to_string_lossy().into_owned()).filter(|name| name != "lo").collect()
    }

    #[test]
    #[ignore = "needs root: it makes network namespaces and devices"]
    fn what_is_left_over_is_removed_at_the_second_look_and_what_is_used_stays() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = keeper(dir.path());
        in_new_namespace(move || {
            let empty = in_new_namespace(|| File::open("/proc/thread-self/ns/net").unwrap());
            let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&empty));
            // A pod that lives, one whose namespace is gone, and a device that nobody remembers.
            let store = Store::open(dir.path()).unwrap();
            let mut living = attachment("living", "web");
            living.netns = wire::identify(path.as_ref()).unwrap().unwrap();
            living.netns_path = path.clone().into();
            let mut gone = attachment("gone", "job");
            gone.netns.cookie = u64::MAX;
            for (record, last) in [(&mut living, 1), (&mut gone, 2)] {
                record.addresses = vec![std::net::Ipv4Addr::new(10, 1, 0, last).into()];
                record.ipam = Ipam::Delegated("test".to_owned());
                store.reserve(record.clone(), &Wish::default()).unwrap();
                store.commit(&record.id).unwrap();
            }
            ip(&format!("link add {} type veth peer name eth0 netns {path}", living.host_device));
            ip(&format!("link add shv0123456789ab type veth peer name eth1 netns {path}"));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut judge = Judge::default();
            runtime.block_on(keeper.round(&mut judge, Duration::ZERO));
            assert_eq!((names().len(), store.list().unwrap().len()), (2, 2), "nothing on one look");
            let somebody = Somebody::inside(&path);
            runtime.block_on(keeper.round(&mut judge, ROUND));
            let left = store.list().unwrap();
            assert_eq!(left.iter().map(|it| it.id.container_id.as_str()).collect::<Vec<_>>(), ["living"]);
            assert_eq!(names().len(), 2, "somebody lives behind it");
            drop(somebody);
            runtime.block_on(keeper.round(&mut judge, ROUND * 2));
            runtime.block_on(keeper.round(&mut judge, ROUND * 3));
            assert_eq!(names(), [living.host_device.clone()]);
            let count = |kind| keeper.metrics.pod_repairs.get_or_create(&[("kind", kind)]).get();
            assert_eq!((count("attachment"), count("device")), (1, 1));
            drop((empty, dir));
        });
    }
}
