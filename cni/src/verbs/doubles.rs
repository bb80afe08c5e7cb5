//! A machine in memory, on which every step can be made to fail.
//!
//! Must not know the verbs.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use ipnetwork::IpNetwork;
use proxy_common::ENDPOINT_SCHEMA_HASH;
use serde_json::{Value, json};

use super::{Failed, IpamError, Ipams, Node, Storage, Wiring};
use crate::{
    agent::PortsError,
    facts::{NodeFacts, Pins},
    record::{Attachment, AttachmentId, Ipam, NetnsId, Stage},
    spec::{Code, Error, Verb},
    store::Wish,
    wire::{Held, Wired},
};

pub(super) const NOW: u64 = 1_000_000;
pub(super) const OWN_COOKIE: u64 = 1;
/// What the panic of a killed plugin says.
const KILLED: &str = "killed by the test";

/// What exists, and what was done.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) records: BTreeMap<AttachmentId, Attachment>,
    pub(super) devices: BTreeSet<String>,
    /// Leases of delegated plugins, by the plugin.
    pub(super) leases: BTreeSet<String>,
    pub(super) namespaces: BTreeMap<PathBuf, NetnsId>,
    pub(super) facts: Option<NodeFacts>,
    pub(super) agent: bool,
    /// How long ago an agent gave a sign of life.
    pub(super) agent_seen: Option<Duration>,
    /// Addresses of pods of which nothing is remembered.
    pub(super) held: Vec<Held>,
    /// The container has a default route already.
    pub(super) has_default_route: bool,
    /// Sockets of a container were given back to translation.
    pub(super) unexempted: bool,
    pub(super) missing_pins: Vec<PathBuf>,
    pub(super) differences: Vec<String>,
    /// Answers of delegated plugins; a plugin without one is not installed.
    pub(super) plugins: BTreeMap<String, Value>,
    /// Why the agent can never serve the ports.
    pub(super) refused_ports: Option<String>,
    pub(super) log: Vec<String>,
    /// A failing `connect` cannot undo what it did.
    pub(super) connect_leaves: bool,
    /// Names of the steps in their order.
    pub(super) steps: Vec<String>,
}

/// The machine; clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Doubles {
    pub(super) state: Rc<RefCell<State>>,
    /// The steps that fail, by their place in the order.
    pub(super) failing: Rc<RefCell<BTreeSet<usize>>>,
    /// The step at which the plugin is killed.
    pub(super) deadly: Rc<Cell<Option<usize>>>,
    /// What every step of this name fails with.
    pub(super) broken: Rc<RefCell<BTreeMap<String, Error>>>,
    count: Rc<Cell<usize>>,
}

pub(super) fn netns(cookie: u64) -> NetnsId {
    NetnsId { device: 4, inode: 1000 + cookie, cookie }
}

pub(super) fn facts() -> NodeFacts {
    let networks = ["10.244.1.0/24", "fd00:10:244:1::/64"];
    NodeFacts {
        version: 1,
        node: "node-a".into(),
        pod_cidrs: networks.map(|text| text.parse().unwrap()).into(),
        mtu: 1450,
        pins: Pins {
            schema: ENDPOINT_SCHEMA_HASH,
            endpoints: "/pins/endpoints".into(),
            packet_only: "/pins/packet_only".into(),
            guard_ingress: "/pins/guard_ingress".into(),
            guard_egress: "/pins/guard_egress".into(),
            path: None,
        },
        node_addresses: vec!["192.0.2.7".parse().unwrap()],
        obstacle: None,
    }
}

impl Doubles {
    /// A ready node with a container's namespace at `/run/netns/a`.
    pub(super) fn ready() -> Self {
        let namespaces = [("/run/netns/a", netns(7)), ("/run/netns/own", netns(OWN_COOKIE))];
        let state = State {
            facts: Some(facts()),
            agent: true,
            namespaces: namespaces.into_iter().map(|(path, id)| (path.into(), id)).collect(),
            ..State::default()
        };
        Self {
            state: Rc::new(RefCell::new(state)),
            failing: Rc::default(),
            deadly: Rc::default(),
            broken: Rc::default(),
            count: Rc::default(),
        }
    }

    /// Changes the machine; what a collection gives back is nobody's business.
    pub(super) fn change<R>(&self, how: impl FnOnce(&mut State) -> R) {
        let _ = how(&mut self.state.borrow_mut());
    }

    pub(super) fn break_step(&self, name: &str) {
        self.broken.borrow_mut().insert(name.to_owned(), Error::new(Code::Io, format!("{name} broke")));
    }

    /// From now on everything works.
    pub(super) fn mend(&self) {
        self.failing.borrow_mut().clear();
        self.broken.borrow_mut().clear();
        self.deadly.set(None);
    }

    pub(super) fn steps(&self) -> Vec<String> {
        self.state.borrow().steps.clone()
    }

    /// Everything that an ADD makes.
    pub(super) fn left_over(&self) -> Vec<String> {
        let state = self.state.borrow();
        let records = state.records.keys().map(ToString::to_string);
        records.chain(state.devices.iter().cloned()).chain(state.leases.iter().cloned()).collect()
    }

    fn step(&self, name: &str) -> Result<(), Error> {
        self.state.borrow_mut().steps.push(name.to_owned());
        self.count.set(self.count.get() + 1);
        assert_ne!(self.deadly.get(), Some(self.count.get()), "{KILLED}");
        if let Some(error) = self.broken.borrow().get(name) {
            return Err(error.clone());
        }
        let fails = self.failing.borrow().contains(&self.count.get());
        if fails { Err(Error::new(Code::Io, format!("step {name} failed"))) } else { Ok(()) }
    }
}

/// The tenth address of each range, or the next that is not reserved.
fn addresses(wish: &Wish) -> Vec<IpAddr> {
    let nth = |range: &IpNetwork, number: u32| match range {
        IpNetwork::V4(range) => range.nth(number).unwrap().into(),
        IpNetwork::V6(range) => (u128::from(range.network()) + u128::from(number)).to_be_bytes().into(),
    };
    let free = |range| (10..20).map(|number| nth(range, number)).find(|it| !wish.reserved.contains(it));
    wish.ranges.iter().filter_map(free).collect()
}

impl Storage for Doubles {
    fn reserve(&self, mut attachment: Attachment, wish: &Wish) -> Result<Attachment, Error> {
        self.step("reserve")?;
        if attachment.ipam == Ipam::Own {
            attachment.addresses = if wish.fixed.is_empty() { addresses(wish) } else { wish.fixed.clone() };
        }
        self.state.borrow_mut().records.insert(attachment.id.clone(), attachment.clone());
        Ok(attachment)
    }

    fn commit(&self, id: &AttachmentId, by_rule: &[IpAddr]) -> Result<(), Error> {
        self.step("commit")?;
        self.change(|state| {
            let record = state.records.get_mut(id).unwrap();
            (record.stage, record.by_rule) = (Stage::Wired, by_rule.to_vec());
        });
        Ok(())
    }

    fn get(&self, id: &AttachmentId) -> Result<Option<Attachment>, Error> {
        self.step("get")?;
        Ok(self.state.borrow().records.get(id).cloned())
    }

    fn list(&self) -> Result<Vec<Attachment>, Error> {
        self.step("list")?;
        Ok(self.state.borrow().records.values().cloned().collect())
    }

    fn release_unchanged(&self, seen: &Attachment) -> Result<bool, Error> {
        self.step("release_unchanged")?;
        let same = self.state.borrow().records.get(&seen.id) == Some(seen);
        self.change(|state| same && state.records.remove(&seen.id).is_some());
        Ok(same)
    }

    fn release(&self, id: &AttachmentId) -> Result<(), Error> {
        self.step("release")?;
        self.change(|state| state.records.remove(id));
        Ok(())
    }
}

impl Wiring for Doubles {
    fn identify(&self, netns: &Path) -> Result<Option<NetnsId>, Error> {
        self.step("identify")?;
        Ok(self.state.borrow().namespaces.get(netns).copied())
    }

    fn own_cookie(&self) -> Result<u64, Error> {
        self.step("own_cookie")?;
        Ok(OWN_COOKIE)
    }

    fn held_by_others(&self, attachment: &Attachment) -> Result<Vec<Held>, Error> {
        self.step("held_by_others")?;
        let held = self.state.borrow().held.clone();
        let concerned = held.iter().any(|held| attachment.addresses.contains(&held.address));
        Ok(if concerned { held } else { Vec::new() })
    }

    fn connect(&self, attachment: &Attachment, _pins: &Pins) -> Result<Wired, Failed> {
        let remains = self.state.borrow().connect_leaves;
        if let Err(error) = self.step("connect") {
            self.change(|state| remains && state.devices.insert(attachment.host_device.clone()));
            return Err(Failed { error, remains });
        }
        self.change(|state| assert!(state.devices.insert(attachment.host_device.clone()), "wired twice"));
        let of_first = self.state.borrow().has_default_route;
        let by_rule = attachment.addresses.iter().copied().filter(|_| of_first).collect();
        Ok(Wired { host_index: 7, by_rule })
    }

    fn disconnect(&self, attachment: &Attachment, _pins: Option<&Pins>) -> Result<(), Error> {
        self.step("disconnect")?;
        self.change(|state| {
            state.devices.remove(&attachment.host_device);
            state.unexempted |= attachment.socket_lb_off;
        });
        Ok(())
    }

    fn check(&self, _attachment: &Attachment, _pins: &Pins) -> Result<Vec<String>, Error> {
        self.step("check")?;
        Ok(self.state.borrow().differences.clone())
    }

    fn missing_pins(&self, _pins: &Pins) -> Vec<PathBuf> {
        self.state.borrow().missing_pins.clone()
    }
}

impl Node for Doubles {
    fn now(&self) -> u64 {
        NOW
    }

    fn facts(&self) -> Result<NodeFacts, Error> {
        self.step("facts")?;
        self.state.borrow().facts.clone().ok_or_else(|| Error::new(Code::TryLater, "no facts"))
    }

    fn agent_runs(&self) -> bool {
        self.state.borrow().agent
    }

    fn agent_lived_within(&self, age: Duration) -> bool {
        self.state.borrow().agent_seen.is_some_and(|since| since <= age)
    }

    fn serve_ports(&self, id: &AttachmentId) -> Result<(), PortsError> {
        self.step("serve_ports").map_err(|error| PortsError::NotYet(error.msg))?;
        let refused = self.state.borrow().refused_ports.clone();
        refused.map_or(Ok(()), |reason| Err(PortsError::Refused(reason)))?;
        assert!(self.state.borrow().records.contains_key(id), "the agent finds no record");
        Ok(())
    }

    fn log(&self, line: &str) {
        self.change(|state| state.log.push(line.to_owned()));
    }
}

impl Ipams for Doubles {
    fn call(&self, plugin: &str, verb: Verb, _stdin: &[u8]) -> Result<Value, IpamError> {
        let plugin = plugin.to_owned();
        let refused = |error| IpamError::Refused { plugin: plugin.clone(), error };
        self.step(&format!("ipam {verb}")).map_err(refused)?;
        let answer = self.state.borrow().plugins.get(&plugin).cloned();
        let answer =
            answer.ok_or_else(|| IpamError::Missing { plugin: plugin.clone(), path: "/bin".into() })?;
        self.change(|state| match verb {
            Verb::Add => state.leases.insert(plugin.clone()),
            Verb::Del => state.leases.remove(&plugin),
            _ => false,
        });
        Ok(if verb == Verb::Add { answer } else { json!(null) })
    }
}
