//! Every object the sources have told of, and which Services a change touches.
//!
//! Must not know what follows from an object.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use super::object::{HostPortsObject, NodeObject, ObjectName, ServiceObject, SliceObject};

/// One kind of object with a list of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Services.
    Services,
    /// EndpointSlices.
    Slices,
    /// The agent's own Node.
    Node,
    /// Addresses of the node's network devices.
    Addresses,
    /// Host ports of this node's pods; only where pods are wired by us.
    HostPorts,
}

/// A change. `...Listed` carries a complete list: what it does not name is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A Service was created or changed.
    ServiceApplied(Box<ServiceObject>),
    /// A Service was deleted.
    ServiceDeleted(ObjectName),
    /// All Services there are.
    ServicesListed(Vec<ServiceObject>),
    /// An EndpointSlice was created or changed.
    SliceApplied(Box<SliceObject>),
    /// An EndpointSlice was deleted.
    SliceDeleted(ObjectName),
    /// All EndpointSlices there are.
    SlicesListed(Vec<SliceObject>),
    /// The agent's Node as it is now; `None` if there is none.
    Node(Option<NodeObject>),
    /// The addresses of the node's devices that NodePorts are served on.
    Addresses(BTreeSet<IpAddr>),
    /// All pods of this node with host ports.
    HostPortsListed(Vec<HostPortsObject>),
}

/// The model. Cost of an event is proportional to the event.
///
/// Large objects are boxed: the nodes of a tree and a table are a third to a half empty.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// See [`Store::new`].
    proxy_name: Option<String>,
    services: BTreeMap<ObjectName, Box<ServiceObject>>,
    slices: HashMap<ObjectName, Box<SliceObject>>,
    /// Slice names by the Service they belong to, sorted. Nearly every Service has one slice in each family.
    by_service: BTreeMap<ObjectName, Vec<ObjectName>>,
    node: Option<NodeObject>,
    addresses: BTreeSet<IpAddr>,
    host_ports: BTreeMap<ObjectName, HostPortsObject>,
    listed: BTreeSet<Source>,
    dirty: BTreeSet<ObjectName>,
}

/// How many objects the model holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Services that are ours.
    pub services: usize,
    /// EndpointSlices that are ours and name a Service.
    pub slices: usize,
    /// Endpoints in those slices.
    pub endpoints: usize,
}

impl Store {
    /// An empty model of the objects whose label `service.kubernetes.io/service-proxy-name` is `proxy_name`
    /// (absent, if that is `None`).
    pub fn new(proxy_name: Option<String>) -> Self {
        Self { proxy_name, ..Self::default() }
    }

    /// Takes in a change and marks the Services it touches as dirty. Applying the same again marks nothing.
    ///
    /// Objects that are not ours (label `service-proxy-name`), that carry the label `service.kubernetes.io/headless`,
    /// and slices that name no Service count as absent, so that a change of these labels adds or removes the object.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::ServiceApplied(service) => self.apply_service(service),
            Event::ServiceDeleted(name) => self.delete_service(&name),
            Event::ServicesListed(services) => self.list_services(services),
            Event::SliceApplied(slice) => self.apply_slice(slice),
            Event::SliceDeleted(name) => self.delete_slice(&name),
            Event::SlicesListed(slices) => self.list_slices(slices),
            Event::Node(node) => self.set_node(node),
            Event::Addresses(addresses) => self.set_addresses(addresses),
            Event::HostPortsListed(objects) => self.list_host_ports(objects),
        }
    }

    /// Whether `source` has listed completely at least once. A Node or an address set is complete in itself.
    pub fn listed(&self, source: Source) -> bool {
        self.listed.contains(&source)
    }

    /// Whether each of `sources` has listed completely at least once.
    pub fn is_listed(&self, sources: &[Source]) -> bool {
        sources.iter().all(|source| self.listed(*source))
    }

    /// The Services and pods with host ports touched since the last call, deleted ones included.
    pub fn take_dirty(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.dirty)
    }

    /// Whether this one was touched since the last [`Store::take_dirty`].
    pub fn is_dirty(&self, name: &ObjectName) -> bool {
        self.dirty.contains(name)
    }

    /// Every Service, by name.
    pub fn services(&self) -> impl Iterator<Item = &ServiceObject> {
        self.services.values().map(Box::as_ref)
    }

    /// One Service.
    pub fn service(&self, name: &ObjectName) -> Option<&ServiceObject> {
        self.services.get(name).map(Box::as_ref)
    }

    /// The slices of a Service, by slice name.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &SliceObject> {
        self.by_service
            .get(service)
            .into_iter()
            .flatten()
            .filter_map(|name| self.slices.get(name))
            .map(Box::as_ref)
    }

    /// Every pod with host ports, by name of the object.
    pub fn host_ports(&self) -> impl Iterator<Item = &HostPortsObject> {
        self.host_ports.values()
    }

    /// One pod with host ports.
    pub fn host_ports_of(&self, name: &ObjectName) -> Option<&HostPortsObject> {
        self.host_ports.get(name)
    }

    /// The agent's Node, if known.
    pub fn node(&self) -> Option<&NodeObject> {
        self.node.as_ref()
    }

    /// The addresses of the node's devices, if known.
    pub fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.addresses
    }

    /// How many objects there are. Costs in proportion to the number of slices.
    pub fn counts(&self) -> Counts {
        Counts {
            services: self.services.len(),
            slices: self.slices.len(),
            endpoints: self.slices.values().map(|slice| slice.endpoints.len()).sum(),
        }
    }

    fn is_ours(&self, proxy_name: Option<&String>, headless_label: bool) -> bool {
        proxy_name == self.proxy_name.as_ref() && !headless_label
    }

    fn apply_service(&mut self, service: Box<ServiceObject>) {
        if !self.is_ours(service.proxy_name.as_ref(), service.headless_label) {
            self.delete_service(&service.name);
        } else if self.services.get(&service.name) != Some(&service) {
            self.dirty.insert(service.name.clone());
            self.services.insert(service.name.clone(), service);
        }
    }

    fn delete_service(&mut self, name: &ObjectName) {
        if let Some((name, _)) = self.services.remove_entry(name) {
            self.dirty.insert(name);
        }
    }

    /// An object that the list names twice counts as the last one says.
    fn list_services(&mut self, services: Vec<ServiceObject>) {
        let boxed = services.into_iter().map(Box::new);
        let last: BTreeMap<ObjectName, _> = boxed.map(|service| (service.name.clone(), service)).collect();
        let gone: Vec<ObjectName> =
            self.services.keys().filter(|name| !last.contains_key(*name)).cloned().collect();
        gone.iter().for_each(|name| self.delete_service(name));
        last.into_values().for_each(|service| self.apply_service(service));
        self.listed.insert(Source::Services);
    }

    fn apply_slice(&mut self, slice: Box<SliceObject>) {
        let ours = self.is_ours(slice.proxy_name.as_ref(), slice.headless_label);
        let Some(service) = service_of(&slice).filter(|_| ours) else {
            return self.delete_slice(&slice.name);
        };
        if self.slices.get(&slice.name) == Some(&slice) {
            return;
        }
        self.delete_slice(&slice.name);
        self.touch(&service);
        let names = self.by_service.entry(service).or_default();
        if let Err(place) = names.binary_search(&slice.name) {
            names.reserve_exact(1);
            names.insert(place, slice.name.clone());
        }
        self.slices.insert(slice.name.clone(), slice);
    }

    fn delete_slice(&mut self, name: &ObjectName) {
        let Some(slice) = self.slices.remove(name) else { return };
        let Some(service) = service_of(&slice) else { return };
        if let Some(names) = self.by_service.get_mut(&service) {
            names.retain(|other| other != name);
            if names.is_empty() {
                self.by_service.remove(&service);
            }
        }
        self.touch(&service);
    }

    fn list_slices(&mut self, slices: Vec<SliceObject>) {
        let boxed = slices.into_iter().map(Box::new);
        let last: BTreeMap<ObjectName, _> = boxed.map(|slice| (slice.name.clone(), slice)).collect();
        let gone: Vec<ObjectName> =
            self.slices.keys().filter(|name| !last.contains_key(*name)).cloned().collect();
        gone.iter().for_each(|name| self.delete_slice(name));
        last.into_values().for_each(|slice| self.apply_slice(slice));
        self.listed.insert(Source::Slices);
    }

    fn list_host_ports(&mut self, objects: Vec<HostPortsObject>) {
        let last: BTreeMap<ObjectName, _> =
            objects.into_iter().map(|object| (object.name.clone(), object)).collect();
        let before = std::mem::replace(&mut self.host_ports, last);
        let names: BTreeSet<&ObjectName> = before.keys().chain(self.host_ports.keys()).collect();
        let differs = |name: &&ObjectName| before.get(*name) != self.host_ports.get(*name);
        self.dirty.extend(names.into_iter().filter(differs).cloned());
        self.listed.insert(Source::HostPorts);
    }

    fn set_node(&mut self, node: Option<NodeObject>) {
        self.listed.insert(Source::Node);
        if self.node == node {
            return;
        }
        let zone = |node: &Option<NodeObject>| node.as_ref().and_then(|node| node.zone.clone());
        let zone_changed = zone(&self.node) != zone(&node);
        self.node = node;
        // Any endpoint may carry a zone hint; apart from those, a Node's addresses are all that matters of it.
        self.touch_where(|service| zone_changed || has_node_port(service));
        self.touch_host_ports();
    }

    fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.listed.insert(Source::Addresses);
        if self.addresses != addresses {
            self.addresses = addresses;
            self.touch_where(has_node_port);
            self.touch_host_ports();
        }
    }

    /// Marks a Service, if there is one: a slice of a Service that does not exist changes nothing.
    fn touch(&mut self, service: &ObjectName) {
        if self.services.contains_key(service) {
            self.dirty.insert(service.clone());
        }
    }

    fn touch_host_ports(&mut self) {
        self.dirty.extend(self.host_ports.keys().cloned());
    }

    fn touch_where(&mut self, affected: impl Fn(&ServiceObject) -> bool) {
        self.dirty.extend(
            self.services.values().filter(|service| affected(service)).map(|service| service.name.clone()),
        );
    }
}

fn service_of(slice: &SliceObject) -> Option<ObjectName> {
    let service = slice.service.as_ref().filter(|service| !service.is_empty())?;
    Some(ObjectName::new(slice.name.namespace.clone(), service.clone()))
}

fn has_node_port(service: &ServiceObject) -> bool {
    service.ports.iter().any(|port| port.node_port != 0)
}
