//! What holds of every packet, whatever came in: an oracle that does not know how the path decides.

use proxy_packet::Verdict;
use proxy_packet::simulation::{checksums_valid, outer_checksums_valid};

use super::egress::is_pod;
use super::scene::Scene;
use super::seen::seen;
use super::world::{OWN, text};

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Gone,
    /// It went on, here or elsewhere.
    Went,
    /// Something was made of it for its sender.
    Answered,
}

impl Fate {
    /// By the verdict.
    pub fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Drop => Self::Gone,
            Verdict::Bounce => Self::Answered,
            Verdict::Pass | Verdict::Redirect | Verdict::ToHost | Verdict::Enter => Self::Went,
        }
    }
}

/// What is wrong with how a packet fared. `counted`: something was counted.
pub fn harm(scene: &Scene, before: &[u8], after: &[u8], fate: Fate, counted: bool) -> Option<String> {
    match fate {
        Fate::Gone => None,
        // An answer is right whatever it answers; what it quotes is as it came.
        Fate::Answered => outer_checksums_valid(after).err().map(|error| format!("the answer: {error}")),
        Fate::Went => went_wrong(scene, before, after, counted),
    }
}

fn went_wrong(scene: &Scene, before: &[u8], after: &[u8], counted: bool) -> Option<String> {
    if before.len() != after.len() {
        return Some(format!("{} bytes became {}", before.len(), after.len()));
    }
    if before != after && !counted {
        return Some("changed, but nothing is counted".into());
    }
    if before != after && !concerns(scene, before) {
        return Some(
            "changed, but neither to a Service nor from a backend nor a pod's to the outside".into(),
        );
    }
    // A quoted CRC32c is left alone: that of a packet that was cut off says nothing.
    let (checked, crc) = (checksums_valid(after), "quoted: checksum of protocol 132");
    if checksums_valid(before).is_ok() && checked != Err(crc.to_owned()) {
        return checked.err();
    }
    if outer_checksums_valid(before).is_ok() { outer_checksums_valid(after).err() } else { None }
}

/// Whether a packet with ports has anything to do with a Service or a flow. What has none, has perhaps.
fn concerns(scene: &Scene, packet: &[u8]) -> bool {
    let Some(seen) = seen(packet) else { return true };
    let (source, destination) = (text(seen.source.ip()), text(seen.destination.ip()));
    let frontends = scene.services.iter().map(|service| service.frontend.0);
    let asked = scene.flows.iter().map(|flow| flow.frontend.0);
    let backends = scene.services.iter().flat_map(|service| service.backends.iter().chain(&service.kept));
    let serving = scene.flows.iter().map(|flow| flow.backend.0);
    let masquerades = is_pod(seen.source.ip()) || OWN.contains(&destination.as_str());
    (scene.egress.is_some() && masquerades)
        || frontends.chain(asked).any(|name| name == destination)
        || backends.map(|end| end.0).chain(serving).any(|name| name == source)
}
