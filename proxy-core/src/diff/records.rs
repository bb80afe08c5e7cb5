//! The shadow of `services4` and `services6`: what each record is in the kernel, and who wants it.
//!
//! Must not know where a record's backends are or in which order records are written.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use proxy_common::{Scope, ServiceFlags, ServiceValue};

use crate::{desired::Family, entries::RecordKey, ids::PerFamily, model::ObjectName};

/// A record in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Realised {
    /// There is none.
    #[default]
    Absent,
    /// There is one that readers refuse, or whose ring range is impossible: it refers to nothing.
    Torn,
    /// A whole record.
    Whole(ServiceValue),
}

/// A frontend that is wanted, or in the kernel, or both.
#[derive(Clone, Debug, Default)]
struct Frontend {
    realised: Realised,
    /// The Service that wants it, or was the last to; unknown for what a predecessor left.
    owner: Option<Arc<ObjectName>>,
    /// The owner still wants it.
    wanted: bool,
    /// Its kind owns the address: other ports are refused.
    owns_address: bool,
}

/// An address record in the kernel. Only its flags mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum RealisedAddress {
    /// There is none.
    #[default]
    Absent,
    /// There is one that is not as we write them.
    Torn,
    /// One with these flags.
    Flags(u32),
}

/// An address with frontends.
#[derive(Clone, Copy, Debug, Default)]
struct Address {
    realised: RealisedAddress,
    /// Frontends in the kernel.
    present: u32,
    /// Those of them that are to be deleted.
    doomed: u32,
    /// Wanted frontends whose kind owns the address.
    owning: u32,
    /// Wanted frontends whose kind does not.
    sharing: u32,
}

/// What is to be done about an address record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressWrite {
    /// There is no usable one: put it before the frontends.
    Add(ServiceValue),
    /// Put it after the frontends.
    Change(ServiceValue),
    /// Delete it after the frontends.
    Delete,
}

/// All service records and address records.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    frontends: BTreeMap<RecordKey, Frontend>,
    addresses: BTreeMap<RecordKey, Address>,
    /// Frontends in the kernel that nobody wants.
    doomed: BTreeSet<RecordKey>,
    /// Addresses whose record may differ from what it should be.
    unsettled: BTreeSet<RecordKey>,
    /// Entries of both kinds: places taken or promised in each map.
    used: PerFamily<u32>,
}

impl Records {
    /// Places taken or promised in the map of a family.
    pub(super) fn used(&self, family: Family) -> u32 {
        *self.used.get(family)
    }

    /// Whether a place for this record is taken or promised already.
    pub(super) fn has_place(&self, key: &RecordKey) -> bool {
        self.frontends.contains_key(key) || self.addresses.contains_key(key)
    }

    /// What the kernel holds for a frontend.
    pub(super) fn realised(&self, key: &RecordKey) -> Realised {
        self.frontends.get(key).map_or(Realised::Absent, |frontend| frontend.realised)
    }

    /// The service id of a frontend's whole record in the kernel.
    pub(super) fn service_id(&self, key: &RecordKey) -> Option<u32> {
        match self.realised(key) {
            Realised::Whole(value) => Some(value.service_id).filter(|id| *id != 0),
            Realised::Absent | Realised::Torn => None,
        }
    }

    /// Whether the kind of a wanted frontend owns its address.
    pub(super) fn owns_address(&self, key: &RecordKey) -> bool {
        self.frontends.get(key).is_some_and(|frontend| frontend.owns_address)
    }

    /// Whether a predecessor left a frontend, and nobody wants it yet.
    pub(super) fn is_orphan(&self, key: &RecordKey) -> bool {
        self.frontends.get(key).is_some_and(|frontend| frontend.owner.is_none()) && !self.doomed.contains(key)
    }

    /// Whether a Service wants a frontend.
    pub(super) fn is_wanted(&self, key: &RecordKey) -> bool {
        self.frontends.get(key).is_some_and(|frontend| frontend.wanted)
    }

    /// The Service that wants a frontend.
    pub(super) fn wanted_by(&self, key: &RecordKey) -> Option<Arc<ObjectName>> {
        self.frontends.get(key).filter(|frontend| frontend.wanted)?.owner.clone()
    }

    /// Whether the kernel refuses unknown ports of a frontend's address: one that owns it was there.
    pub(super) fn was_owned(&self, key: &RecordKey) -> bool {
        let realised = self.addresses.get(&key.address_record()).map(|address| address.realised);
        matches!(realised, Some(RealisedAddress::Flags(flags)) if ServiceFlags(flags).has(ServiceFlags::REFUSE_UNKNOWN_PORT))
    }

    /// The frontend for clients outside that is beside this one in the kernel, as it is if the address was an external IP.
    pub(super) fn outside(&self, key: &RecordKey) -> Option<RecordKey> {
        let outside = RecordKey { scope: Scope::External as u8, ..*key };
        (outside != *key && self.service_id(&outside) == self.service_id(key)).then_some(outside)
    }

    /// A Service wants a frontend. Returns the Service that it is taken from, if that is another one, and whether that
    /// one owned the address.
    pub(super) fn want(
        &mut self,
        key: RecordKey,
        owner: &Arc<ObjectName>,
        owns_address: bool,
    ) -> Option<(Arc<ObjectName>, bool)> {
        let frontend = self.place_frontend(key);
        let before = frontend.owner.replace(Arc::clone(owner));
        let was_wanted = mem::replace(&mut frontend.wanted, true);
        let owned_address = mem::replace(&mut frontend.owns_address, owns_address);
        let was_doomed = self.doomed.remove(&key);
        self.change_address(key.address_record(), |address| {
            if was_wanted {
                address.count_wanted(owned_address, u32::saturating_sub);
            }
            address.count_wanted(owns_address, u32::saturating_add);
            address.doomed = address.doomed.saturating_sub(was_doomed.into());
        });
        before.filter(|before| was_wanted && before != owner).map(|before| (before, owned_address))
    }

    /// Nobody wants a frontend any more.
    pub(super) fn unwant(&mut self, key: RecordKey) {
        let Some(frontend) = self.frontends.get_mut(&key) else { return };
        let was_wanted = mem::replace(&mut frontend.wanted, false);
        let owned_address = frontend.owns_address;
        let realised = frontend.realised != Realised::Absent;
        let newly_doomed = realised && self.doomed.insert(key);
        if !realised {
            self.remove_frontend(&key);
        }
        self.change_address(key.address_record(), |address| {
            if was_wanted {
                address.count_wanted(owned_address, u32::saturating_sub);
            }
            address.doomed = address.doomed.saturating_add(newly_doomed.into());
        });
    }

    /// Every frontend in the kernel that nobody wants is to be deleted, and every address record is to be looked at.
    pub(super) fn unwant_orphans(&mut self) {
        let orphans = self.frontends.iter().filter(|(_, frontend)| !frontend.wanted).map(|(key, _)| *key);
        orphans.collect::<Vec<_>>().into_iter().for_each(|key| self.unwant(key));
        self.unsettled.extend(self.addresses.keys());
    }

    /// The kernel holds this for a frontend now. Returns what it held before.
    pub(super) fn realise(&mut self, key: RecordKey, now: Realised) -> Realised {
        let frontend = self.place_frontend(key);
        let before = mem::replace(&mut frontend.realised, now);
        let is_wanted = frontend.wanted;
        let (was, is) = (before != Realised::Absent, now != Realised::Absent);
        let was_doomed = !is && self.doomed.remove(&key);
        if !is && !is_wanted {
            self.remove_frontend(&key);
        }
        self.change_address(key.address_record(), |address| {
            address.present = address.present.saturating_add(is.into()).saturating_sub(was.into());
            address.doomed = address.doomed.saturating_sub(was_doomed.into());
        });
        before
    }

    /// The kernel holds this for an address now. Of the address records that a predecessor may have left, those that are
    /// not where frontends look are nobody's.
    pub(super) fn realise_address(&mut self, key: RecordKey, now: Realised) {
        let now = match now {
            Realised::Absent => RealisedAddress::Absent,
            Realised::Whole(value)
                if value == (ServiceValue { check: value.check, ..address_record(value.flags) }) =>
            {
                RealisedAddress::Flags(value.flags)
            }
            Realised::Whole(_) | Realised::Torn => RealisedAddress::Torn,
        };
        self.change_address(key, |address| address.realised = now);
    }

    /// The frontends to delete.
    pub(super) fn doomed(&self) -> impl Iterator<Item = RecordKey> {
        self.doomed.iter().copied()
    }

    /// What is to be done about address records; forgets those that are as they should be.
    pub(super) fn unsettled(&mut self) -> Vec<(RecordKey, AddressWrite)> {
        let write = |key: &RecordKey| Some((*key, self.addresses.get(key)?.write()?));
        let writes: Vec<_> = self.unsettled.iter().filter_map(write).collect();
        self.unsettled = writes.iter().map(|(key, _)| *key).collect();
        writes
    }

    fn place_frontend(&mut self, key: RecordKey) -> &mut Frontend {
        if !self.frontends.contains_key(&key) {
            self.count(key.family(), u32::saturating_add);
        }
        self.frontends.entry(key).or_default()
    }

    fn remove_frontend(&mut self, key: &RecordKey) {
        if self.frontends.remove(key).is_some() {
            self.count(key.family(), u32::saturating_sub);
        }
    }

    fn change_address(&mut self, key: RecordKey, change: impl FnOnce(&mut Address)) {
        if !self.addresses.contains_key(&key) {
            self.count(key.family(), u32::saturating_add);
        }
        let address = self.addresses.entry(key).or_default();
        change(address);
        if address.is_gone() {
            self.addresses.remove(&key);
            self.unsettled.remove(&key);
            self.count(key.family(), u32::saturating_sub);
        } else {
            self.unsettled.insert(key);
        }
    }

    fn count(&mut self, family: Family, change: fn(u32, u32) -> u32) {
        let used = self.used.get_mut(family);
        *used = change(*used, 1);
    }
}

impl Address {
    fn count_wanted(&mut self, owns_address: bool, change: fn(u32, u32) -> u32) {
        let count = if owns_address { &mut self.owning } else { &mut self.sharing };
        *count = change(*count, 1);
    }

    fn is_gone(&self) -> bool {
        self.realised == RealisedAddress::Absent && self.present == 0 && self.owning == 0 && self.sharing == 0
    }

    fn write(&self) -> Option<AddressWrite> {
        if self.owning == 0 && self.sharing == 0 {
            let unused = self.present <= self.doomed && self.realised != RealisedAddress::Absent;
            return unused.then_some(AddressWrite::Delete);
        }
        // A guest (an external IP that somebody put on a ClusterIP) has a record of its own and is found; it must not be
        // able to switch off the refusal of the owner's other ports.
        let flags = if self.owning > 0 { ServiceFlags::REFUSE_UNKNOWN_PORT } else { 0 };
        match self.realised {
            RealisedAddress::Flags(realised) if realised == flags => None,
            RealisedAddress::Flags(_) => Some(AddressWrite::Change(address_record(flags))),
            RealisedAddress::Absent | RealisedAddress::Torn => Some(AddressWrite::Add(address_record(flags))),
        }
    }
}

/// An address record, without its check word.
const fn address_record(flags: u32) -> ServiceValue {
    ServiceValue {
        service_id: 0,
        generation: 0,
        flags,
        affinity_seconds: 0,
        ring_base: 0,
        ring_len: 0,
        keep_len: 0,
        check: 0,
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::Protocol;

    use super::*;

    fn key(port: u16) -> RecordKey {
        let (protocol, scope) = (Protocol::Tcp as u8, Scope::Internal as u8);
        RecordKey { address: [10, 96, 0, 1].into(), port, protocol, scope }
    }

    fn owner(name: &str) -> Arc<ObjectName> {
        Arc::new(ObjectName::new("shop", name))
    }

    fn refusing(write: &AddressWrite) -> Option<bool> {
        match write {
            AddressWrite::Add(value) | AddressWrite::Change(value) => {
                Some(value.flags().has(ServiceFlags::REFUSE_UNKNOWN_PORT))
            }
            AddressWrite::Delete => None,
        }
    }

    /// Performs the address writes, as the kernel would.
    fn settle(records: &mut Records) -> Vec<Option<bool>> {
        let writes = records.unsettled();
        for (key, write) in &writes {
            let now = match write {
                AddressWrite::Add(value) | AddressWrite::Change(value) => Realised::Whole(*value),
                AddressWrite::Delete => Realised::Absent,
            };
            records.realise_address(*key, now);
        }
        writes.iter().map(|(_, write)| refusing(write)).collect()
    }

    #[test]
    fn unknown_ports_are_refused_while_somebody_owns_the_address() {
        let mut records = Records::default();
        records.want(key(443), &owner("edge"), false);
        assert_eq!(settle(&mut records), [Some(false)]);
        records.want(key(80), &owner("cart"), true);
        assert_eq!(settle(&mut records), [Some(true)]);
        records.unwant(key(80));
        assert_eq!(settle(&mut records), [Some(false)]);
        records.want(key(80), &owner("cart"), true);
        records.unwant(key(443));
        assert_eq!(settle(&mut records), [Some(true)]);
        assert_eq!(settle(&mut records), []);
    }

    #[test]
    fn an_address_record_stays_while_a_frontend_is_in_the_kernel() {
        let mut records = Records::default();
        records.want(key(80), &owner("cart"), true);
        records.realise(key(80), Realised::Whole(address_record(0)));
        records.realise(key(81), Realised::Torn);
        settle(&mut records);
        records.unwant(key(80));
        assert_eq!(settle(&mut records), []);
        records.unwant_orphans();
        assert_eq!(records.doomed().collect::<Vec<_>>(), [key(80), key(81)]);
        assert_eq!(records.unsettled().len(), 1);
        for port in [80, 81] {
            records.realise(key(port), Realised::Absent);
        }
        assert_eq!(settle(&mut records), [None]);
        assert_eq!(
            (records.used(Family::V4), records.doomed().count(), records.unsettled().len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn a_doomed_frontend_that_is_wanted_again_is_not_counted_as_doomed() {
        let mut records = Records::default();
        for port in [80, 81] {
            records.realise(key(port), Realised::Whole(address_record(0)));
        }
        records.realise_address(key(0).address_record(), Realised::Whole(address_record(0)));
        records.unwant(key(80));
        records.want(key(80), &owner("cart"), false);
        records.unwant(key(80));
        assert_eq!(records.unsettled(), []);
    }

    #[test]
    fn a_frontend_can_change_hands() {
        let mut records = Records::default();
        assert_eq!(records.want(key(80), &owner("cart"), true), None);
        assert_eq!(records.want(key(80), &owner("cart"), true), None);
        assert_eq!(records.want(key(80), &owner("edge"), false), Some((owner("cart"), true)));
        assert_eq!((settle(&mut records), records.used(Family::V4)), (vec![Some(false)], 2));
        records.unwant(key(80));
        assert_eq!((records.used(Family::V4), records.used(Family::V6)), (1, 0));
    }
}
