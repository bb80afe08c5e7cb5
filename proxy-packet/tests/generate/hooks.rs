//! Runs a packet through one of the four programs over the simulation, as their entry functions in the kernel do.
//!
//! Must not know what is sent.

use std::collections::BTreeMap;

use proxy_common::{Counter, Ipv4Be, Ipv6Be};
use proxy_packet::{
    Place, Verdict, Work, egress, ingress, network,
    simulation::{Simulated, Simulation},
};

use super::world::Named;

/// A program on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    NodeIngress,
    NodeEgress,
    PodIngress,
    PodEgress,
}

impl Hook {
    pub const ALL: [Self; 4] = [Self::NodeIngress, Self::NodeEgress, Self::PodIngress, Self::PodEgress];

    /// The program's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::NodeIngress => "node_ingress",
            Self::NodeEgress => "node_egress",
            Self::PodIngress => "pod_ingress",
            Self::PodEgress => "pod_egress",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.program() == name)
    }

    fn place(self) -> Place {
        if matches!(self, Self::NodeIngress | Self::NodeEgress) { Place::Node } else { Place::Pod }
    }

    fn arrives(self) -> bool {
        matches!(self, Self::NodeIngress | Self::PodIngress)
    }
}

/// What became of a packet; the rest is in the simulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    /// Of a redirection: the device, and the name of the next hop.
    pub device: u32,
    pub next_hop: String,
    /// What was counted.
    pub counts: BTreeMap<Counter, u64>,
}

/// Runs the packet that lies in the simulation.
pub fn run(world: &mut Simulation, hook: Hook) -> Outcome {
    let before = std::mem::take(&mut world.counts);
    let mut at = 0;
    let mut outcome = match network(world, &mut at) {
        4 => run_family::<Ipv4Be>(world, hook, at),
        6 => run_family::<Ipv6Be>(world, hook, at),
        _ => Outcome { verdict: Verdict::Pass, device: 0, next_hop: String::new(), counts: BTreeMap::new() },
    };
    outcome.counts = std::mem::replace(&mut world.counts, before);
    for (counter, count) in &outcome.counts {
        *world.counts.entry(*counter).or_default() += count;
    }
    outcome
}

fn run_family<A: Named + Simulated>(world: &mut Simulation, hook: Hook, at: u32) -> Outcome {
    let mut work = spoilt::<A>();
    let verdict = if hook.arrives() {
        ingress(world, &mut work, at, hook.place())
    } else {
        egress(world, &mut work, at, hook.place())
    };
    Outcome {
        verdict,
        device: work.route.device,
        next_hop: work.route.destination.text(),
        counts: BTreeMap::new(),
    }
}

/// What the packet before left behind: in the kernel nobody clears it.
fn spoilt<A: Named>() -> Work<A> {
    // SAFETY: repr(C) of integers; any bits are a value.
    unsafe {
        let mut work = std::mem::MaybeUninit::<Work<A>>::uninit();
        std::ptr::write_bytes(work.as_mut_ptr().cast::<u8>(), 0xa5, size_of::<Work<A>>());
        work.assume_init()
    }
}
