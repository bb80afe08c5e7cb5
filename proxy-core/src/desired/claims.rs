//! Which Service owns a frontend that several claim.
//!
//! The owner is a function of the set of claims, never of their order in time: first by kind, in the order of
//! [`FrontendKind`], then the older Service, then the lesser name. Must not know why a Service claims a frontend.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    subject::Subject,
    types::{DesiredService, FrontendKey, FrontendKind},
};
use crate::model::ObjectName;

/// What a Service claims, sorted by key; each key once.
type KeyClaims = Box<[(FrontendKey, FrontendKind)]>;

/// A Service as a claimant. The order is that of precedence; a Service without a creation time counts as the newest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    created: i64,
    name: ObjectName,
}

/// One claim. The order is that of precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    kind: FrontendKind,
    claimant: Arc<Claimant>,
}

/// The claims on one key. Nearly always one, so only further ones cost an allocation.
#[derive(Debug)]
struct Contest {
    owner: Claim,
    losers: Vec<Claim>,
}

/// All claims.
#[derive(Debug, Default)]
pub(super) struct Claims {
    contests: HashMap<FrontendKey, Contest>,
    services: BTreeMap<ObjectName, (Arc<Claimant>, KeyClaims)>,
}

impl Claims {
    /// Replaces what `subject` claims by the frontends of `desired`. Returns the Services whose result this may
    /// change, besides itself: every claimant of a key that has another owner now.
    pub(super) fn replace(&mut self, subject: Subject<'_>, desired: &DesiredService) -> BTreeSet<ObjectName> {
        let created = subject.created().unwrap_or(i64::MAX);
        let claimant = Arc::new(Claimant { created, name: subject.name().clone() });
        self.exchange(subject.name(), Some((claimant, key_claims(desired))))
    }

    /// Removes all claims of a Service. Returns what [`Claims::replace`] returns.
    pub(super) fn remove(&mut self, service: &ObjectName) -> BTreeSet<ObjectName> {
        self.exchange(service, None)
    }

    /// The owner of `key`.
    pub(super) fn owner(&self, key: &FrontendKey) -> Option<&ObjectName> {
        self.contests.get(key).map(|contest| &contest.owner.claimant.name)
    }

    fn exchange(
        &mut self,
        name: &ObjectName,
        wanted: Option<(Arc<Claimant>, KeyClaims)>,
    ) -> BTreeSet<ObjectName> {
        let held = self.services.remove(name);
        if held == wanted {
            self.services.extend(held.map(|held| (name.clone(), held)));
            return BTreeSet::new();
        }
        let keys: BTreeSet<FrontendKey> =
            held.iter().chain(&wanted).flat_map(|(_, claims)| claims.iter().map(|(key, _)| *key)).collect();
        let kind_in = |claims: &KeyClaims, key: &FrontendKey| {
            let index = claims.binary_search_by_key(key, |(key, _)| *key).ok()?;
            claims.get(index).map(|(_, kind)| *kind)
        };
        let mut affected = BTreeSet::new();
        for key in keys {
            let claim = wanted.as_ref().and_then(|(claimant, claims)| {
                Some(Claim { kind: kind_in(claims, &key)?, claimant: Arc::clone(claimant) })
            });
            self.settle(key, name, claim, &mut affected);
        }
        self.services.extend(wanted.map(|wanted| (name.clone(), wanted)));
        affected.remove(name);
        affected
    }

    /// Replaces the claim of `name` on `key`, and adds every claimant to `affected` if the owner is another then.
    fn settle(
        &mut self,
        key: FrontendKey,
        name: &ObjectName,
        claim: Option<Claim>,
        affected: &mut BTreeSet<ObjectName>,
    ) {
        let contest = self.contests.remove(&key);
        let before = contest.as_ref().map(|contest| contest.owner.claimant.name.clone());
        let mut claims: Vec<Claim> = contest
            .into_iter()
            .flat_map(|contest| [contest.owner].into_iter().chain(contest.losers))
            .collect();
        claims.retain(|held| held.claimant.name != *name);
        claims.extend(claim);
        claims.sort_unstable();
        if claims.first().map(|owner| &owner.claimant.name) != before.as_ref() {
            affected.extend(claims.iter().map(|claim| claim.claimant.name.clone()));
        }
        let mut claims = claims.into_iter();
        if let Some(owner) = claims.next() {
            let mut losers: Vec<Claim> = claims.collect();
            losers.shrink_to_fit();
            self.contests.insert(key, Contest { owner, losers });
        }
    }
}

fn key_claims(desired: &DesiredService) -> KeyClaims {
    let frontends = desired.ports.iter().flat_map(|port| port.frontends.iter().chain(&port.unbound));
    let mut claims: Vec<_> = frontends.map(|frontend| (frontend.key, frontend.kind)).collect();
    claims.sort_unstable();
    claims.into_boxed_slice()
}
