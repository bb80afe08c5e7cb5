//! Where the guard's programs and maps are pinned.
//!
//! Must not know who pins them.

use std::path::Path;

use cni::facts::Pins;
use proxy_common::{ENDPOINT_SCHEMA_HASH, names};

/// The pins below an agent's pin folder.
pub fn guard_pins(pin_dir: &Path) -> Pins {
    let (maps, programs) = (pin_dir.join("maps"), pin_dir.join("programs"));
    let [guard_ingress, guard_egress] = names::GUARD_PROGRAMS.map(|name| programs.join(name));
    Pins {
        schema: ENDPOINT_SCHEMA_HASH,
        endpoints: maps.join(names::ENDPOINTS),
        packet_only: maps.join(names::PACKET_ONLY),
        guard_ingress,
        guard_egress,
        links: pin_dir.join("links"),
        tcx: true,
    }
}
