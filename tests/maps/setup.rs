//! A node without pods, its data plane, and the text of what the maps hold.

use std::sync::{Mutex, MutexGuard, PoisonError};

use proxy_core::desired::{DesiredService, Engine};
use proxy_core::diff::RealisedDump;
use proxy_core::entries::text::{self, Ids};
use proxy_core::model::{EndpointObject, Event};
use proxy_userspace::dataplane::{Capacities, LbMaps as _};
use sheave_tests::lab::Lab;
use sheave_tests::objects::{elsewhere, exposed, node_port, publish, ready, service, sticky};
use sheave_tests::plane::{Host, Plane};

static TURN: Mutex<()> = Mutex::new(());

/// Where data planes come and go.
pub(crate) struct Site {
    pub(crate) host: Host,
    pub(crate) lab: Lab,
    _turn: MutexGuard<'static, ()>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self { host: Host::new().unwrap(), lab: Lab::new().unwrap(), _turn: turn }
    }

    pub(crate) fn open(&self) -> Plane {
        Plane::open(&self.host, &self.lab).unwrap()
    }

    pub(crate) fn open_with(&self, capacities: Capacities) -> Plane {
        Plane::open_filled(&self.host, &self.lab, capacities, Vec::new()).unwrap()
    }
}

/// Everything the maps hold.
pub(crate) fn dump(plane: &mut Plane) -> RealisedDump {
    plane.data.maps().dump().unwrap()
}

/// What the maps say, without ids.
pub(crate) fn written(plane: &mut Plane) -> String {
    text::print(&text::of_dump(&dump(plane), Ids::Hidden))
}

/// What the maps should say.
pub(crate) fn wanted(engine: &Engine) -> String {
    let all: Vec<DesiredService> = engine.all().into_values().collect();
    text::print(&text::of_desired(&all))
}

/// Endpoints with these last numbers, IPv4 and IPv6, every third on another node.
pub(crate) fn endpoints(numbers: &[u8]) -> Vec<EndpointObject> {
    let place = |number: &u8, endpoint| if number.is_multiple_of(3) { elsewhere(endpoint) } else { endpoint };
    let both = |number: &u8| {
        let v4 = ready([10, 244, 0, *number]);
        let v6 = ready([0xfd00, 0x10, 0x244, 0, 0, 0, 0, u16::from(*number)]);
        [place(number, v4), place(number, v6)]
    };
    numbers.iter().flat_map(both).collect()
}

/// A small cluster with one Service of each kind.
pub(crate) fn cluster() -> Vec<Event> {
    let dual = ["10.96.0.1", "fd00:10:96::1"];
    let mut local = node_port(service("local", &["10.96.0.2"], 80, "UDP"), 30_080);
    local.external_policy = "Local".into();
    let balanced = exposed(
        node_port(service("balanced", &["10.96.0.3"], 443, "TCP"), 30_443),
        "203.0.113.5",
        "203.0.113.9",
    );
    let mut ranged = balanced;
    ranged.source_ranges = vec!["198.51.100.0/24".into(), "2001:db8:1::/48".into()];
    [
        publish(&sticky(service("plain", &dual, 80, "TCP"), 600), 8080, &endpoints(&[1, 2, 3])),
        publish(&local, 8053, &endpoints(&[2, 3])),
        publish(&ranged, 8443, &endpoints(&[1, 4, 6])),
        publish(&service("empty", &["10.96.0.4"], 80, "TCP"), 8080, &[]),
    ]
    .concat()
}
