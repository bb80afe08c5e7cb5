//! What the network around the node does with packets: clients ask, backends answer what they saw.
//!
//! Must not know how the path decides.

use proxy_packet::Verdict;
use proxy_packet::simulation::{Frame, Simulation};

use crate::generate::hooks::{self, Hook};
use crate::generate::scene::{End, Scene};
use crate::generate::seen::{Seen, seen};
use crate::generate::traffic::segment;
use crate::generate::world::{Device, OWN, text};

/// TCP flags.
pub const SYN: u8 = 2;
pub const ACK: u8 = 0x10;

/// What every backend says.
pub const PAYLOAD: [u8; 33] = [7; 33];
/// The number with which every backend begins.
const SEQUENCE: u32 = 500;

/// Where a packet from this address comes in.
pub fn entrance(address: &str) -> (Hook, Device) {
    match address {
        "local" => (Hook::PodIngress, Device::Pod0),
        "local2" => (Hook::PodIngress, Device::Pod1),
        "far" => (Hook::NodeIngress, Device::Eth1),
        _ => (Hook::NodeIngress, Device::Eth0),
    }
}

/// Where a packet to this address goes out.
fn exit(address: &str) -> (Hook, Device) {
    match address {
        "local" => (Hook::PodEgress, Device::Pod0),
        "local2" => (Hook::PodEgress, Device::Pod1),
        "far" => (Hook::NodeEgress, Device::Eth1),
        _ => (Hook::NodeEgress, Device::Eth0),
    }
}

/// Lets `from` send; what its packet is when it goes on to a backend.
pub fn ask(world: &mut Simulation, scene: &Scene, ends: (End, End), protocol: u8, flags: u8) -> Option<Seen> {
    let (hook, device) = entrance(ends.0.0);
    let frame = segment(scene.ip, ends, protocol, (flags, (100, SEQUENCE + 1)), 20).build();
    world.put(device.index(), frame.clone());
    let outcome = hooks::run(world, hook);
    let goes_on = match outcome.verdict {
        Verdict::Pass => world.bytes != frame,
        Verdict::Redirect | Verdict::ToHost | Verdict::Enter => true,
        Verdict::Drop | Verdict::Bounce => false,
    };
    goes_on.then(|| seen(&world.bytes).expect("a translated packet has ports"))
}

/// Lets `from` open a connection, or exchange datagrams, until it is proven that both sides receive; what its first
/// packet was when it went on to a backend, and what the client got.
pub fn converse(
    world: &mut Simulation,
    scene: &Scene,
    ends: (End, End),
    protocol: u8,
) -> Option<(Seen, Option<Seen>)> {
    let request = ask(world, scene, ends, protocol, SYN)?;
    let reply = answer(world, &request, SYN | ACK);
    ask(world, scene, ends, protocol, ACK);
    Some((request, reply))
}

/// Lets the backend that got `request` answer it; what the client gets.
pub fn answer(world: &mut Simulation, request: &Seen, flags: u8) -> Option<Seen> {
    let (from, to) = (request.destination, request.source);
    let frame = match request.protocol {
        6 => Frame::tcp(from, to, flags, (SEQUENCE, 120), &PAYLOAD),
        17 => Frame::udp(from, to, &PAYLOAD),
        _ => Frame::sctp(from, to, &PAYLOAD),
    };
    let (backend, client) = (text(from.ip()), text(to.ip()));
    let mut stages = Vec::new();
    if !OWN.contains(&backend.as_str()) {
        stages.push(entrance(&backend));
    }
    if !OWN.contains(&client.as_str()) {
        stages.push(exit(&client));
    }
    let mut bytes = frame.build();
    for (hook, device) in stages {
        world.put(device.index(), bytes);
        let outcome = hooks::run(world, hook);
        bytes = std::mem::take(&mut world.bytes);
        match outcome.verdict {
            Verdict::Pass => (),
            Verdict::Redirect | Verdict::ToHost | Verdict::Enter => break,
            Verdict::Drop | Verdict::Bounce => return None,
        }
    }
    seen(&bytes)
}
