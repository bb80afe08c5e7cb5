//! Asks everything that a scenario has rows for, and says what did not come out as expected.
//!
//! Must not know: how Services are served.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Expected, Row, Scenario, Translation, Transport};
use crate::probe::{Answer, Connection, Outcome, PATIENCE, ask, ask_to, pattern, udp_socket};
use crate::topology::addresses::{NODES, node};
use crate::topology::{Place, Topology};

/// How many clients ask at the same time: most of the time they wait.
const WORKERS: usize = 48;
/// How many bytes go through a TCP connection of each row, and come back.
const STREAM: usize = 1 << 20;
/// How many bytes the large datagram of each row has: more than any link of 1500 bytes takes whole.
const DATAGRAM: usize = 4_000;
/// How long nothing must come where silence is expected: a second attempt of TCP is after 1 s.
const SILENCE: Duration = Duration::from_millis(1_200);
/// How many times each client asks where it must be refused.
const REFUSALS: usize = 2;

/// One client and one question.
struct Probe<'a> {
    topology: &'a Topology,
    row: &'a Row,
    place: &'a Place,
    transport: Transport,
    path: Translation,
}

/// Runs all rows that hold on `path`; what failed, one text each.
///
/// # Errors
/// A row names a place that is not there.
pub fn failures(topology: &Topology, scenario: &Scenario, path: Translation) -> Result<Vec<String>> {
    let probes = probes(topology, scenario, path)?;
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..WORKERS.min(probes.len()) {
            scope.spawn(|| {
                while let Some(probe) = probes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(text) = probe.run()
                        && let Ok(mut failures) = failures.lock()
                    {
                        failures.push(format!("{}.txt:{}: {text}", scenario.name, probe.row.line));
                    }
                }
            });
        }
    });
    Ok(failures.into_inner().unwrap_or_default())
}

fn probes<'a>(topology: &'a Topology, scenario: &'a Scenario, path: Translation) -> Result<Vec<Probe<'a>>> {
    let mut probes = Vec::new();
    for row in scenario.rows.iter().filter(|row| row.only.is_none_or(|only| only == path)) {
        for from in &row.from {
            let place = topology.place(from)?;
            let path = if place.is_inside() { path } else { Translation::Packets };
            probes.extend(row.transports.iter().map(|transport| Probe {
                topology,
                row,
                place,
                transport: *transport,
                path,
            }));
        }
    }
    Ok(probes)
}

impl Probe<'_> {
    fn run(&self) -> Result<(), String> {
        let result = match &self.row.expected {
            Expected::Reject => self.all(REFUSALS, &Outcome::Refused),
            Expected::Drop => self.all(1, &Outcome::Silent),
            Expected::Backends { kept, masqueraded } => self
                .backends(kept, masqueraded)
                .and_then(|()| if self.is_limited() { Ok(()) } else { self.much() }),
        };
        result.map_err(|text| {
            format!("{} {:?} {} by {:?}: {text}", self.place.name, self.transport, self.row.to, self.path)
        })
    }

    fn all(&self, times: usize, expected: &Outcome) -> Result<(), String> {
        let outcomes: Vec<Outcome> = (0..times).map(|turn| self.ask(turn)).collect();
        match outcomes.iter().find(|outcome| *outcome != expected) {
            None => Ok(()),
            Some(outcome) => Err(format!("{outcome:?} instead of {expected:?}")),
        }
    }

    fn ask(&self, turn: usize) -> Outcome {
        let patience = if self.row.expected == Expected::Drop { SILENCE } else { PATIENCE };
        let (to, port) = (self.row.to, self.place.next_port());
        self.place
            .run(|| match self.transport {
                Transport::Tcp => Ok(Connection::open_within(to, port, patience)?.answer),
                Transport::Udp => self.ask_udp(&udp_socket(to, port)?, patience, turn),
            })
            .into()
    }

    /// Over a connected socket and one that is not by turns; but only a connected one hears of a refusal.
    fn ask_udp(&self, socket: &UdpSocket, patience: Duration, turn: usize) -> io::Result<Answer> {
        let (to, bytes) = (self.row.to, b"who?");
        socket.set_read_timeout(Some(patience))?;
        if matches!(self.row.expected, Expected::Backends { .. }) && !turn.is_multiple_of(2) {
            return ask_to(socket, to, bytes);
        }
        socket.connect(to)?;
        ask(socket, bytes)
    }

    fn backends(
        &self,
        kept: &BTreeSet<SocketAddr>,
        masqueraded: &BTreeSet<SocketAddr>,
    ) -> Result<(), String> {
        let expected: BTreeSet<SocketAddr> = kept.union(masqueraded).copied().collect();
        let mut missing = expected.clone();
        let turns = turns(expected.len());
        for turn in 0..turns {
            let answer = match self.ask(turn) {
                Outcome::Answered(answer) => answer,
                other => return Err(format!("{other:?} at turn {turn}")),
            };
            if !expected.contains(&answer.server) {
                return Err(format!("{} answered", answer.server));
            }
            self.judge_source(&answer, masqueraded.contains(&answer.server))?;
            missing.remove(&answer.server);
        }
        let mut text = String::new();
        for backend in missing {
            let _ = write!(text, "{backend} never answered in {turns} turns; ");
        }
        if text.is_empty() { Ok(()) } else { Err(text) }
    }

    fn judge_source(&self, answer: &Answer, masqueraded: bool) -> Result<(), String> {
        let (client, seen) = (answer.client.ip(), answer.seen.ip());
        let is_nodes = self.topology.is_nodes(seen);
        // A socket that is not connected does not know its address; a node may send from another than it says.
        let is_own = seen == client || seen == self.place.like(seen) || self.place.is_node() && is_nodes;
        let is_right = match (masqueraded, self.path) {
            _ if self.is_hidden(answer.server.ip()) => is_nodes,
            // Another node's NodePort; its other addresses are Services' on every node.
            (false, _) if self.is_hidden(self.row.to.ip()) => is_own || is_nodes,
            (false, _) => is_own,
            (true, Translation::Packets) => is_nodes,
            // Another node translates packets also where this one translates sockets.
            (true, Translation::Sockets) => is_own || is_nodes,
        };
        if is_right { Ok(()) } else { Err(format!("{} sees {seen} as {client}", answer.server)) }
    }

    /// Whether a pod's packets to `address` leave for another node past the tunnel: the answer would come through it.
    fn is_hidden(&self, address: IpAddr) -> bool {
        let mut others = (1..=NODES).filter(|number| *number != self.place.node);
        let is_pod = self.place.is_inside() && !self.place.is_node();
        self.topology.tunnels() && is_pod && others.any(|other| node(other).like(address) == address)
    }

    /// The ways that large datagrams do not go: from a node to its own address as packets. They come whole, for the
    /// loopback device takes 64 KiB, and nothing cuts them up for the link that leads to the backend.
    /// And where there are tunnels, from a node as packets to what may be a node's address: see `docs/limits.md`.
    fn is_limited(&self) -> bool {
        let to_itself = self.place.like(self.row.to.ip()) == self.row.to.ip();
        let is_untold = self.topology.tunnels() && !is_cluster_ip(self.row.to.ip());
        let by_packet = self.place.is_node() && self.path == Translation::Packets;
        self.transport == Transport::Udp && by_packet && (to_itself || is_untold)
    }

    /// Many bytes as well as few.
    fn much(&self) -> Result<(), String> {
        let (to, port) = (self.row.to, self.place.next_port());
        let result = self.place.run(|| match self.transport {
            Transport::Tcp => Connection::open_from(to, port)?.transfer_last(&pattern(STREAM)),
            Transport::Udp => {
                let socket = udp_socket(to, port)?;
                socket.connect(to)?;
                self.ask_much(&socket).map(drop)
            }
        });
        result.map_err(|error| format!("many bytes: {error}"))
    }

    /// Through a tunnel, which takes less than a link, the first datagram of each side may only tell how much.
    fn ask_much(&self, socket: &UdpSocket) -> io::Result<Answer> {
        let lost = if self.topology.tunnels() { 2 } else { 0 };
        let mut attempts = (0..=lost).map(|_| ask(socket, &pattern(DATAGRAM)));
        attempts.find(Result::is_ok).unwrap_or_else(|| ask(socket, &pattern(DATAGRAM)))
    }
}

/// Whether it is in the Service range of every scenario.
fn is_cluster_ip(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets().starts_with(&[10, 96]),
        IpAddr::V6(address) => address.segments().starts_with(&[0xfd00, 0x10, 0x96]),
    }
}

/// So many turns that missing one of `backends`, each with the same probability, is one in ten millions.
fn turns(backends: usize) -> usize {
    match backends {
        1 => 2,
        2 => 25,
        3 => 43,
        count => count * 16,
    }
}
