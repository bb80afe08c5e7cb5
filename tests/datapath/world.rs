//! A node with a client pod and three serving pods, and the words in which the tests speak of them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proxy_core::model::{EndpointObject, Event, ServiceObject};
use sheave_tests::lab::{Lab, Pod};
use sheave_tests::objects::{publish, ready, service};
use sheave_tests::plane::{Host, Plane};
use sheave_tests::server::Server;

/// Port that the pods serve on.
pub(crate) const TARGET: u16 = 8080;
/// Port of the Services.
pub(crate) const PORT: u16 = 80;
/// The Service's IPv4 address.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The Service's IPv6 address.
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10);
/// Address of a second Service.
pub(crate) const VIP_B: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);

static TURN: Mutex<()> = Mutex::new(());

/// Everything one test needs. The order of the fields is the order in which it is taken down.
pub(crate) struct World {
    plane: Option<Plane>,
    _servers: BTreeMap<String, Vec<Server>>,
    pub(crate) pods: BTreeMap<String, Pod>,
    pub(crate) client: Pod,
    pub(crate) lab: Lab,
    pub(crate) host: Host,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    /// A node with the pods `a`, `b`, `c` serving [`TARGET`] and a client pod. No Service.
    pub(crate) fn new() -> Self {
        let mut world = Self::without_plane();
        world.plane = Some(Plane::open(&world.host, &world.lab).unwrap());
        world
    }

    /// The same without a data plane in this process, for an agent.
    pub(crate) fn without_plane() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let host = Host::new().unwrap();
        let mut lab = Lab::new().unwrap();
        let client = lab.pod("client").unwrap();
        let (mut pods, mut servers) = (BTreeMap::new(), BTreeMap::new());
        for name in ["a", "b", "c"] {
            let (pod, serving) = lab.serving_pod(name, TARGET).unwrap();
            pods.insert(name.to_owned(), pod);
            servers.insert(name.to_owned(), serving);
        }
        Self { plane: None, _servers: servers, pods, client, lab, host, _turn: turn }
    }

    /// A dual-stack Service over all pods, TCP or UDP.
    pub(crate) fn with_service(protocol: &str) -> Self {
        let mut world = Self::new();
        let endpoints = world.endpoints(&["a", "b", "c"]);
        world.publish(&vip_service(protocol), &endpoints);
        world
    }

    /// Ready endpoints, both families, of these pods.
    pub(crate) fn endpoints(&self, names: &[&str]) -> Vec<EndpointObject> {
        names.iter().flat_map(|name| [ready(self.pods[*name].v4), ready(self.pods[*name].v6)]).collect()
    }

    /// The data plane.
    pub(crate) fn plane(&mut self) -> &mut Plane {
        self.plane.as_mut().unwrap()
    }

    /// The data plane, to look at.
    pub(crate) fn peek(&self) -> &Plane {
        self.plane.as_ref().unwrap()
    }

    /// Ends the data plane without taking anything down.
    pub(crate) fn close(&mut self) {
        drop(self.plane.take());
    }

    /// Ends the data plane without taking anything down, and opens it again as a new agent does.
    pub(crate) fn reopen(&mut self, open: impl FnOnce(&Host, &Lab) -> Plane) {
        self.close();
        self.plane = Some(open(&self.host, &self.lab));
    }

    /// Creates or changes a Service.
    pub(crate) fn publish(&mut self, service: &ServiceObject, endpoints: &[EndpointObject]) {
        self.apply(publish(service, TARGET, endpoints));
    }

    /// Takes in events; everything fits.
    pub(crate) fn apply(&mut self, events: Vec<Event>) {
        let plan = self.plane().apply(events).unwrap();
        assert_eq!(plan.refused, [], "everything fits");
    }

    /// Runs `work` inside the client pod.
    pub(crate) fn in_pod<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.client.netns.run(work)
    }

    /// Runs `work` inside the node's own namespace.
    pub(crate) fn on_node<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.lab.node.run(work)
    }
}

/// The dual-stack Service that most tests use.
pub(crate) fn vip_service(protocol: &str) -> ServiceObject {
    service("web", &["10.96.0.10", "fd00:10:96::10"], PORT, protocol)
}

/// The Service's IPv4 address and port.
pub(crate) fn vip() -> SocketAddr {
    SocketAddr::new(VIP.into(), PORT)
}

/// The Service's IPv6 address and port.
pub(crate) fn vip6() -> SocketAddr {
    SocketAddr::new(VIP6.into(), PORT)
}

/// An errno as a test names it.
pub(crate) fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.expect_err("the system call should fail").raw_os_error().expect("an error of the kernel")
}

/// `ECONNREFUSED`.
pub(crate) const REFUSED: i32 = 111;
/// `EACCES`, what a `prohibit` route answers: never Sheave's answer.
pub(crate) const PROHIBITED: i32 = 13;
/// `EHOSTUNREACH`.
pub(crate) const UNREACHABLE: i32 = 113;
