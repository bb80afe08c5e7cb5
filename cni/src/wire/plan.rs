//! Which steps make a pod's network, in which order. Pure.
//!
//! The order is a matter of safety: the guard and what it is to admit are in place before the host's end is up, so that
//! no packet of the pod comes by unchecked. Must not know how a step is made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proxy_common::EndpointValue;

use super::{
    WireError,
    setting::{self, Setting},
};
use crate::record::{Attachment, Mac, Rate};

/// The pod's gateway: an address that exists nowhere, behind which the host's end answers.
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// As [`GATEWAY4`], IPv6.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// No IPv4 below this (RFC 791).
const LEAST_MTU4: u32 = 68;
/// No IPv6 below this (RFC 8200, 5).
const LEAST_MTU6: u32 = 1280;
/// The kernel's largest for a pair of devices (`ETH_MAX_MTU`).
const LARGEST_MTU: u32 = 65_535;

/// Which end, in which namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The host's.
    Host,
    /// The pod's.
    Pod,
}

/// A direction, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// What comes out of the pod.
    Ingress,
    /// What goes into it.
    Egress,
}

/// A pair of devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// Name of the host's end.
    pub(super) host_device: String,
    /// Name of the pod's end.
    pub(super) ifname: String,
    /// MAC address of the host's end.
    pub(super) host_mac: Mac,
    /// MAC address of the pod's end.
    pub(super) pod_mac: Mac,
    /// Bytes.
    pub(super) mtu: u32,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Make both devices.
    Pair(Pair),
    /// Kernel settings of a namespace.
    Settings(Place, Vec<Setting>),
    /// What the host's end needs that the kernel sets by netlink: that it forwards, and has no link-local address.
    HostDevice,
    /// Tell the guard what it is to admit.
    Endpoint(Box<EndpointValue>),
    /// Make the place where the guard is attached.
    GuardPlace,
    /// Attach the guard.
    Guard(Side),
    /// Attach the packet path, if its program is pinned.
    Path(Side),
    /// Leave the sockets of this namespace alone.
    PacketOnly(u64),
    /// Bring the pod's loopback device up.
    Loopback,
    /// Give the pod's end an address.
    Address(IpAddr),
    /// Bring an end up.
    Up(Place),
    /// Make a MAC address known.
    Neighbour(Place, IpAddr, Mac),
    /// The pod's way to everywhere for what it sends from this address.
    DefaultRoute(IpAddr),
    /// The host's way to the pod.
    HostRoute(IpAddr),
    /// Have what comes to this address taken in now.
    LocalRoute(IpAddr),
    /// Wait until the pod's end sends.
    Settle,
}

/// How a step is undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Undo {
    /// Remove the pair, and with it all that hangs on the devices.
    Pair,
    /// Set back.
    Settings(Place, Vec<Setting>),
    /// Forget the endpoint.
    Endpoint,
    /// Bring the host's end down, so that nothing passes when the guard goes.
    Down,
    /// Forget the namespace.
    PacketOnly(u64),
    /// Bring loopback down.
    Loopback,
    /// No longer look up this table for what the pod sends from this address.
    Rule(IpAddr, u32),
}

/// The steps for an attachment.
pub(super) fn plan(attachment: &Attachment) -> Result<Vec<Step>, WireError> {
    check_mtu(attachment)?;
    // The guard's place early and the guard late: a grace period of RCU has to pass between the two, and where other pods
    // come at the same time, theirs is it.
    let mut steps = vec![Step::Pair(pair(attachment)), Step::GuardPlace];
    steps.push(Step::Settings(Place::Pod, setting::of_pod(attachment)));
    // Early: the kernel finishes those of IPv6 on a thread of its own, while the rest is done.
    steps.extend(attachment.addresses.iter().copied().map(Step::Address));
    steps.push(Step::HostDevice);
    steps.push(Step::Settings(Place::Host, setting::of_host(attachment)));
    steps.push(Step::Endpoint(Box::new(endpoint(attachment))));
    if attachment.socket_lb_off {
        steps.push(Step::PacketOnly(attachment.netns.cookie));
    }
    steps.push(Step::Loopback);
    steps.extend(pod_side(attachment));
    steps.extend(sides(attachment).into_iter().map(Step::Guard));
    // Behind the guard. A datagram to a Service that the pod sends at once is translated like all later ones.
    steps.extend([Side::Egress, Side::Ingress].map(Step::Path));
    steps.extend(host_side(attachment));
    steps.push(Step::Settle);
    Ok(steps)
}

fn check_mtu(attachment: &Attachment) -> Result<(), WireError> {
    let least = if attachment.addresses.iter().any(IpAddr::is_ipv6) { LEAST_MTU6 } else { LEAST_MTU4 };
    if (least..=LARGEST_MTU).contains(&attachment.mtu) {
        return Ok(());
    }
    Err(WireError::Mtu { mtu: attachment.mtu, least, largest: LARGEST_MTU })
}

fn pair(attachment: &Attachment) -> Pair {
    Pair {
        host_device: attachment.host_device.clone(),
        ifname: attachment.id.ifname.clone(),
        host_mac: attachment.host_mac,
        pod_mac: attachment.pod_mac,
        mtu: attachment.mtu,
    }
}

/// Where the guard is attached: what goes into the pod needs it only where that is limited.
pub(super) fn sides(attachment: &Attachment) -> Vec<Side> {
    match attachment.bandwidth.ingress {
        None => vec![Side::Ingress],
        Some(_) => vec![Side::Ingress, Side::Egress],
    }
}

/// What the guard is told.
pub fn endpoint(attachment: &Attachment) -> EndpointValue {
    let addresses = &attachment.addresses;
    let v4 = addresses.iter().find_map(|address| if let IpAddr::V4(it) = address { Some(*it) } else { None });
    let v6 = addresses.iter().find_map(|address| if let IpAddr::V6(it) = address { Some(*it) } else { None });
    let (from_rate, from_burst) = in_bytes(attachment.bandwidth.egress);
    let (to_rate, to_burst) = in_bytes(attachment.bandwidth.ingress);
    EndpointValue {
        address4: v4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
        address6: v6.unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
        mac: attachment.pod_mac.0,
        reserved: [0; 6],
        from_rate,
        from_burst,
        to_rate,
        to_burst,
        from_due: 0,
        to_due: 0,
    }
}

/// Rate and burst in bytes. Below a byte per second a limit is one byte: 0 would be none.
fn in_bytes(rate: Option<Rate>) -> (u64, u64) {
    rate.map_or((0, 0), |rate| ((rate.rate / 8).max(1), rate.burst / 8))
}

fn pod_side(attachment: &Attachment) -> Vec<Step> {
    let mut steps = vec![Step::Up(Place::Pod)];
    steps.extend(attachment.addresses.iter().filter(|it| it.is_ipv6()).copied().map(Step::LocalRoute));
    for address in attachment.addresses.iter().copied() {
        steps.push(Step::Neighbour(Place::Pod, gateway(address), attachment.host_mac));
        steps.push(Step::DefaultRoute(address));
    }
    steps
}

/// What others may take away from the host's end: each of these steps may be made again.
pub(super) fn host_side(attachment: &Attachment) -> Vec<Step> {
    let mut steps = vec![Step::Up(Place::Host)];
    for address in attachment.addresses.iter().copied() {
        steps.push(Step::Neighbour(Place::Host, address, attachment.pod_mac));
        steps.push(Step::HostRoute(address));
    }
    steps
}

/// The gateway of an address's family.
pub fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY4.into() } else { GATEWAY6.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{record::Bandwidth, wire::sample};

    fn steps(attachment: &Attachment) -> Vec<Step> {
        plan(attachment).unwrap()
    }

    fn place(steps: &[Step], wanted: &Step) -> usize {
        steps.iter().position(|step| step == wanted).unwrap()
    }

    #[test]
    fn the_guard_is_there_before_the_hosts_end_is_up() {
        let attachment = Attachment { socket_lb_off: true, ..sample::dual_stack() };
        let steps = steps(&attachment);
        let up = place(&steps, &Step::Up(Place::Host));
        for before in [
            Step::Guard(Side::Ingress),
            Step::Path(Side::Egress),
            Step::Path(Side::Ingress),
            Step::Endpoint(Box::new(endpoint(&attachment))),
            Step::PacketOnly(attachment.netns.cookie),
            Step::Settings(Place::Host, setting::of_host(&attachment)),
            Step::HostDevice,
            Step::DefaultRoute(attachment.addresses[1]),
        ] {
            assert!(place(&steps, &before) < up, "{before:?}");
        }
        assert!(matches!(steps.first(), Some(Step::Pair(_))));
        assert_eq!(steps.last(), Some(&Step::Settle));
    }

    #[test]
    fn what_comes_to_an_ipv6_address_is_taken_in_before_anything_can_come() {
        let steps = steps(&sample::dual_stack());
        let up = |end| place(&steps, &Step::Up(end));
        let local = |address: &IpAddr| steps.iter().position(|step| *step == Step::LocalRoute(*address));
        let [v4, v6] = sample::dual_stack().addresses.try_into().unwrap();
        assert_eq!(local(&v4), None);
        assert!((up(Place::Pod)..up(Place::Host)).contains(&local(&v6).unwrap()));
    }

    #[test]
    fn each_address_has_its_neighbours_and_routes_on_both_sides() {
        let attachment = sample::dual_stack();
        let steps = steps(&attachment);
        for address in &attachment.addresses {
            let gateway = gateway(*address);
            assert_eq!(gateway.is_ipv4(), address.is_ipv4());
            place(&steps, &Step::Address(*address));
            place(&steps, &Step::Neighbour(Place::Pod, gateway, attachment.host_mac));
            place(&steps, &Step::DefaultRoute(*address));
            place(&steps, &Step::Neighbour(Place::Host, *address, attachment.pod_mac));
            place(&steps, &Step::HostRoute(*address));
        }
    }

    #[test]
    fn the_guard_looks_at_what_goes_in_only_where_that_is_limited() {
        let limited = Bandwidth { ingress: Some(Rate { rate: 8_000, burst: 16_000 }), egress: None };
        let attachment = Attachment { bandwidth: limited, ..sample::dual_stack() };
        assert_eq!(sides(&sample::dual_stack()), [Side::Ingress]);
        assert_eq!(sides(&attachment), [Side::Ingress, Side::Egress]);
        let told = endpoint(&attachment);
        assert_eq!((told.from_rate, told.from_burst, told.to_rate, told.to_burst), (0, 0, 1_000, 2_000));
    }

    #[test]
    fn the_guard_is_told_the_pods_addresses_and_a_limit_of_some_bits_is_not_none() {
        let tiny = Bandwidth { ingress: None, egress: Some(Rate { rate: 3, burst: 0 }) };
        let attachment = Attachment { bandwidth: tiny, ..sample::dual_stack() };
        let told = endpoint(&attachment);
        assert_eq!(Ipv4Addr::from(told.address4), Ipv4Addr::new(10, 244, 1, 5));
        assert_eq!(Ipv6Addr::from(told.address6), "fd00:10:244:1::5".parse::<Ipv6Addr>().unwrap());
        assert_eq!((told.mac, told.from_rate), (attachment.pod_mac.0, 1));
        let single = Attachment { addresses: vec!["10.244.1.5".parse().unwrap()], ..attachment };
        assert_eq!(Ipv6Addr::from(endpoint(&single).address6), Ipv6Addr::UNSPECIFIED);
    }

    #[test]
    fn an_mtu_that_a_family_cannot_live_with_is_refused() {
        let mtu = |mtu, addresses: Vec<IpAddr>| {
            plan(&Attachment { addresses, mtu, ..sample::dual_stack() }).map(drop)
        };
        let v4 = || vec!["10.244.1.5".parse().unwrap()];
        assert!(mtu(1279, sample::dual_stack().addresses).unwrap_err().to_string().contains("1280"));
        assert!(mtu(1279, v4()).is_ok() && mtu(1280, sample::dual_stack().addresses).is_ok());
        assert!(mtu(67, v4()).is_err() && mtu(65_536, v4()).is_err());
    }
}
