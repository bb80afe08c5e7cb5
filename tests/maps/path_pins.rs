//! What is pinned for the plugin when agents of several versions follow each other.
//!
//! Must not know what the programs do.

use std::fs;

use proxy_userspace::dataplane::{Capacities, DataPlane, DataPlaneConfig};

use crate::setup::Site;

#[test]
fn programs_whose_maps_an_agent_without_such_pins_has_replaced_are_not_left_for_the_plugin() {
    let site = Site::new();
    let config = DataPlaneConfig { own_pods: true, ..site.host.config(Capacities::default()) };
    let inside = |capacities, attaches: bool| {
        let config = DataPlaneConfig { capacities, ..config.clone() };
        site.lab.node.run(move || {
            let mut plane = DataPlane::open(&config).unwrap();
            if attaches {
                plane.attach().unwrap();
            }
            plane
        })
    };
    let pins = inside(Capacities::default(), true).path_pins();
    let (ingress, egress) = (pins.ingress.with_file_name("kept1"), pins.egress.with_file_name("kept2"));
    let are_pinned = || [&pins.ingress, &pins.egress].map(|pin| pin.exists());
    // The next agent has the same maps, and pods that come before it is ready get what the others have.
    drop(inside(Capacities::default(), false));
    assert_eq!(are_pinned(), [true; 2]);
    for smaller in [
        Capacities { flows: 4_096, ..Capacities::default() },
        Capacities { services: 64, ..Capacities::default() },
    ] {
        drop(inside(Capacities::default(), true));
        fs::rename(&pins.ingress, &ingress).unwrap();
        fs::rename(&pins.egress, &egress).unwrap();
        drop(inside(smaller, true));
        fs::rename(&ingress, &pins.ingress).unwrap();
        fs::rename(&egress, &pins.egress).unwrap();
        drop(inside(Capacities::default(), false));
        assert_eq!(are_pinned(), [false; 2], "{smaller:?}");
    }
}
