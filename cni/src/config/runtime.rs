//! The capabilities that a runtime fills in (`CONVENTIONS.md` of the specification), one function each.
//!
//! Must not know which of several wishes counts.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{ConfigError, field::Field};
use crate::{
    record::{Bandwidth, Mac, PortMapping, Protocol, Rate},
    spec::Dns,
};

pub(super) const MAC: &str = "an Ethernet address of one device, such as 0a:11:22:33:44:55";
pub(super) const ADDRESS: &str = "an IP address, with or without a prefix length";
const SUBNET: &str = "a prefix such as 10.244.1.0/24";
const PORT: &str = "a port from 1 to 65535";
/// What may come at once where nobody says, as a part of what may come in a second, but no less than one large packet of
/// segmentation offload each way. What exceeds a limit is dropped, and a TCP that lost a whole window is silent for 200 ms
/// (`TCP_RTO_MIN`, net/tcp.h): what it may send in that time must not be forfeited.
const BURST_PART: u64 = 4;
const SMALLEST_BURST: u64 = 8 * 128 * 1024;

/// `portMappings`. A mapping without a host port is none; one that is there twice counts once.
pub(super) fn ports(list: Option<Field<'_>>) -> Result<Vec<PortMapping>, ConfigError> {
    let mut ports: Vec<PortMapping> = Vec::new();
    for item in list.map_or(Ok(Vec::new()), |list| list.items())? {
        let Some(port) = port(&item)?.filter(|port| !ports.contains(port)) else { continue };
        if ports.iter().any(|other| other.collides_with(&port)) {
            let host_port = port.host_port;
            return Err(
                item.conflict(format!("host port {host_port} is wanted twice: give it one container port"))
            );
        }
        ports.push(port);
    }
    Ok(ports)
}

fn port(item: &Field<'_>) -> Result<Option<PortMapping>, ConfigError> {
    let host_port = item.get("hostPort")?.map_or(Ok(0), |field| field.small(PORT))?;
    if host_port == 0 {
        return Ok(None);
    }
    let container = item.need("containerPort")?;
    let container_port = container.small(PORT)?;
    if container_port == 0 {
        return Err(container.wrong(PORT));
    }
    let (protocol, host_ip) = (protocol(item.get("protocol")?)?, host_ip(item.get("hostIP")?)?);
    Ok(Some(PortMapping { host_port, container_port, protocol, host_ip }))
}

fn protocol(field: Option<Field<'_>>) -> Result<Protocol, ConfigError> {
    let Some(field) = field else { return Ok(Protocol::Tcp) };
    match field.text()?.to_ascii_lowercase().as_str() {
        "tcp" | "" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(field.wrong("one of tcp, udp, sctp")),
    }
}

/// No address and the unspecified ones mean all.
fn host_ip(field: Option<Field<'_>>) -> Result<Option<IpAddr>, ConfigError> {
    let Some(field) = field.filter(|field| field.value().as_str() != Some("")) else { return Ok(None) };
    let address: IpAddr = field.parse("an IP address")?;
    Ok(Some(address.to_canonical()).filter(|address| !address.is_unspecified()))
}

/// `bandwidth`, bits.
pub(super) fn bandwidth(field: Option<Field<'_>>) -> Result<Bandwidth, ConfigError> {
    let Some(field) = field else { return Ok(Bandwidth::default()) };
    let number = |key| field.get(key)?.map_or(Ok(0), |field| field.number());
    Ok(Bandwidth {
        ingress: rate(number("ingressRate")?, number("ingressBurst")?),
        egress: rate(number("egressRate")?, number("egressBurst")?),
    })
}

fn rate(rate: u64, burst: u64) -> Option<Rate> {
    let usual = (rate / BURST_PART).max(SMALLEST_BURST);
    (rate > 0).then_some(Rate { rate, burst: if burst > 0 { burst } else { usual } })
}

/// `dns` of the configuration, and over it that of the runtime, which has other names for the keys.
pub(super) fn dns(written: Option<&Field<'_>>, asked: Option<&Field<'_>>) -> Result<Dns, ConfigError> {
    let texts = |field: Option<&Field<'_>>, key: &str| match field {
        Some(field) => field.get(key)?.map_or(Ok(Vec::new()), |list| list.texts()),
        None => Ok(Vec::new()),
    };
    let either = |ours: &str, theirs: &str| {
        let runtime = texts(asked, ours)?;
        if runtime.is_empty() { texts(written, theirs) } else { Ok(runtime) }
    };
    let domain = written.map_or(Ok(None), |field| field.get("domain"))?;
    Ok(Dns {
        nameservers: either("servers", "nameservers")?,
        domain: domain.map_or(Ok(""), |field| field.text())?.to_owned(),
        search: either("searches", "search")?,
        options: either("options", "options")?,
    })
}

/// `ips`.
pub(super) fn addresses(list: &Field<'_>) -> Result<Vec<IpAddr>, ConfigError> {
    let one = |item: Field<'_>| address(item.text()?).ok_or_else(|| item.wrong(ADDRESS));
    let found = list.items()?.into_iter().map(one).collect::<Result<Vec<_>, _>>()?;
    one_of_each_family(found).map_err(|reason| list.conflict(reason))
}

/// An address, with or without a prefix length: pods have /32 and /128 whatever is said.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    let network: IpNetwork = text.trim().parse().ok()?;
    Some(network.ip().to_canonical())
}

/// The same addresses.
pub(super) fn one_of_each_family(addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, String> {
    for is_v4 in [true, false] {
        let of_family: Vec<_> = addresses.iter().filter(|address| address.is_ipv4() == is_v4).collect();
        if let [first, second, ..] = of_family.as_slice() {
            return Err(format!("{first} and {second} are of one family: a pod has one address of each"));
        }
    }
    Ok(addresses)
}

/// `ipRanges`: the prefixes, and the addresses in them that are not to be given (`gateway`).
pub(super) fn ranges(list: Option<Field<'_>>) -> Result<(Vec<IpNetwork>, Vec<IpAddr>), ConfigError> {
    let (mut ranges, mut reserved) = (Vec::new(), Vec::new());
    for set in list.map_or(Ok(Vec::new()), |list| list.items())? {
        for range in set.items()? {
            let subnet: IpNetwork = range.need("subnet")?.parse(SUBNET)?;
            ranges.push(subnet);
            for edge in ["rangeStart", "rangeEnd"] {
                if let Some(field) = range.get(edge)? {
                    return Err(field.unsupported("give smaller subnets instead"));
                }
            }
            if let Some(gateway) = range.get("gateway")? {
                reserved.push(gateway.parse("an IP address")?);
            }
        }
    }
    Ok((ranges, reserved))
}

/// Whether a device may have this address.
pub(super) fn is_unicast(mac: Mac) -> bool {
    let [first, ..] = mac.0;
    first & 1 == 0 && mac.0 != [0; 6]
}
