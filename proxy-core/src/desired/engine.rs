//! The desired state across Services, kept up to date change by change.
//!
//! Owns the model and who claims which frontend; keeps no copy of the results. Must not know what is in the kernel.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    claims::Claims,
    node::NodeView,
    settings::Settings,
    subject::Subject,
    types::{DesiredService, Frontend, Warning},
};
use crate::model::{Event, ObjectName, Source, Store};

/// Desired state of the whole node.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    store: Store,
    claims: Claims,
    /// As of the last refresh; what has no warning is not in it.
    warnings: BTreeMap<ObjectName, Vec<Warning>>,
    node_warnings: Vec<Warning>,
}

impl Engine {
    /// An engine that has heard of nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            store: Store::new(settings.proxy_name.clone()),
            settings,
            claims: Claims::default(),
            warnings: BTreeMap::new(),
            node_warnings: Vec::new(),
        }
    }

    /// Takes in a change. Costs in proportion to the change; computes nothing yet.
    pub fn handle(&mut self, event: Event) {
        self.store.apply(event);
    }

    /// Whether each of `sources` has listed completely at least once. Until then nothing may be written or pruned.
    pub fn is_complete(&self, sources: &[Source]) -> bool {
        self.store.is_listed(sources)
    }

    /// The desired state of every Service and pod with host ports whose result may have changed since the last call:
    /// `None` if it is gone (or is not ours any more).
    ///
    /// When a frontend passes from one Service to another, both are in the same result, so that the caller can hand it
    /// over without a gap. Costs in proportion to the Services that changed.
    pub fn refresh(&mut self) -> BTreeMap<ObjectName, Option<DesiredService>> {
        let node = self.node_view();
        let mut affected = BTreeSet::new();
        let mut alone: BTreeMap<ObjectName, Option<DesiredService>> = BTreeMap::new();
        for name in self.store.take_dirty() {
            let subject = Subject::find(&self.store, &name);
            let desired = subject.map(|subject| subject.alone(&self.store, &node));
            affected.extend(match subject.zip(desired.as_ref()) {
                Some((subject, desired)) => self.claims.replace(subject, desired),
                None => self.claims.remove(&name),
            });
            alone.insert(name, desired);
        }
        affected.retain(|name| !alone.contains_key(name));
        for name in affected {
            let subject = Subject::find(&self.store, &name);
            let desired = subject.map(|subject| subject.alone(&self.store, &node));
            alone.insert(name, desired);
        }
        let settled: BTreeMap<_, _> =
            alone.into_iter().map(|(name, desired)| self.settled(name, desired)).collect();
        for (name, desired) in &settled {
            self.remember_warnings(name, desired.as_ref());
        }
        settled
    }

    /// The desired state of every Service and pod with host ports, computed from nothing but the model: what all results of
    /// [`Engine::refresh`] add up to. Costs in proportion to the cluster.
    pub fn all(&self) -> BTreeMap<ObjectName, DesiredService> {
        let (node, _) = NodeView::new(&self.settings, self.store.node(), self.store.addresses());
        let mut claims = Claims::default();
        let mut results = BTreeMap::new();
        for subject in Subject::all(&self.store) {
            let desired = subject.alone(&self.store, &node);
            claims.replace(subject, &desired);
            results.insert(subject.name().clone(), desired);
        }
        for subject in Subject::all(&self.store) {
            if let Some(desired) = results.get_mut(subject.name()) {
                yield_conflicts(subject, desired, &claims, &self.store);
            }
        }
        results
    }

    /// What is wrong as of the last [`Engine::refresh`]: with the Node, then Service by Service.
    pub fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.node_warnings.iter().chain(self.warnings.values().flatten())
    }

    /// What is wrong with one object, as of the last [`Engine::refresh`].
    pub fn warnings_of(&self, name: &ObjectName) -> &[Warning] {
        self.warnings.get(name).map_or(&[], Vec::as_slice)
    }

    /// What the API says.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn node_view(&mut self) -> NodeView {
        let (node, warnings) = NodeView::new(&self.settings, self.store.node(), self.store.addresses());
        self.node_warnings = warnings;
        node
    }

    fn settled(
        &self,
        name: ObjectName,
        mut desired: Option<DesiredService>,
    ) -> (ObjectName, Option<DesiredService>) {
        if let Some((subject, desired)) = Subject::find(&self.store, &name).zip(desired.as_mut()) {
            yield_conflicts(subject, desired, &self.claims, &self.store);
        }
        (name, desired)
    }

    fn remember_warnings(&mut self, name: &ObjectName, desired: Option<&DesiredService>) {
        match desired.map(|desired| &desired.warnings).filter(|warnings| !warnings.is_empty()) {
            Some(warnings) => self.warnings.insert(name.clone(), warnings.clone()),
            None => self.warnings.remove(name),
        };
    }
}

/// Takes the frontends that somebody else owns out of `desired`, with a warning for each field that lost.
fn yield_conflicts(subject: Subject<'_>, desired: &mut DesiredService, claims: &Claims, store: &Store) {
    let mut lost = BTreeSet::new();
    for port in &mut desired.ports {
        let name = &port.name.port_name;
        let mut keeps = |frontend: &Frontend| match claims.owner(&frontend.key) {
            Some(owner) if owner != subject.name() => {
                let owner = Subject::find(store, owner).map_or_else(|| owner.to_string(), Subject::describe);
                lost.insert(subject.conflict(name, frontend, &owner));
                false
            }
            _ => true,
        };
        port.frontends.retain(&mut keeps);
        port.unbound.retain(keeps);
    }
    if !lost.is_empty() {
        lost.extend(std::mem::take(&mut desired.warnings));
        desired.warnings = lost.into_iter().collect();
    }
}
