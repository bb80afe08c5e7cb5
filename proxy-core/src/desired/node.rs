//! The node that the desired state is computed for.
//!
//! Must not know any Service.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    address::{parse_address, special_class},
    field::Report,
    settings::{NodePortAddresses, Settings},
    types::{Family, Warning},
};
use crate::model::{NodeObject, ObjectName};

/// What decisions need to know of the node.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeView {
    /// Its name: endpoints with this `nodeName` are local.
    pub name: String,
    /// Its zone, unless it has none.
    pub zone: Option<String>,
    /// The addresses that serve NodePorts, loopback not among them; `None` if nobody has told any.
    pub addresses: Option<BTreeSet<IpAddr>>,
    /// The addresses that serve host ports: those that are known, whichever of them serve NodePorts.
    pub host_addresses: BTreeSet<IpAddr>,
}

impl NodeView {
    /// The view of the agent's node: addresses of `status.addresses` (`InternalIP` and `ExternalIP`) and of its
    /// devices, those which `settings` admit. Loopback, link-local and other special addresses never serve NodePorts.
    ///
    /// Second, what is wrong with the Node object.
    pub fn new(
        settings: &Settings,
        node: Option<&NodeObject>,
        devices: &BTreeSet<IpAddr>,
    ) -> (Self, Vec<Warning>) {
        let mut warnings = Vec::new();
        let mut addresses = node.map_or_else(BTreeSet::new, |node| status_addresses(node, &mut warnings));
        let on_devices = devices.iter().map(IpAddr::to_canonical);
        let on_devices: BTreeSet<IpAddr> =
            on_devices.filter(|address| special_class(*address).is_none()).collect();
        let host_addresses = &addresses | &on_devices;
        if settings.node_port_addresses == NodePortAddresses::Primary {
            addresses.clear();
        }
        addresses.extend(on_devices);
        addresses.retain(|address| settings.node_port_addresses.admits(*address));
        let known = node.is_some() || !devices.is_empty();
        let zone = node.and_then(|node| node.zone.clone()).filter(|zone| !zone.is_empty());
        let name = settings.node_name.clone();
        (Self { name, zone, addresses: known.then_some(addresses), host_addresses }, warnings)
    }

    /// The addresses of one family.
    pub(super) fn addresses_of(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().flatten().copied().filter(move |address| Family::of(*address) == family)
    }

    /// The addresses of one family that serve host ports.
    pub(super) fn host_addresses_of(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.host_addresses.iter().copied().filter(move |address| Family::of(*address) == family)
    }

    /// Whether `nodeName` of an endpoint is this node.
    pub(super) fn is_local(&self, node_name: Option<&String>) -> bool {
        !self.name.is_empty() && node_name == Some(&self.name)
    }
}

fn status_addresses(node: &NodeObject, warnings: &mut Vec<Warning>) -> BTreeSet<IpAddr> {
    let name = ObjectName::new("", node.name.clone());
    let mut report = Report::new("Node", &name, warnings);
    let mut addresses = BTreeSet::new();
    for (index, entry) in node.addresses.iter().enumerate() {
        if !matches!(entry.kind.as_str(), "InternalIP" | "ExternalIP") {
            continue;
        }
        let text = &entry.address;
        let problem = match parse_address(text).map(|address| (address, special_class(address))) {
            Some((address, None)) => {
                addresses.insert(address);
                continue;
            }
            Some((_, Some(class))) => format!("`{text}` is {class} address and serves no NodePort"),
            None => format!("`{text}` is not an IP address and serves no NodePort"),
        };
        let message = format!("{problem}: correct the kubelet's --node-ip or the cloud provider");
        report.invalid(format!("status.addresses[{index}].address"), message);
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeAddress;

    fn node(addresses: &[(&str, &str)]) -> NodeObject {
        let entry = |(kind, address): &(&str, &str)| NodeAddress {
            kind: (*kind).to_owned(),
            address: (*address).to_owned(),
        };
        NodeObject {
            name: "n1".into(),
            zone: Some("z1".into()),
            addresses: addresses.iter().map(entry).collect(),
            ..NodeObject::default()
        }
    }

    fn texts(view: &NodeView) -> Option<Vec<String>> {
        view.addresses.as_ref().map(|set| set.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_are_the_union_of_status_and_devices_without_special_ones() {
        let node = node(&[
            ("InternalIP", "192.0.2.1"),
            ("ExternalIP", "fd00::1"),
            ("Hostname", "n1"),
            ("InternalIP", "x"),
        ]);
        let devices = ["192.0.2.1", "192.0.2.9", "127.0.0.1", "fe80::1", "::ffff:192.0.2.7"];
        let devices = devices.iter().map(|text| text.parse().unwrap()).collect();
        let (view, warnings) = NodeView::new(&Settings::default(), Some(&node), &devices);
        let wanted = ["192.0.2.1", "192.0.2.7", "192.0.2.9", "fd00::1"];
        assert_eq!(texts(&view).unwrap(), wanted);
        assert_eq!(warnings.len(), 1);
        assert_eq!((warnings[0].kind, warnings[0].field.as_str()), ("Node", "status.addresses[3].address"));
        assert_eq!(warnings[0].object.to_string(), "n1");
    }

    #[test]
    fn settings_narrow_the_addresses_and_none_known_differs_from_none_left() {
        let networks = vec!["198.51.100.0/24".parse().unwrap()];
        let settings =
            Settings { node_port_addresses: NodePortAddresses::Within(networks), ..Settings::default() };
        let node = node(&[("InternalIP", "192.0.2.1")]);
        assert_eq!(texts(&NodeView::new(&settings, Some(&node), &BTreeSet::new()).0), Some(vec![]));
        let devices = BTreeSet::from(["198.51.100.4".parse().unwrap()]);
        assert_eq!(
            texts(&NodeView::new(&settings, Some(&node), &devices).0),
            Some(vec!["198.51.100.4".to_owned()])
        );
        assert_eq!(texts(&NodeView::new(&settings, None, &BTreeSet::new()).0), None);
    }

    #[test]
    fn only_what_the_devices_have_is_primary() {
        let settings = Settings { node_port_addresses: NodePortAddresses::Primary, ..Settings::default() };
        let node = node(&[("InternalIP", "192.0.2.1"), ("ExternalIP", "203.0.113.1")]);
        let devices = BTreeSet::from(["192.0.2.7".parse().unwrap()]);
        let view = NodeView::new(&settings, Some(&node), &devices).0;
        assert_eq!(texts(&view), Some(vec!["192.0.2.7".to_owned()]));
    }
}
