//! The endpoints of a Service: its slices merged.
//!
//! Must not know which of them a frontend uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proxy_common::Protocol;

use super::{
    address::{parse_address, special_class},
    field::{Report, port_message, port_number, protocol},
    node::NodeView,
    types::{Family, Warning, WarningReason},
};
use crate::model::{EndpointObject, SliceObject, SlicePort};

/// What is known of one endpoint of one port.
///
/// The order says which of several copies counts when slices disagree (the controller moves an endpoint by writing
/// one slice, then the other): the local one, as kube-proxy has it, then the more usable one. It is total, so that the
/// order of the slices does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Endpoint {
    /// On this node.
    pub(super) local: bool,
    /// What it is good for.
    pub(super) condition: Condition,
    /// `hints.forNodes`.
    pub(super) node_hint: Hint,
    /// `hints.forZones`.
    pub(super) zone_hint: Hint,
}

impl Endpoint {
    /// New connections may choose it.
    pub(super) fn is_ready(self) -> bool {
        self.condition == Condition::Ready
    }
}

/// What the conditions of an endpoint amount to, the better the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    /// Neither ready nor serving.
    Dead,
    /// Serving, but neither ready nor terminating: no new connection, yet those it has may stay.
    Serving,
    /// Serving while it terminates: the last resort for new connections.
    Draining,
    /// Ready; also a terminating endpoint of a Service that publishes not-ready addresses.
    Ready,
}

impl Condition {
    /// Absent conditions count as ready, serving and not terminating, as with kube-proxy.
    fn of(endpoint: &EndpointObject) -> Self {
        let serving = endpoint.serving.unwrap_or(true);
        let terminating = endpoint.terminating.unwrap_or(false);
        match (endpoint.ready.unwrap_or(true), serving, terminating) {
            (true, _, _) => Self::Ready,
            (false, true, true) => Self::Draining,
            (false, true, false) => Self::Serving,
            (false, false, _) => Self::Dead,
        }
    }
}

/// What a topology hint says of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hint {
    /// There is no hint.
    Absent,
    /// For other nodes.
    Elsewhere,
    /// For this node.
    Here,
}

/// The endpoints of one port in one family, by address and target port.
pub(super) type Endpoints = BTreeMap<(IpAddr, u16), Endpoint>;

/// The endpoints of a Service by family, port name and protocol.
#[derive(Debug, Default)]
pub(super) struct EndpointMap<'a> {
    ports: BTreeMap<(Family, &'a str, Protocol), Endpoints>,
}

impl<'a> EndpointMap<'a> {
    /// Merges slices, given in any order. An endpoint that several slices name with the same port counts once; a port
    /// may have another number in each slice.
    pub(super) fn merge(
        slices: impl IntoIterator<Item = &'a SliceObject>,
        node: &NodeView,
        warnings: &mut Vec<Warning>,
    ) -> Self {
        let mut map = Self::default();
        for slice in slices {
            map.add(slice, node, &mut Report::new("EndpointSlice", &slice.name, warnings));
        }
        map
    }

    /// The endpoints of one port.
    pub(super) fn get<'b>(
        &'b self,
        family: Family,
        port_name: &'b str,
        protocol: Protocol,
    ) -> Option<&'b Endpoints> {
        self.ports.get(&(family, port_name, protocol))
    }

    /// The addresses of one family that have a ready endpoint on this node, on whatever port.
    pub(super) fn local_ready(&self, family: Family) -> BTreeSet<IpAddr> {
        let of_family = self.ports.iter().filter(|((port_family, ..), _)| *port_family == family);
        let endpoints = of_family.flat_map(|(_, endpoints)| endpoints);
        let ready = endpoints.filter(|(_, endpoint)| endpoint.local && endpoint.is_ready());
        ready.map(|((address, _), _)| *address).collect()
    }

    fn add(&mut self, slice: &'a SliceObject, node: &NodeView, report: &mut Report<'_>) {
        let Some(family) = family_of(slice, report) else { return };
        let read = |(index, endpoint)| read_endpoint(index, endpoint, family, node, report);
        let endpoints: Vec<(IpAddr, Endpoint)> =
            slice.endpoints.iter().enumerate().filter_map(read).collect();
        for (index, slice_port) in slice.ports.iter().enumerate() {
            let Some((name, protocol, port)) = read_port(index, slice_port, report) else { continue };
            let group = self.ports.entry((family, name, protocol)).or_default();
            for (address, endpoint) in &endpoints {
                let held = group.entry((*address, port)).or_insert(*endpoint);
                *held = (*held).max(*endpoint);
            }
        }
    }
}

fn family_of(slice: &SliceObject, report: &mut Report<'_>) -> Option<Family> {
    match slice.address_type.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        // Names are for other consumers of the API; a proxy needs addresses.
        "FQDN" => None,
        other => {
            let message = format!("unknown address type `{other}`; the slice is ignored: use IPv4 or IPv6");
            report.invalid("addressType", message);
            None
        }
    }
}

/// A port without a name or a number is for other consumers of the API: ignored without a word.
fn read_port<'a>(
    index: usize,
    slice_port: &'a SlicePort,
    report: &mut Report<'_>,
) -> Option<(&'a str, Protocol, u16)> {
    let name = slice_port.name.as_deref()?;
    let number = slice_port.port.filter(|number| *number != 0)?;
    let text = slice_port.protocol.as_deref().unwrap_or_default();
    let protocol = protocol(text, || format!("ports[{index}].protocol"), report)?;
    let port = port_number(number);
    if port.is_none() {
        report.invalid(format!("ports[{index}].port"), port_message(number, "this port is ignored"));
    }
    Some((name, protocol, port?))
}

fn read_endpoint(
    index: usize,
    object: &EndpointObject,
    family: Family,
    node: &NodeView,
    report: &mut Report<'_>,
) -> Option<(IpAddr, Endpoint)> {
    let text = object.addresses.first()?;
    let address = match judge(text, family) {
        Ok(address) => address,
        Err((reason, problem)) => {
            let message = format!("{problem}; this endpoint is ignored: correct whoever writes the slice");
            report.warn(reason, format!("endpoints[{index}].addresses[0]"), message);
            return None;
        }
    };
    let endpoint = Endpoint {
        local: node.is_local(object.node_name.as_ref()),
        condition: Condition::of(object),
        node_hint: hint(&object.for_nodes, Some(&node.name)),
        zone_hint: hint(&object.for_zones, node.zone.as_ref()),
    };
    Some((address, endpoint))
}

fn judge(text: &str, family: Family) -> Result<IpAddr, (WarningReason, String)> {
    let Some(address) = parse_address(text) else {
        return Err((WarningReason::InvalidField, format!("`{text}` is not an IP address")));
    };
    if let Some(class) = special_class(address) {
        return Err((WarningReason::InvalidEndpointAddress, format!("`{text}` is {class} address")));
    }
    if Family::of(address) != family {
        let problem = format!("`{text}` is not an {family} address, as the slice's addressType demands");
        return Err((WarningReason::WrongAddressFamily, problem));
    }
    Ok(address)
}

fn hint(named: &[String], own: Option<&String>) -> Hint {
    match own.filter(|own| !own.is_empty()) {
        _ if named.is_empty() => Hint::Absent,
        Some(own) if named.contains(own) => Hint::Here,
        _ => Hint::Elsewhere,
    }
}
