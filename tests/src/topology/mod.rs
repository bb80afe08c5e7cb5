//! Clients outside, a router, two nodes and their pods, each a network namespace, IPv4 and IPv6.
//!
//! ```text
//! client ----- router ----- node1 --- 1a 1b 1c
//! stranger --/    \-------- node2 --- 2a 2b 2c
//! ```
//!
//! The nodes and the router share one link. The router sends ClusterIPs and one prefix of load balancer addresses to
//! node 1 and another prefix to node 2; the nodes send each other's pods directly. Every pod, and each node itself,
//! serves [`PORT`]. Must not know: Services.

pub mod addresses;
mod place;
mod wiring;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::sync::atomic::AtomicU16;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};

pub use self::place::Place;
use crate::cgroup::Cgroup;
use crate::echo::EchoServer;
use crate::lab::Pause;
use crate::netns::Netns;
use crate::offload::compute_checksums;

/// Port that every pod and node serves on.
pub const PORT: u16 = 8080;
/// Port on which nobody listens.
pub const CLOSED_PORT: u16 = 9;
/// What the pods of a node are called after the node's number.
const PODS: [char; 3] = ['a', 'b', 'c'];

/// How many bytes an IP packet may have on each kind of link.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    /// Between the clients and the router.
    pub client: u32,
    /// Between the router and the nodes.
    pub underlay: u32,
    /// Between each node and its pods.
    pub pods: [u32; 2],
}

impl Links {
    /// 1500 bytes everywhere.
    pub const ETHERNET: Self = Self { client: 1500, underlay: 1500, pods: [1500, 1500] };
    /// 9000 bytes everywhere.
    pub const JUMBO: Self = Self { client: 9000, underlay: 9000, pods: [9000, 9000] };
}

/// Who gives pods their network, and how packets get from node to node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// The topology, with routes.
    ByHand,
    /// Whoever is called later, on one link.
    Direct,
    /// The same, through a tunnel.
    Tunnel,
}

static TURN: Mutex<()> = Mutex::new(());

/// The whole network. The order of the fields is the order in which it is taken down.
#[derive(Debug)]
pub struct Topology {
    servers: Vec<EchoServer>,
    pauses: Vec<Pause>,
    places: BTreeMap<String, Place>,
    /// Between the clients and the nodes.
    pub router: Netns,
    links: Links,
    wiring: Wiring,
    groups: Vec<Cgroup>,
    domain: Cgroup,
    _turn: MutexGuard<'static, ()>,
}

impl Topology {
    /// Everything connected and every server listening. This process joins a cgroup: one topology at a time.
    ///
    /// # Errors
    /// Not root, or `ip` is missing.
    pub fn new(links: Links) -> Result<Self> {
        let mut topology = Self::wired(links, Wiring::ByHand)?;
        topology.serve()?;
        Ok(topology)
    }

    /// As [`Topology::new`], but the pods may still have to be wired: then no server listens before
    /// [`Topology::serve`].
    ///
    /// # Errors
    /// As [`Topology::new`].
    pub fn wired(links: Links, wiring: Wiring) -> Result<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let domain = Cgroup::new()?;
        let groups: Vec<Cgroup> = (1..=addresses::NODES)
            .map(|number| domain.threaded(&format!("node{number}")))
            .collect::<Result<_>>()?;
        domain.join()?;
        let mut topology = Self {
            servers: Vec::new(),
            pauses: Vec::new(),
            places: BTreeMap::new(),
            router: wiring::namespace()?,
            links,
            wiring,
            groups,
            domain,
            _turn: turn,
        };
        topology.populate()?;
        Ok(topology)
    }

    fn populate(&mut self) -> Result<()> {
        for (name, place) in [("client", addresses::CLIENT), ("stranger", addresses::STRANGER)] {
            self.add(name, place, 0)?;
        }
        for number in 1..=addresses::NODES {
            self.add(&format!("node{number}"), addresses::node(number), number)?;
        }
        for (number, index, letter) in pods() {
            let name = format!("{number}{letter}");
            self.add(&name, addresses::pod(number, index), number)?;
            self.pauses.push(Pause::start(&self.place(&name)?.netns)?);
        }
        wiring::connect(self, self.links, self.wiring)
    }

    /// Starts the servers of all pods and nodes.
    ///
    /// # Errors
    /// A pod has no network.
    pub fn serve(&mut self) -> Result<()> {
        let serving = self.places.values().filter(|place| place.is_inside());
        self.servers = serving.map(|place| EchoServer::start(place, PORT)).collect::<Result<_>>()?;
        Ok(())
    }

    /// Whether a node sends from this address: its own, or the one that it has in the tunnel.
    #[must_use]
    pub fn is_nodes(&self, address: IpAddr) -> bool {
        let of = |number| addresses::node(number).like(address) == address;
        let inside = |number| self.tunnels() && addresses::in_tunnel(number).like(address) == address;
        (1..=addresses::NODES).any(|number| of(number) || inside(number))
    }

    /// Whether packets between nodes take a tunnel.
    #[must_use]
    pub fn tunnels(&self) -> bool {
        self.wiring == Wiring::Tunnel
    }

    fn add(&mut self, name: &str, addresses: addresses::Pair, node: u8) -> Result<()> {
        let group = usize::from(node).checked_sub(1).and_then(|index| self.groups.get(index));
        let place = Place {
            name: name.to_owned(),
            netns: wiring::namespace()?,
            addresses,
            node,
            group: group.map(|group| group.path().join("cgroup.threads")),
            ports: AtomicU16::new(0),
        };
        self.places.insert(name.to_owned(), place);
        Ok(())
    }

    /// A place by its name.
    ///
    /// # Errors
    /// There is none.
    pub fn place(&self, name: &str) -> Result<&Place> {
        self.places.get(name).with_context(|| format!("no place `{name}` in the topology"))
    }

    /// All of them.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.values()
    }

    /// Makes every client and pod compute the checksums of what it sends, so that a receiver checks them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn compute_checksums(&self) -> Result<()> {
        for place in self.places() {
            place.run(|| compute_checksums("eth0")).with_context(|| place.name.clone())?;
        }
        Ok(())
    }

    /// What the kernel of each place counted of datagrams so far, and what it lost: a line for each place.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn losses(&self) -> Result<String> {
        let losses = |place: &Place| -> Result<String> {
            let counters = place.run(|| fs::read_to_string("/proc/thread-self/net/snmp6"))?;
            let udp = place.run(|| fs::read_to_string("/proc/thread-self/net/snmp"))?;
            let udp = udp.lines().filter(|line| line.starts_with("Udp:")).nth(1).unwrap_or_default();
            let lost: Vec<&str> = counters.lines().filter(|line| is_loss(line)).collect();
            Ok(format!("{}: {udp}; {}\n", place.name, lost.join(", ")))
        };
        self.places().map(losses).collect()
    }

    /// Gives a node a second link with the router, by which everything to elsewhere leaves; what comes goes on to come
    /// by the first.
    ///
    /// # Errors
    /// There is no such node.
    pub fn leave_by_second_link(&self, node: &str) -> Result<()> {
        wiring::second_link(self, self.place(node)?, self.links)
    }

    /// Takes the device of a node or pod away, and makes it again.
    ///
    /// # Errors
    /// There is no such place, or it is outside.
    pub fn reconnect(&self, name: &str) -> Result<()> {
        wiring::reconnect(self, self.place(name)?, self.links)
    }

    /// Lets no packet larger than `mtu` pass towards a client (at the router) or a pod (at its node); the devices keep
    /// theirs, so that neither end knows.
    ///
    /// # Errors
    /// There is no such place.
    pub fn narrow(&self, name: &str, mtu: u32) -> Result<()> {
        wiring::narrow(self, self.place(name)?, mtu)
    }

    /// The cgroup of a node, counted from 1, with its pods.
    ///
    /// # Errors
    /// There is no such node.
    pub fn group(&self, node: u8) -> Result<&Cgroup> {
        usize::from(node).checked_sub(1).and_then(|index| self.groups.get(index)).context("no such node")
    }

    /// Does `work`, which starts a process, in the cgroup of a node: what it starts belongs there.
    ///
    /// # Errors
    /// There is no such node, or what `work` says.
    pub fn starting_on<T>(&self, node: u8, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.group(node)?.join_thread()?;
        let result = work();
        self.domain.join_thread()?;
        result
    }
}

/// A line of `/proc/net/snmp6` that counts something lost, and counted.
fn is_loss(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let (name, count) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    ["Error", "Discard", "NoRoute", "NoPorts"].iter().any(|part| name.contains(part)) && count != "0"
}

/// Node, index on it and letter of each pod.
fn pods() -> impl Iterator<Item = (u8, u8, char)> {
    (1..=addresses::NODES).flat_map(|node| (0..).zip(PODS).map(move |(index, letter)| (node, index, letter)))
}
