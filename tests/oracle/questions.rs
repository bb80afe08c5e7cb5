//! Who asks what: every kind of client at every address of every Service, over TCP and UDP, IPv4 and IPv6.
//!
//! Must not know: who answers.

use std::fmt;

use crate::services::{SERVICES, Service, Target, node_of};

/// Outside; a pod that is an endpoint of most Services; one that is an endpoint of none; one on the other node; a process
/// of node 1 itself.
const CLIENTS: [&str; 5] = ["client", "1a", "1c", "2c", "node1"];
/// Outside, in no source range.
const STRANGER: &str = "stranger";

/// One question: a line of the table is four of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Question {
    pub(crate) row: Row,
    pub(crate) way: Way,
}

/// A line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    /// Place in [`SERVICES`].
    pub(crate) service: u8,
    pub(crate) client: &'static str,
    pub(crate) target: Target,
}

/// Protocol and family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Way {
    pub(crate) udp: bool,
    pub(crate) v6: bool,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [
        Self { udp: false, v6: false },
        Self { udp: false, v6: true },
        Self { udp: true, v6: false },
        Self { udp: true, v6: true },
    ];

    pub(crate) fn name(self) -> &'static str {
        match (self.udp, self.v6) {
            (false, false) => "TCP4",
            (false, true) => "TCP6",
            (true, false) => "UDP4",
            (true, true) => "UDP6",
        }
    }
}

impl Row {
    pub(crate) fn service(&self) -> &'static Service {
        &SERVICES[usize::from(self.service)]
    }
}

impl Question {
    /// The node that makes a choice of endpoints: the client's own but for NodePorts of another, or the one that the
    /// router or the address leads to.
    pub(crate) fn deciding_node(&self) -> u8 {
        match (self.row.target, node_of(self.row.client)) {
            (Target::NodePort(node), _) | (Target::LoadBalancer(node), 0) => node,
            (Target::NodePortSecond, _) | (_, 0) => 1,
            (_, own) => own,
        }
    }

    /// Whether the packet comes to the deciding node from elsewhere.
    pub(crate) fn comes_from_outside(&self) -> bool {
        self.deciding_node() != node_of(self.row.client)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.service().name, self.client, self.target.name())
    }
}

/// Questions that one client asks one after the other; different series may be asked at the same time. With affinity a
/// first answer decides the later ones, so that those of one client are one series.
pub(crate) fn series() -> Vec<Vec<Question>> {
    let mut all = Vec::new();
    for (index, service) in (0..).zip(SERVICES) {
        for (client, way) in clients(service).into_iter().flat_map(|client| Way::ALL.map(|way| (client, way)))
        {
            let rows = targets(index).map(|target| Row { service: index, client, target });
            let questions: Vec<Question> = rows.map(|row| Question { row, way }).collect();
            if service.is_sticky() {
                all.push(questions);
            } else {
                all.extend(questions.into_iter().map(|question| vec![question]));
            }
        }
    }
    all
}

/// The first two Services are also asked where others are not.
fn targets(service: u8) -> impl Iterator<Item = Target> {
    let more = match service {
        0 => &Target::BESIDE[..],
        1 => &Target::AFTER[..],
        _ => &[],
    };
    Target::ALL.iter().chain(more).copied()
}

fn clients(service: &Service) -> Vec<&'static str> {
    // A pod that meets itself is masqueraded: with affinity it would depend on chance whether that is seen.
    let mut clients: Vec<&str> =
        CLIENTS.into_iter().filter(|client| !(service.is_sticky() && service.contains(client))).collect();
    if service.has_ranges() {
        clients.push(STRANGER);
    }
    clients
}
