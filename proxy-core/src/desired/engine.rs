//! The desired state across Services, kept up to date change by change.
//!
//! Owns the model and who claims which frontend; keeps no copy of the results. Must not know what is in the kernel.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    claims::Claims,
    node::NodeView,
    service::{conflict, desired_service},
    settings::Settings,
    types::{DesiredService, Frontend, Warning},
};
use crate::model::{Event, ObjectName, ServiceObject, Source, Store};

/// Desired state of the whole node.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    store: Store,
    claims: Claims,
    /// As of the last refresh; Services without a warning are not in it.
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

    /// The desired state of every Service whose result may have changed since the last call: `None` if it is gone (or
    /// is not ours any more).
    ///
    /// When a frontend passes from one Service to another, both are in the same result, so that the caller can hand it
    /// over without a gap. Costs in proportion to the Services that changed.
    pub fn refresh(&mut self) -> BTreeMap<ObjectName, Option<DesiredService>> {
        let node = self.node_view();
        let mut affected = BTreeSet::new();
        let mut alone: BTreeMap<ObjectName, Option<DesiredService>> = BTreeMap::new();
        for name in self.store.take_dirty() {
            let desired = self.store.service(&name).map(|service| self.alone(service, &node));
            affected.extend(match self.store.service(&name).zip(desired.as_ref()) {
                Some((service, desired)) => self.claims.replace(service, desired),
                None => self.claims.remove(&name),
            });
            alone.insert(name, desired);
        }
        affected.retain(|name| !alone.contains_key(name));
        for name in affected {
            let desired = self.store.service(&name).map(|service| self.alone(service, &node));
            alone.insert(name, desired);
        }
        let settled: BTreeMap<_, _> =
            alone.into_iter().map(|(name, desired)| self.settled(name, desired)).collect();
        for (name, desired) in &settled {
            self.remember_warnings(name, desired.as_ref());
        }
        settled
    }

    /// The desired state of every Service, computed from nothing but the model: what all results of
    /// [`Engine::refresh`] add up to. Costs in proportion to the cluster.
    pub fn all(&self) -> BTreeMap<ObjectName, DesiredService> {
        let (node, _) = NodeView::new(&self.settings, self.store.node(), self.store.addresses());
        let mut claims = Claims::default();
        let mut results = BTreeMap::new();
        for service in self.store.services() {
            let desired = self.alone(service, &node);
            claims.replace(service, &desired);
            results.insert(service.name.clone(), desired);
        }
        for service in self.store.services() {
            if let Some(desired) = results.get_mut(&service.name) {
                yield_conflicts(service, desired, &claims);
            }
        }
        results
    }

    /// What is wrong as of the last [`Engine::refresh`]: with the Node, then Service by Service.
    pub fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.node_warnings.iter().chain(self.warnings.values().flatten())
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

    fn alone(&self, service: &ServiceObject, node: &NodeView) -> DesiredService {
        desired_service(service, self.store.slices_of(&service.name), node)
    }

    fn settled(
        &self,
        name: ObjectName,
        mut desired: Option<DesiredService>,
    ) -> (ObjectName, Option<DesiredService>) {
        if let Some((service, desired)) = self.store.service(&name).zip(desired.as_mut()) {
            yield_conflicts(service, desired, &self.claims);
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

/// Takes the frontends that another Service owns out of `desired`, with a warning for each field that lost.
fn yield_conflicts(service: &ServiceObject, desired: &mut DesiredService, claims: &Claims) {
    let mut lost = BTreeSet::new();
    for port in &mut desired.ports {
        let name = &port.name.port_name;
        let mut keeps = |frontend: &Frontend| match claims.owner(&frontend.key) {
            Some(owner) if *owner != service.name => {
                lost.insert(conflict(service, name, frontend, &format!("Service {owner}")));
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
