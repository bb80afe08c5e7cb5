//! What egress masquerade owes to each packet, told from packets alone: who stands at the node's devices and remembers
//! which pod's packets left with which port of the node.
//!
//! Must not know how the path decides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proxy_common::{FlowFlags, Ipv4Be, Ipv6Be};
use proxy_packet::simulation::Simulation;

use super::egress::{Egress, OUTSIDE, is_pod};
use super::hooks::Hook;
use super::oracle::Fate;
use super::scene::{FRONTENDS, Scene};
use super::seen::{Seen, seen};
use super::traffic::socket;
use super::world::{Ip, LOCAL, Named, OWN, text};

/// Flags of TCP.
const SYN_ACK: u8 = 0x12;
const ENDS: u8 = 0x05;

/// Two ends, as a packet from the first to the second has them, and the protocol.
type Way = (SocketAddr, SocketAddr, u8);

/// Whose source a packet of a pod must leave with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Pod,
    Node,
    Either,
}

/// The one who looks on.
pub struct Witness {
    egress: Option<Egress>,
    frontends: BTreeSet<SocketAddr>,
    /// Addresses that Services have; others of `frontends` were some Service's once.
    served: BTreeSet<IpAddr>,
    /// Which pod's end a way from the node to the outside is.
    owners: BTreeMap<Way, SocketAddr>,
    /// Ways on which a pod has spoken with its own address.
    kept: BTreeSet<Way>,
    /// Protocols of packets that left with the node's address, and of those that came back to a pod.
    pub left: BTreeSet<u8>,
    pub returned: BTreeSet<u8>,
}

impl Witness {
    /// Before any packet; `world` is the scene's.
    pub fn new(scene: &Scene, world: &mut Simulation) -> Self {
        let services = scene.services.iter().map(|service| service.frontend);
        let served = services.clone().map(|end| socket(scene.ip, end).ip()).collect();
        let flows = scene.flows.iter().filter(|flow| !flow.is_masqueraded()).map(|flow| flow.frontend);
        let mut witness = Self {
            egress: scene.egress.clone(),
            frontends: services.chain(flows).map(|end| socket(scene.ip, end)).collect(),
            served,
            owners: BTreeMap::new(),
            kept: BTreeSet::new(),
            left: BTreeSet::new(),
            returned: BTreeSet::new(),
        };
        match scene.ip {
            Ip::V4 => witness.learn::<Ipv4Be>(world),
            Ip::V6 => witness.learn::<Ipv6Be>(world),
        }
        witness
    }

    /// The flows that are there already.
    fn learn<A: Named>(&mut self, world: &mut Simulation) {
        let of = |address: A, port: proxy_common::PortBe| SocketAddr::new(address.ip(), port.to_host());
        for flow in A::tables(world).flows.values() {
            let (pod, outside) = (of(flow.client, flow.client_port), of(flow.backend, flow.backend_port));
            match flow.flags & (FlowFlags::MASQUERADED | FlowFlags::SOURCE_IS_NODE) {
                FlowFlags::MASQUERADED => drop(self.kept.insert((pod, outside, flow.protocol))),
                both if both & FlowFlags::MASQUERADED != 0 => {
                    let way = (of(flow.source, flow.source_port), outside, flow.protocol);
                    self.owners.insert(way, pod);
                }
                _ => (),
            }
        }
    }

    /// Looks at a packet before and after a hook; what is wrong with it.
    pub fn look(
        &mut self,
        hook: Hook,
        from_host: bool,
        (before, after): (&[u8], &[u8]),
        fate: Fate,
    ) -> Option<String> {
        if fate != Fate::Went {
            return None;
        }
        let (was, is) = (seen(before)?, seen(after)?);
        match hook {
            Hook::NodeEgress if !from_host => self.leaves(&was, &is),
            Hook::NodeIngress => self.comes(&was, &is),
            _ => None,
        }
    }

    fn leaves(&mut self, was: &Seen, is: &Seen) -> Option<String> {
        if !is_one_of(&LOCAL, was.source.ip()) {
            return None;
        }
        let own = is.source == was.source;
        let given = is_one_of(&OWN, is.source.ip()) && !self.frontends.contains(&is.source);
        let fault = match self.due(was) {
            Due::Node if own => Some("a pod's packet leaves to the outside with the pod's address"),
            Due::Pod if given => Some("a pod's packet to the inside leaves with the node's address"),
            _ if given && self.egress.is_none() => Some("nothing is masqueraded here"),
            _ => None,
        };
        if given {
            self.owners.insert((is.source, was.destination, was.protocol), was.source);
            self.left.insert(was.protocol);
        } else if own {
            self.kept.insert((was.source, was.destination, was.protocol));
        }
        fault.map(|fault| format!("{fault}: {was:?}\n    became {is:?}"))
    }

    fn due(&self, packet: &Seen) -> Due {
        let Some(egress) = &self.egress else { return Due::Pod };
        let name = text(packet.destination.ip());
        if self.served.contains(&packet.destination.ip()) || OWN.contains(&name.as_str()) {
            return Due::Either;
        }
        if is_pod(packet.destination.ip()) {
            return Due::Pod;
        }
        if egress.exempt.contains(&name.as_str()) {
            // A flow from before it was exempt goes on.
            return if self.is_known(packet) { Due::Either } else { Due::Pod };
        }
        let outside = OUTSIDE.iter().chain(&FRONTENDS).any(|(known, _)| *known == name);
        if outside && !self.may_keep(packet) { Due::Node } else { Due::Either }
    }

    fn is_known(&self, packet: &Seen) -> bool {
        let of = |((_, outside, protocol), pod): (&Way, &SocketAddr)| {
            (*pod, *outside, *protocol) == (packet.source, packet.destination, packet.protocol)
        };
        self.owners.iter().any(of)
    }

    /// Whether the pod may be the one that was asked, which the others see in its own address.
    fn may_keep(&self, packet: &Seen) -> bool {
        let (from, to) = (packet.source, packet.destination);
        match packet.protocol {
            1 | 58 => to.port() != 0 || from.port() == 0,
            6 => {
                let flags = packet.rest.get(9).copied().unwrap_or_default();
                // A SYN asks, whoever was asked before; any other packet may go on with what was.
                let asks = flags & (SYN_ACK | ENDS) == 2;
                let answers = flags & 0x10 != 0;
                !asks
                    && (from.port() < to.port() && answers
                        || self.kept.contains(&(from, to, 6))
                        || is_refusal(packet, flags)
                        || flags & SYN_ACK == SYN_ACK)
            }
            _ => false,
        }
    }

    fn comes(&mut self, was: &Seen, is: &Seen) -> Option<String> {
        let to_pod = is_one_of(&OWN, was.destination.ip()) && is_one_of(&LOCAL, is.destination.ip());
        if !to_pod || is.source != was.source || self.frontends.contains(&was.destination) {
            return None;
        }
        self.returned.insert(was.protocol);
        let owner = self.owners.get(&(was.destination, was.source, was.protocol));
        (owner != Some(&is.destination))
            .then(|| format!("{was:?}\n    reaches {}, but belongs to {owner:?}", is.destination))
    }
}

fn is_one_of(names: &[&str], address: IpAddr) -> bool {
    names.contains(&text(address).as_str())
}

/// A reset that answers a SYN.
fn is_refusal(packet: &Seen, flags: u8) -> bool {
    flags & 4 != 0 && packet.rest.get(..4) == Some(&[0; 4])
}

/// Whether a packet is whole, so that nothing keeps the path from reading it.
pub fn is_sound(packet: &[u8]) -> bool {
    proxy_packet::simulation::checksums_valid(packet).is_ok()
}
