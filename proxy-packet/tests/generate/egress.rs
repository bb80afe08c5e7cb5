//! Egress masquerade of generated cases: whose packets get the node's address, and who outside sees pods' own.
//!
//! Must not know packets.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proxy_common::{FlowFlags, FlowValue, MasqueradeKey, MasqueradeKind};
use proxy_packet::simulation::Simulation;

use super::scene::{End, Flow, Scene};
use super::world::{LOCAL, Named, OWN};

/// Who is asked outside. Port 0: an echo is asked for.
pub const OUTSIDE: [End; 6] = [
    ("client", 443),
    ("client2", 40_000),
    ("neighbour", 80),
    ("second-neighbour", 443),
    ("stranger", 443),
    ("client", 0),
];

/// Who of them, and of the pods elsewhere, may be in `--non-masquerade-cidrs`.
const EXEMPT: [&str; 3] = ["stranger", "neighbour", "remote"];

/// Number by which a generated flow says that it is one of echoes, in either family.
pub const ECHO: u8 = 1;

/// Egress masquerade of the node's pods.
#[derive(Clone, Debug)]
pub struct Egress {
    /// Names of hosts that see the pods' own addresses.
    pub exempt: Vec<&'static str>,
    /// Whether pods are told by the setting of the cluster's prefix; otherwise that is a prefix of the table.
    pub by_setting: bool,
}

/// Any one, with all of the node's pods.
pub fn egress() -> impl Strategy<Value = Egress> {
    (subsequence(&EXEMPT[..], 0..=EXEMPT.len()), any::<bool>())
        .prop_map(|(exempt, by_setting)| Egress { exempt, by_setting })
}

/// Who a flow of a pod asks outside, if it does.
pub fn outside() -> impl Strategy<Value = Option<End>> {
    prop::option::weighted(0.4, select(&OUTSIDE[..]))
}

/// Whether it is an address of the cluster's pods.
pub fn is_pod(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..2] == [10, 244],
        IpAddr::V6(address) => address.segments()[..3] == [0xfd00, 0x10, 0x244],
    }
}

impl Egress {
    /// Switches it on.
    pub fn apply<A: Named>(&self, world: &mut Simulation) {
        let key = |name: &str| MasqueradeKey { address: A::named(name).to_mapped() };
        let bits = |four: u32, six: u32| if A::FAMILY == 4 { 96 + four } else { six };
        world.settings.masquerade = 1;
        world.masquerade.push((key("local"), bits(24, 64), MasqueradeKind::Pod));
        if !self.by_setting {
            (world.settings.inside4_set, world.settings.inside6_set) = (0, 0);
            world.masquerade.push((key("local"), bits(16, 48), MasqueradeKind::Exempt));
        }
        world.masquerade.extend(self.exempt.iter().map(|name| (key(name), 128, MasqueradeKind::Exempt)));
        world.confine_pods();
    }
}

impl Scene {
    /// Whether a flow is one of a pod with somebody who is not to see its address, or who has asked it.
    pub fn explains<A: Named>(&self, flow: &FlowValue<A>) -> bool {
        let is_one = flow.flags & FlowFlags::MASQUERADED != 0
            && (flow.frontend, flow.frontend_port) == (flow.backend, flow.backend_port);
        let by_node = flow.flags & FlowFlags::SOURCE_IS_NODE != 0;
        let source =
            if by_node { OWN.contains(&flow.source.text().as_str()) } else { flow.source == flow.client };
        self.egress.is_some()
            && is_one
            && source
            && is_pod(flow.client.ip())
            && (by_node || flow.protocol == 6)
    }
}

impl Flow {
    /// Makes the flow one of a pod with somebody outside: with the node's address, or with the pod's own where the pod
    /// was asked, which only TCP tells.
    pub fn masquerade(&mut self, outside: End) {
        if !LOCAL.contains(&self.client.0) {
            self.client.0 = LOCAL[usize::from(self.client.1) % LOCAL.len()];
        }
        self.protocol = if outside.1 == 0 { ECHO } else { self.protocol };
        if self.protocol != 6 {
            self.node_port = Some(self.node_port.unwrap_or(1_024));
        }
        (self.linked, self.frontend, self.backend) = (false, outside, outside);
        self.flags |= FlowFlags::MASQUERADED;
    }

    /// Whether [`Flow::masquerade`] made it.
    pub fn is_masqueraded(&self) -> bool {
        self.flags & FlowFlags::MASQUERADED != 0
    }
}
