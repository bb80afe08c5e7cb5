//! The steps of the wiring on the kernel.
//!
//! Holds a netlink socket in each namespace. Must not know the order of the steps.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage, State},
    route::RouteType,
};

use super::{
    WireError, filter, guard, message,
    netlink::{Refusal, Rtnetlink},
    netns::Namespace,
    path,
    plan::{Pair, Place, Step, Undo},
    run::Effects,
    setting::{self, Setting},
    way_out,
};
use crate::facts::Pins;

/// The first device of every namespace.
const LOOPBACK: u32 = 1;
/// How long and after which pause it is looked whether the pod's end sends.
const SETTLE_LIMIT: Duration = Duration::from_millis(20);
const SETTLE_PAUSE: Duration = Duration::from_micros(100);

/// Both namespaces and what is known of the pair.
#[derive(Debug)]
pub(super) struct Kernel<'a> {
    namespace: &'a Namespace,
    pins: &'a Pins,
    host: Rtnetlink,
    pod: Rtnetlink,
    /// Index of the host's end; 0 before it is made.
    pub(super) host_index: u32,
    pod_index: u32,
    /// See [`super::Wired`].
    pub(super) by_rule: Vec<IpAddr>,
}

/// Opens a socket inside a pod.
pub(super) fn pod_socket(namespace: &Namespace) -> Result<Rtnetlink, WireError> {
    namespace.inside(Rtnetlink::open)?.map_err(WireError::Socket)
}

/// The device of this name, if there is one.
pub(super) fn find(socket: &mut Rtnetlink, name: &str) -> Result<Option<LinkMessage>, WireError> {
    match socket.get(message::link_named(name)) {
        Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
        Ok(_) => Ok(None),
        Err(refusal) if refusal.is(libc::ENODEV) => Ok(None),
        Err(refusal) => Err(WireError::kernel(format!("look for device {name}"))(refusal)),
    }
}

impl<'a> Kernel<'a> {
    /// Opens both sockets.
    pub(super) fn open(namespace: &'a Namespace, pins: &'a Pins) -> Result<Self, WireError> {
        let host = Rtnetlink::open().map_err(WireError::Socket)?;
        let pod = pod_socket(namespace)?;
        Ok(Self { namespace, pins, host, pod, host_index: 0, pod_index: 0, by_rule: Vec::new() })
    }

    fn end(&mut self, place: Place) -> (&mut Rtnetlink, u32) {
        match place {
            Place::Host => (&mut self.host, self.host_index),
            Place::Pod => (&mut self.pod, self.pod_index),
        }
    }

    fn make_pair(&mut self, pair: &Pair) -> Result<Option<Undo>, WireError> {
        let request = message::pair(pair, self.namespace.as_fd());
        self.host.change(request, NLM_F_CREATE | NLM_F_EXCL).map_err(|refusal| {
            if refusal.is(libc::EEXIST) {
                return WireError::Exists { ifname: pair.ifname.clone() };
            }
            let attempt = format!("make devices {} and {}", pair.host_device, pair.ifname);
            WireError::kernel(attempt)(refusal)
        })?;
        if let Err(error) = self.learn_indices(pair) {
            let _ = self.undo(&Undo::Pair);
            return Err(error);
        }
        Ok(Some(Undo::Pair))
    }

    fn learn_indices(&mut self, pair: &Pair) -> Result<(), WireError> {
        let gone = |name: &str| {
            WireError::kernel(format!("find device {name}, which was made"))(Refusal::from(
                std::io::Error::from_raw_os_error(libc::ENODEV),
            ))
        };
        let host = find(&mut self.host, &pair.host_device)?.ok_or_else(|| gone(&pair.host_device))?;
        self.host_index = host.header.index;
        self.pod_index = match other_end(&host) {
            Some(index) => index,
            None => find(&mut self.pod, &pair.ifname)?.ok_or_else(|| gone(&pair.ifname))?.header.index,
        };
        Ok(())
    }

    fn settings(&self, place: Place, settings: &[Setting]) -> Result<Option<Undo>, WireError> {
        let before = match place {
            Place::Host => setting::apply(settings)?,
            Place::Pod => self.namespace.inside(|| setting::apply(settings))??,
        };
        Ok((!before.is_empty()).then_some(Undo::Settings(place, before)))
    }

    /// What another interface of the same pod asked for stays when this one is undone.
    fn packet_only(&self, cookie: u64) -> Result<Option<Undo>, WireError> {
        if guard::is_exempt(self.pins, cookie)? {
            return Ok(None);
        }
        guard::exempt(self.pins, cookie).map(|()| Some(Undo::PacketOnly(cookie)))
    }

    fn loopback(&mut self) -> Result<Option<Undo>, WireError> {
        let attempt = || WireError::kernel("bring lo up in the pod".to_owned());
        let link = self.pod.get(message::link(LOOPBACK)).map_err(attempt())?;
        if matches!(link, RouteNetlinkMessage::NewLink(link) if link.header.flags.contains(LinkFlags::Up)) {
            return Ok(None);
        }
        self.pod.change(message::link_state(LOOPBACK, true), 0).map_err(attempt())?;
        Ok(Some(Undo::Loopback))
    }

    fn up(&mut self, place: Place) -> Result<(), WireError> {
        let (socket, index) = self.end(place);
        let attempt = format!("bring the {} end up", name(place));
        let request = match place {
            Place::Host => message::link_state(index, true),
            Place::Pod => message::pod_up(index),
        };
        socket.change(request, 0).map_err(WireError::kernel(attempt))
    }

    /// Nobody asks for the link-local address of the host's end. Without IPv6 on the device there is none anyway.
    fn host_device(&mut self) -> Result<(), WireError> {
        let mut made = self.host.change(message::host_settings(self.host_index, true), 0);
        if made.as_ref().is_err_and(|refusal| refusal.is(libc::EAFNOSUPPORT)) {
            made = self.host.change(message::host_settings(self.host_index, false), 0);
        }
        made.map_err(WireError::kernel("set how the host's end forwards".to_owned()))
    }

    fn address(&mut self, address: IpAddr) -> Result<(), WireError> {
        let request = message::address(self.pod_index, address);
        let attempt = format!("give the pod the address {address}");
        self.pod.change(request, NLM_F_CREATE | NLM_F_EXCL).map_err(WireError::kernel(attempt))
    }

    fn neighbour(&mut self, place: Place, address: IpAddr, mac: crate::record::Mac) -> Result<(), WireError> {
        let (socket, index) = self.end(place);
        let attempt = format!("make {mac} known as the neighbour {address} on the {} end", name(place));
        let request = message::neighbour(index, address, mac);
        socket.change(request, NLM_F_CREATE | NLM_F_REPLACE).map_err(WireError::kernel(attempt))
    }

    fn default_route(&mut self, address: IpAddr) -> Result<Option<Undo>, WireError> {
        let table = way_out::make(&mut self.pod, self.pod_index, address)?;
        self.by_rule.extend(table.map(|_| address));
        Ok(table.map(|table| Undo::Rule(address, table)))
    }

    /// What another device left behind for this address is replaced: the address is this pod's now.
    fn host_route(&mut self, address: IpAddr) -> Result<(), WireError> {
        let request = message::host_route(self.host_index, address);
        let attempt = format!("make the host's route to {address}");
        self.host.change(request, NLM_F_CREATE | NLM_F_REPLACE).map_err(WireError::kernel(attempt))
    }

    /// The kernel takes in what comes to an IPv6 address only when a thread of its own has made the local route, even
    /// without DAD; on a busy node that comes late. Until then a route of ours does, which ends by itself.
    fn local_route(&mut self, address: IpAddr) -> Result<(), WireError> {
        if is_local(&mut self.pod, address) {
            return Ok(());
        }
        match self.pod.change(message::local_route(self.pod_index, address), NLM_F_CREATE | NLM_F_EXCL) {
            Err(refusal) if !refusal.is(libc::EEXIST) => {
                Err(WireError::kernel(format!("have the pod take in what comes to {address}"))(refusal))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The pod's end was up first, so it begins to send only when the kernel has noticed that the other end came up.
    /// Asking for it makes the kernel notice (6.9); before, it does so a moment later on a thread of its own.
    fn settle(&mut self) {
        let begun = Instant::now();
        loop {
            let link = self.pod.get(message::link(self.pod_index));
            let sends = matches!(link, Ok(RouteNetlinkMessage::NewLink(link)) if is_operational(&link));
            if sends || begun.elapsed() > SETTLE_LIMIT {
                return;
            }
            thread::sleep(SETTLE_PAUSE);
        }
    }
}

/// Index of the other end of a pair, in its own namespace.
fn other_end(link: &LinkMessage) -> Option<u32> {
    link.attributes
        .iter()
        .find_map(|it| if let LinkAttribute::Link(index) = it { Some(*index) } else { None })
}

/// Whether a namespace takes what comes to the address.
pub(super) fn is_local(socket: &mut Rtnetlink, address: IpAddr) -> bool {
    let way = socket.get(message::way_to(address));
    matches!(way, Ok(RouteNetlinkMessage::NewRoute(way)) if way.header.kind == RouteType::Local)
}

/// Whether a device sends.
pub(super) fn is_operational(link: &LinkMessage) -> bool {
    link.attributes.contains(&LinkAttribute::OperState(State::Up))
}

fn name(place: Place) -> &'static str {
    match place {
        Place::Host => "host's",
        Place::Pod => "pod's",
    }
}

impl Effects for Kernel<'_> {
    fn perform(&mut self, step: &Step) -> Result<Option<Undo>, WireError> {
        match step {
            Step::Pair(pair) => return self.make_pair(pair),
            Step::Settings(place, settings) => return self.settings(*place, settings),
            Step::Loopback => return self.loopback(),
            Step::DefaultRoute(address) => return self.default_route(*address),
            Step::Endpoint(endpoint) => {
                return guard::record(self.pins, self.host_index, endpoint).map(|()| Some(Undo::Endpoint));
            }
            Step::PacketOnly(cookie) => {
                return self.packet_only(*cookie);
            }
            // What hangs on a device goes with it.
            Step::GuardPlace => filter::prepare(&mut self.host, self.host_index)?,
            Step::Guard(side) => guard::attach(&mut self.host, self.pins, self.host_index, *side)?,
            Step::Path(side) => path::attach(&mut self.host, self.pins, self.host_index, *side),
            Step::HostDevice => self.host_device()?,
            Step::Address(address) => self.address(*address)?,
            Step::Up(place) => {
                self.up(*place)?;
                return Ok((*place == Place::Host).then_some(Undo::Down));
            }
            Step::Neighbour(place, address, mac) => self.neighbour(*place, *address, *mac)?,
            Step::HostRoute(address) => self.host_route(*address)?,
            Step::LocalRoute(address) => self.local_route(*address)?,
            Step::Settle => self.settle(),
        }
        Ok(None)
    }

    fn undo(&mut self, undo: &Undo) -> Result<(), WireError> {
        match undo {
            Undo::Pair => remove(&mut self.host, self.host_index),
            Undo::Settings(Place::Host, before) => {
                setting::restore(before);
                Ok(())
            }
            Undo::Settings(Place::Pod, before) => self.namespace.inside(|| setting::restore(before)),
            Undo::Down => {
                let attempt = WireError::kernel("bring the host's end down".to_owned());
                self.host.change(message::link_state(self.host_index, false), 0).map_err(attempt)
            }
            Undo::Endpoint => guard::forget(self.pins, self.host_index),
            Undo::PacketOnly(cookie) => guard::unexempt(self.pins, *cookie),
            Undo::Rule(address, table) => way_out::undo(&mut self.pod, *address, *table),
            Undo::Loopback => {
                let attempt = WireError::kernel("bring lo down in the pod".to_owned());
                self.pod.change(message::link_state(LOOPBACK, false), 0).map_err(attempt)
            }
        }
    }
}

/// Removes a device, and the other end with it. One that is gone is fine.
pub(super) fn remove(host: &mut Rtnetlink, index: u32) -> Result<(), WireError> {
    match host.change(message::link_removal(index), 0) {
        Err(refusal) if !refusal.is(libc::ENODEV) => {
            Err(WireError::kernel(format!("remove the device of index {index}"))(refusal))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
