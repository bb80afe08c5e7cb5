//! Objects and histories to test with, out of a small universe so that names, addresses and ports collide.
//!
//! An object is built from a string of bytes, its genes: each choice takes the next byte, and byte 0 always takes the
//! plainest choice. That is fast, and proptest shrinks towards zeros, that is towards a plain object.

mod objects;

use std::{collections::BTreeSet, net::IpAddr};

use proptest::{collection::vec, prelude::*};
use proxy_core::{
    desired::{NodePortAddresses, Settings},
    model::{Event, ObjectName},
};

pub use objects::{garbage_service, garbage_slice, node, service, slice};

use crate::reference::World;

/// Name of the node that everything is computed for.
pub const NODE: &str = "n1";

/// Reads choices from bytes; after the last byte every choice is the plainest.
pub struct Genes<'a>(std::slice::Iter<'a, u8>);

impl<'a> Genes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.iter())
    }

    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.next()) % choices.len()]
    }

    /// True in about `n` of 256 cases, never for gene 0.
    fn odds(&mut self, n: u8) -> bool {
        self.next() > 255 - n
    }

    fn upto(&mut self, most: u8) -> u8 {
        self.next() % (most + 1)
    }
}

/// One thing that happens to a source.
#[derive(Clone, Debug)]
pub enum Step {
    Service(u8, Vec<u8>),
    ServiceGone(u8),
    Slice(u8, Vec<u8>),
    SliceGone(u8),
    Node(Vec<u8>),
    /// Which of [`objects::DEVICE_ADDRESSES`] there are.
    Addresses(u8),
    /// The watch broke: meanwhile the objects whose bit is set vanished and one changed; the source lists all anew.
    ServicesRelisted(u8, u8, Vec<u8>),
    SlicesRelisted(u8, u8, Vec<u8>),
    /// The last event comes once more.
    Again,
}

fn genes(length: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), length)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<u8>(), genes(44)).prop_map(|(index, genes)| Step::Service(index, genes)),
        10 => (any::<u8>(), genes(44)).prop_map(|(index, genes)| Step::Slice(index, genes)),
        1 => any::<u8>().prop_map(Step::ServiceGone),
        2 => any::<u8>().prop_map(Step::SliceGone),
        1 => genes(12).prop_map(Step::Node),
        1 => any::<u8>().prop_map(Step::Addresses),
        1 => (any::<u8>(), any::<u8>(), genes(44)).prop_map(|(gone, i, genes)| Step::ServicesRelisted(gone, i, genes)),
        1 => (any::<u8>(), any::<u8>(), genes(44)).prop_map(|(gone, i, genes)| Step::SlicesRelisted(gone, i, genes)),
        1 => Just(Step::Again),
    ]
}

/// A history of at most `most` steps.
pub fn history(most: usize) -> impl Strategy<Value = Vec<Event>> {
    vec(step(), 1..=most).prop_map(|steps| events(&steps))
}

/// What the sources send while `steps` happen.
pub fn events(steps: &[Step]) -> Vec<Event> {
    let mut world = World::default();
    let mut all: Vec<Event> = vec![];
    for step in steps {
        let Some(event) = event(step, &world).or_else(|| all.last().cloned()) else { continue };
        world.take(&event);
        all.push(event);
    }
    all
}

/// `None` for [`Step::Again`].
fn event(step: &Step, world: &World) -> Option<Event> {
    let stays = |gone: u8, index: usize| gone & (1 << (index % 8)) == 0;
    Some(match step {
        Step::Service(index, genes) => Event::ServiceApplied(Box::new(service(*index, genes))),
        Step::ServiceGone(index) => Event::ServiceDeleted(objects::service_name(*index)),
        Step::Slice(index, genes) => Event::SliceApplied(Box::new(slice(*index, genes))),
        Step::SliceGone(index) => Event::SliceDeleted(objects::slice_name(*index)),
        Step::Node(genes) => Event::Node(node(genes)),
        Step::Addresses(bits) => Event::Addresses(objects::device_addresses(*bits)),
        Step::ServicesRelisted(gone, index, genes) => {
            let mut after = world.clone();
            after.take(&Event::ServiceApplied(Box::new(service(*index, genes))));
            let left = after.services.into_values().enumerate().filter(|(index, _)| stays(*gone, *index));
            Event::ServicesListed(left.map(|(_, service)| service).collect())
        }
        Step::SlicesRelisted(gone, index, genes) => {
            let mut after = world.clone();
            after.take(&Event::SliceApplied(Box::new(slice(*index, genes))));
            let left = after.slices.into_values().enumerate().filter(|(index, _)| stays(*gone, *index));
            Event::SlicesListed(left.map(|(_, slice)| slice).collect())
        }
        Step::Again => return None,
    })
}

/// Settings of the node.
pub fn settings() -> impl Strategy<Value = Settings> {
    (any::<u8>(), any::<u8>()).prop_map(|(ours, within)| Settings {
        node_name: NODE.into(),
        proxy_name: (ours > 240).then(|| objects::OTHER_PROXY.into()),
        node_port_addresses: match within {
            200.. => NodePortAddresses::Within(vec![objects::network("198.51.100.0/30")]),
            180..200 => NodePortAddresses::Within(vec![]),
            _ => NodePortAddresses::All,
        },
    })
}

/// Turns `events` into a history with the same outcome in which the events of different objects have another order
/// (chosen by `order`) and lists are spelt out object by object.
pub fn reordered(events: &[Event], order: &[u8]) -> Vec<Event> {
    let mut queues: Vec<Vec<Event>> = by_object(events).into_iter().map(|(_, queue)| queue).collect();
    let mut choices = order.iter().cycle();
    let mut all = vec![];
    while !queues.is_empty() {
        let index = usize::from(choices.next().copied().unwrap_or(0)) % queues.len();
        all.push(queues[index].remove(0));
        if queues[index].is_empty() {
            queues.swap_remove(index);
        }
    }
    all
}

/// The events of each object in their order.
fn by_object(events: &[Event]) -> Vec<(String, Vec<Event>)> {
    let mut queues: Vec<(String, Vec<Event>)> = vec![];
    let mut world = World::default();
    let mut push = |key: String, event: Event| match queues.iter_mut().find(|(other, _)| *other == key) {
        Some((_, queue)) => queue.push(event),
        None => queues.push((key, vec![event])),
    };
    for event in events {
        match event {
            Event::ServicesListed(all) => {
                let names: BTreeSet<ObjectName> = all.iter().map(|service| service.name.clone()).collect();
                for name in world.services.keys().filter(|name| !names.contains(name)) {
                    push(format!("service {name}"), Event::ServiceDeleted(name.clone()));
                }
                for service in all {
                    push(
                        format!("service {}", service.name),
                        Event::ServiceApplied(Box::new(service.clone())),
                    );
                }
            }
            Event::SlicesListed(all) => {
                let names: BTreeSet<ObjectName> = all.iter().map(|slice| slice.name.clone()).collect();
                for name in world.slices.keys().filter(|name| !names.contains(name)) {
                    push(format!("slice {name}"), Event::SliceDeleted(name.clone()));
                }
                for slice in all {
                    push(format!("slice {}", slice.name), Event::SliceApplied(Box::new(slice.clone())));
                }
            }
            other => push(object_of(other), other.clone()),
        }
        world.take(event);
    }
    queues
}

fn object_of(event: &Event) -> String {
    match event {
        Event::ServiceApplied(service) => format!("service {}", service.name),
        Event::ServiceDeleted(name) => format!("service {name}"),
        Event::SliceApplied(slice) => format!("slice {}", slice.name),
        Event::SliceDeleted(name) => format!("slice {name}"),
        Event::ServicesListed(_) => "services".into(),
        Event::SlicesListed(_) => "slices".into(),
        Event::Node(_) => "node".into(),
        Event::Addresses(_) => "addresses".into(),
        Event::HostPortsListed(_) => "host ports".into(),
    }
}

/// The final objects as one list each: what an agent hears that starts now.
pub fn relisted(world: &World) -> Vec<Event> {
    vec![
        Event::SlicesListed(world.slices.values().cloned().collect()),
        Event::Addresses(world.addresses.clone()),
        Event::ServicesListed(world.services.values().cloned().collect()),
        Event::Node(world.node.clone()),
    ]
}

/// Addresses that a test may ask for.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
