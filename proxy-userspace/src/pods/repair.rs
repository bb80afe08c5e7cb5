//! What is left over of pods, and when it may be removed.
//!
//! Nothing is removed on one look: what is suspect must have been so for a whole grace period, at every look between.
//! Must not know how anything is found or removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use cni::record::{Attachment, AttachmentId, Stage};

/// A deletion or an attachment that is under way looks like a leftover for less than this.
const GRACE: Duration = Duration::from_mins(1);
/// No runtime waits so long for an attachment (kubelet: 4 min).
const LONGEST_ADD: Duration = Duration::from_mins(15);

/// What one look found. Attachments are read last: what was seen before them is remembered among them by then, unless
/// it is left over.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Sight {
    /// The cookies of the network namespaces that there are.
    pub namespaces: BTreeSet<u64>,
    /// Our devices in the host's network namespace.
    pub devices: BTreeSet<String>,
    /// Those of them behind which some process runs.
    pub inhabited: BTreeSet<String>,
    /// The namespaces in the map `packet_only`.
    pub packet_only: BTreeSet<u64>,
    /// What the plugin remembers.
    pub attachments: Vec<Attachment>,
    /// Files of the plugin that cannot be read, with the device of each.
    pub damaged: BTreeMap<PathBuf, String>,
}

/// Something to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// An attachment, with its addresses, ports and wiring.
    Release {
        /// The attachment.
        attachment: Box<Attachment>,
        /// Why it is no pod's any more.
        reason: &'static str,
    },
    /// A device without an attachment.
    Device(String),
    /// A file that cannot be read, of an attachment whose device is gone.
    Damaged(PathBuf),
    /// An entry of `packet_only` for a namespace that is gone.
    Cookie(u64),
}

/// What may be left over: a later attachment of the same container is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Suspect {
    Gone(AttachmentId, u64),
    Unfinished(AttachmentId, u64),
    Device(String),
    Damaged(PathBuf),
    Cookie(u64),
}

impl Suspect {
    fn grace(&self) -> Duration {
        match self {
            Self::Unfinished(..) => LONGEST_ADD,
            Self::Gone(..) | Self::Device(_) | Self::Damaged(_) | Self::Cookie(_) => GRACE,
        }
    }
}

/// Since when something has been suspect, by any clock that does not go back.
#[derive(Debug, Default)]
pub struct Judge {
    since: BTreeMap<Suspect, Duration>,
}

impl Judge {
    /// What has been suspect for long enough at `now`. It comes again with the next look unless it is gone then.
    pub fn judge(&mut self, sight: &Sight, now: Duration) -> Vec<Repair> {
        let before = std::mem::take(&mut self.since);
        let mut due = Vec::new();
        for (suspect, repair) in suspects(sight) {
            let since = before.get(&suspect).copied().unwrap_or(now);
            if before.contains_key(&suspect) && now.saturating_sub(since) >= suspect.grace() {
                due.push(repair);
            }
            self.since.insert(suspect, since);
        }
        due
    }
}

fn suspects(sight: &Sight) -> Vec<(Suspect, Repair)> {
    let attachments = sight.attachments.iter().filter_map(|attachment| suspicion(attachment, sight));
    let known: BTreeSet<&String> =
        sight.attachments.iter().map(|it| &it.host_device).chain(sight.damaged.values()).collect();
    // Whoever removed the plugin's files by hand has not removed the pods: what is in use stays.
    let devices = sight.devices.difference(&sight.inhabited).filter(|name| !known.contains(name));
    let damaged = sight.damaged.iter().filter(|(_, device)| !sight.devices.contains(*device));
    let of_pods: BTreeSet<u64> = sight.attachments.iter().map(|it| it.netns.cookie).collect();
    let cookies =
        sight.packet_only.iter().filter(|it| !sight.namespaces.contains(it) && !of_pods.contains(it));
    attachments
        .chain(devices.map(|name| (Suspect::Device(name.clone()), Repair::Device(name.clone()))))
        .chain(damaged.map(|(path, _)| (Suspect::Damaged(path.clone()), Repair::Damaged(path.clone()))))
        .chain(cookies.map(|cookie| (Suspect::Cookie(*cookie), Repair::Cookie(*cookie))))
        .collect()
}

/// The host's end of a pair lives as long as the namespace of the other: while it is there, so is the pod's namespace,
/// whether or not it can be found.
fn suspicion(attachment: &Attachment, sight: &Sight) -> Option<(Suspect, Repair)> {
    let (id, cookie) = (attachment.id.clone(), attachment.netns.cookie);
    let lives = sight.namespaces.contains(&cookie) || sight.devices.contains(&attachment.host_device);
    let (suspect, reason) = match attachment.stage {
        _ if !lives => (Suspect::Gone(id, cookie), "its network namespace is gone"),
        Stage::Reserved => (Suspect::Unfinished(id, cookie), "it was never finished"),
        Stage::Wired => return None,
    };
    Some((suspect, Repair::Release { attachment: Box::new(attachment.clone()), reason }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::sample::attachment;

    const MINUTE: Duration = Duration::from_mins(1);

    /// A pod that is as it should be, in the namespace with cookie 7.
    fn healthy() -> Sight {
        let web = attachment("c1", "web");
        Sight {
            namespaces: BTreeSet::from([1, 7]),
            devices: BTreeSet::from([web.host_device.clone()]),
            inhabited: BTreeSet::from([web.host_device.clone()]),
            packet_only: BTreeSet::from([7]),
            attachments: vec![web],
            damaged: BTreeMap::new(),
        }
    }

    /// What is removed at the looks of the first `minutes` minutes, if everything stays as it is.
    fn within(minutes: u32, sight: &Sight) -> Vec<Vec<Repair>> {
        let mut judge = Judge::default();
        (0..=minutes).map(|minute| judge.judge(sight, MINUTE * minute)).collect()
    }

    fn release(sight: &Sight, reason: &'static str) -> Repair {
        Repair::Release { attachment: Box::new(sight.attachments[0].clone()), reason }
    }

    #[test]
    fn a_pod_that_lives_is_left_alone() {
        assert!(within(60, &healthy()).concat().is_empty());
    }

    #[test]
    fn an_attachment_whose_namespace_is_gone_is_released_at_the_second_look() {
        let sight = Sight { namespaces: BTreeSet::from([1]), devices: BTreeSet::new(), ..healthy() };
        let wanted = release(&sight, "its network namespace is gone");
        assert_eq!(within(1, &sight), [vec![], vec![wanted]]);
    }

    #[test]
    fn a_namespace_that_cannot_be_found_lives_while_its_device_does() {
        let sight = Sight { namespaces: BTreeSet::from([1]), ..healthy() };
        assert!(within(60, &sight).concat().is_empty());
    }

    #[test]
    fn the_grace_begins_anew_when_it_was_there_in_between_or_is_another_one() {
        let gone = Sight {
            namespaces: BTreeSet::from([1]),
            devices: BTreeSet::new(),
            packet_only: BTreeSet::new(),
            ..healthy()
        };
        let mut judge = Judge::default();
        assert!(judge.judge(&gone, Duration::ZERO).is_empty());
        assert!(judge.judge(&gone, MINUTE / 2).is_empty());
        judge.judge(&healthy(), MINUTE * 3 / 4);
        assert!(judge.judge(&gone, MINUTE).is_empty());
        let mut again = gone.clone();
        again.attachments[0].netns.cookie = 8;
        assert!(judge.judge(&again, MINUTE * 3).is_empty());
        assert_eq!(judge.judge(&again, MINUTE * 4).len(), 1);
    }

    #[test]
    fn an_attachment_that_was_never_finished_has_the_time_that_runtimes_have() {
        let mut sight = healthy();
        sight.attachments[0].stage = Stage::Reserved;
        let looks = within(15, &sight);
        assert!(looks[..15].concat().is_empty());
        assert_eq!(looks[15], [release(&sight, "it was never finished")]);
    }

    #[test]
    fn a_device_without_an_attachment_is_removed_unless_somebody_uses_it_or_its_record_is_damaged() {
        let leftover = Sight { attachments: Vec::new(), inhabited: BTreeSet::new(), ..healthy() };
        let name = leftover.devices.first().unwrap().clone();
        assert_eq!(within(1, &leftover), [vec![], vec![Repair::Device(name.clone())]]);
        let inhabited = Sight { inhabited: leftover.devices.clone(), ..leftover.clone() };
        assert!(within(60, &inhabited).concat().is_empty());
        let damaged = BTreeMap::from([(PathBuf::from("/x"), name)]);
        assert!(within(60, &Sight { damaged: damaged.clone(), ..leftover.clone() }).concat().is_empty());
        let both_gone = Sight { damaged, devices: BTreeSet::new(), ..leftover };
        assert_eq!(within(1, &both_gone)[1], [Repair::Damaged("/x".into())]);
    }

    #[test]
    fn an_entry_for_a_namespace_that_is_gone_is_removed() {
        let sight = Sight { packet_only: BTreeSet::from([1, 7, 9]), ..healthy() };
        assert_eq!(within(1, &sight)[1], [Repair::Cookie(9)]);
    }
}
