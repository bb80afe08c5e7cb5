//! A sender that sees no answers, because the address it sends from is not its own: whatever it sends, its flow is not
//! taken for one that both sides agreed on, which would hold its place in a full table.

use proptest::prelude::*;
use proptest::sample::select;
use proxy_common::{FlowState, Ipv4Be, Ipv6Be, Scope};
use proxy_packet::Verdict;
use proxy_packet::simulation::{Frame, Simulation};

use crate::generate::hooks::{self, Hook};
use crate::generate::scene::{End, Scene, Service, Settings};
use crate::generate::traffic::socket;
use crate::generate::world::{Device, Ip, Named};

const CLIENT: End = ("client", 40_000);
const FRONTEND: End = ("lb", 80);
const BACKEND: End = ("local", 8_080);

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 0x10;

/// The numbers that backends begin with; the sender guesses others.
const ANSWERS: std::ops::Range<u32> = 0x8000_0000..0xc000_0000;
const GUESSES: std::ops::Range<u32> = 0..0x4000_0000;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// The sender sends: flags and a guessed acknowledgement.
    Sends(u8, u32),
    /// The backend answers the oldest packet that it has not answered, with this number if that was a SYN.
    Answers(u32),
    /// An answer of the backend is lost.
    Loses,
}

fn step() -> impl Strategy<Value = Step> {
    let flags = select(&[SYN, SYN, ACK, ACK, ACK | 1, ACK | 8, RST, SYN | ACK, 1, 0][..]);
    prop_oneof![
        4 => (flags, prop_oneof![Just(0), Just(1), GUESSES]).prop_map(|(flags, guess)| Step::Sends(flags, guess)),
        3 => ANSWERS.prop_map(Step::Answers),
        1 => Just(Step::Loses),
    ]
}

fn scene(ip: Ip) -> Scene {
    let service = Service {
        protocol: 6,
        frontend: FRONTEND,
        scopes: vec![Scope::External],
        backends: vec![BACKEND],
        kept: Vec::new(),
        flags: 0,
        ranges: Vec::new(),
        generation: 1,
    };
    Scene {
        ip,
        settings: Settings {
            masquerade_all: false,
            host_by_packet: false,
            egress: false,
            source_ports: 500,
            flows_max: 4,
        },
        egress: None,
        services: vec![service],
        flows: Vec::new(),
        affinity: Vec::new(),
    }
}

/// Does one step; `waiting` are the flags of the packets that the backend has not answered.
fn perform(world: &mut Simulation, ip: Ip, step: &Step, waiting: &mut Vec<u8>) {
    let end = |end: End| socket(ip, end);
    let (hook, device, frame) = match *step {
        Step::Sends(flags, guess) => {
            let frame = Frame::tcp(end(CLIENT), end(FRONTEND), flags, (77, guess), &[]);
            (Hook::NodeIngress, Device::Eth0, frame)
        }
        Step::Answers(number) if !waiting.is_empty() => {
            let (flags, number) =
                if waiting.remove(0) & (SYN | ACK) == SYN { (SYN | ACK, number) } else { (RST, 0) };
            (Hook::NodeEgress, Device::Eth0, Frame::tcp(end(BACKEND), end(CLIENT), flags, (number, 78), &[]))
        }
        Step::Answers(_) => return,
        Step::Loses => {
            waiting.truncate(waiting.len().saturating_sub(1));
            return;
        }
    };
    let frame = frame.build();
    world.put(device.index(), frame.clone());
    let outcome = hooks::run(world, hook);
    if let (Step::Sends(flags, _), Verdict::Pass) = (step, outcome.verdict)
        && world.bytes != frame
        && flags & RST == 0
    {
        waiting.push(*flags);
    }
}

fn is_proven<A: Named>(world: &mut Simulation) -> bool {
    let proven = [FlowState::Established as u8, FlowState::HalfClosed as u8];
    A::tables(world).flows.values().any(|flow| proven.contains(&flow.state))
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_sender_that_sees_no_answer_proves_nothing(
        ip in select(&Ip::BOTH[..]), steps in prop::collection::vec(step(), 1..12),
    ) {
        let mut world = scene(ip).world();
        let mut waiting = Vec::new();
        for step in &steps {
            perform(&mut world, ip, step, &mut waiting);
            let proven = match ip {
                Ip::V4 => is_proven::<Ipv4Be>(&mut world),
                Ip::V6 => is_proven::<Ipv6Be>(&mut world),
            };
            prop_assert!(!proven, "after {:?}", step);
        }
    }
}
