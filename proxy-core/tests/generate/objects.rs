//! Services, EndpointSlices and Nodes from genes.
//!
//! Must not know what a field leads to.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;
use proxy_core::model::{
    EndpointObject, IngressObject, NodeAddress, NodeObject, ObjectName, PortObject, ServiceObject,
    SliceObject, SlicePort,
};

use super::{Genes, NODE, ip};

/// A foreign value of the label `service-proxy-name`.
pub const OTHER_PROXY: &str = "other-proxy";

const SERVICES: [(&str, &str); 4] = [("a", "web"), ("a", "dns"), ("b", "web"), ("b", "api")];
const CLUSTER4: [&str; 4] = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "10.96.0.4"];
const CLUSTER6: [&str; 4] = ["fd00:96::1", "fd00:96::2", "fd00:96::3", "fd00:96::4"];
const EXTERNAL: [&str; 5] = ["192.0.2.1", "192.0.2.2", "2001:db8:e::1", "198.51.100.1", "10.96.0.2"];
/// Not addresses at all.
const BAD_ADDRESSES: [&str; 6] = ["bogus", "", "10.96.0.300", "10.96.0", "fd00::1::2", "10.96.0.1/32"];
const PODS4: [&str; 6] = ["10.244.0.1", "10.244.0.2", "10.244.0.3", "10.244.1.1", "10.244.1.2", "10.244.1.3"];
const PODS6: [&str; 4] = ["fd00:244::1", "fd00:244::2", "fd00:244:1::1", "fd00:244:1::2"];
/// Addresses that can never be an endpoint of a Service, of both families, and what is no address.
const BAD_PODS: [&str; 12] = [
    "127.0.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "224.0.0.1",
    "::1",
    "fe80::1",
    "::",
    "ff02::1",
    "bogus",
    "",
    "10.244.0.1",
    "fd00:244::1",
];
pub const DEVICE_ADDRESSES: [&str; 4] = ["198.51.100.1", "198.51.100.9", "2001:db8:1::1", "203.0.113.7"];
const RANGES: [&str; 8] = [
    "10.0.0.0/8",
    " 192.0.2.0/24",
    "2001:db8::/32 ",
    "0.0.0.0/0",
    "10.1.2.3/8",
    "2001:db8::1/64",
    "10.0.0.0/33",
    "bogus",
];
const GARBAGE: [&str; 14] = [
    "",
    " ",
    "None",
    "TCP",
    "ExternalName",
    "0.0.0.0/0",
    "::ffff:10.96.0.1",
    "127.0.0.1",
    "fe80::1%eth0",
    "%",
    "a/b/c",
    "\u{0}",
    "18446744073709551616",
    "999.999.999.999",
];
const NUMBERS: [i32; 10] = [0, 1, -1, 80, 65_535, 65_536, 70_000, i32::MAX, i32::MIN, 86_401];

pub fn service_name(index: u8) -> ObjectName {
    let (namespace, name) = SERVICES[usize::from(index) % SERVICES.len()];
    ObjectName::new(namespace, name)
}

/// Six slices, of which any may come to belong to any Service of its namespace.
pub fn slice_name(index: u8) -> ObjectName {
    ObjectName::new(if index % 6 < 3 { "a" } else { "b" }, format!("slice-{}", index % 6))
}

pub fn network(text: &str) -> IpNetwork {
    text.parse().expect("a network")
}

pub fn device_addresses(bits: u8) -> BTreeSet<IpAddr> {
    let present = DEVICE_ADDRESSES.iter().enumerate().filter(|(index, _)| bits & (1 << index) != 0);
    present.map(|(_, text)| ip(text)).collect()
}

/// A Service that an API server might hold, now and then with a field that no API server would let in.
pub fn service(index: u8, bytes: &[u8]) -> ServiceObject {
    let g = &mut Genes::new(bytes);
    let service_type =
        g.pick(&["ClusterIP", "", "NodePort", "LoadBalancer", "LoadBalancer", "NodePort", "ExternalName"]);
    let exposed = ["NodePort", "LoadBalancer"].contains(&service_type);
    let local = ["", "Cluster", "Local", "Local"];
    let mut service = ServiceObject {
        name: service_name(index),
        created: g.pick(&[Some(1), Some(2), Some(3), None]),
        proxy_name: g.odds(16).then(|| OTHER_PROXY.into()),
        headless_label: g.odds(8),
        service_type: service_type.into(),
        ports: ports(g, exposed),
        external_ips: several(g, 2, &EXTERNAL),
        source_ranges: several(g, 2, &RANGES),
        session_affinity: g.pick(&["", "None", "ClientIP"]).into(),
        affinity_seconds: g.pick(&[
            None,
            Some(1),
            Some(3_600),
            Some(86_400),
            Some(86_401),
            Some(0),
            Some(-5),
        ]),
        internal_policy: g.pick(&local).into(),
        external_policy: g.pick(&local).into(),
        ..ServiceObject::default()
    };
    set_cluster_ips(&mut service, usize::from(index) % SERVICES.len(), g);
    if service_type == "LoadBalancer" {
        service.ingress = ingress(g);
        service.health_check_node_port = g.pick(&[32_000, 0, 32_001, 70_000, -1]);
    }
    if g.odds(24) {
        spoil(&mut service, g);
    }
    service
}

fn set_cluster_ips(service: &mut ServiceObject, own: usize, g: &mut Genes<'_>) {
    // Mostly its own addresses; now and then another Service's.
    let index = if g.odds(20) { usize::from(g.upto(3)) } else { own };
    let (v4, v6) = (CLUSTER4[index].to_string(), CLUSTER6[index].to_string());
    service.cluster_ips = match g.upto(9) {
        0..=2 => vec![v4],
        3..=6 => vec![v4, v6],
        7 => vec![v6, v4],
        8 => vec![v6],
        _ => vec![],
    };
    service.cluster_ip = service.cluster_ips.first().cloned().unwrap_or_default();
    match g.next() {
        250.. => (service.cluster_ip, service.cluster_ips) = ("None".into(), vec!["None".into()]),
        240..250 => service.cluster_ips = vec![],
        _ => {}
    }
}

/// One to three ports; each name occurs once for each protocol, as the API server demands.
fn ports(g: &mut Genes<'_>, exposed: bool) -> Vec<PortObject> {
    let mut ports: Vec<PortObject> = vec![];
    for name in ["", "dns", "dns", "web"] {
        let port = PortObject {
            name: name.into(),
            protocol: g.pick(&["TCP", "UDP", "", "UDP", "SCTP"]).into(),
            port: g.pick(&[80, 53, 80, 53, 443]),
            node_port: if exposed { g.pick(&[30_080, 0, 30_053, 30_053, 30_080]) } else { 0 },
        };
        let same = |other: &PortObject| protocol_of(other) == protocol_of(&port);
        let clashes = ports.iter().filter(|other| same(other)).any(|other| {
            other.name == port.name
                || other.port == port.port
                || other.node_port == port.node_port && port.node_port != 0
        });
        if (ports.is_empty() || g.odds(90)) && !clashes {
            ports.push(port);
        }
    }
    ports
}

fn protocol_of(port: &PortObject) -> &str {
    if port.protocol.is_empty() { "TCP" } else { &port.protocol }
}

fn several(g: &mut Genes<'_>, most: u8, choices: &[&str]) -> Vec<String> {
    let count = g.upto(3 * most).saturating_sub(2 * most);
    (0..count).map(|_| g.pick(choices).to_string()).collect()
}

fn ingress(g: &mut Genes<'_>) -> Vec<IngressObject> {
    let count = g.upto(2);
    let one = |g: &mut Genes<'_>| IngressObject {
        ip: g.pick(&["192.0.2.1", "192.0.2.3", "2001:db8:e::1", "", "bogus", "198.51.100.9"]).into(),
        ip_mode: g.pick(&[None, Some("VIP"), None, Some("Proxy")]).map(String::from),
    };
    (0..count).map(|_| one(g)).collect()
}

/// One field as no API server would let it in, but with a plain meaning: it is ignored.
fn spoil(service: &mut ServiceObject, g: &mut Genes<'_>) {
    let port = service.ports.first_mut();
    match (g.upto(6), port) {
        (0, Some(port)) => port.protocol = g.pick(&["tcp", "QUIC", " TCP"]).into(),
        (1, Some(port)) => port.port = g.pick(&[0, 70_000, -1]),
        (2, Some(port)) => port.node_port = g.pick(&[-1, 70_000, 65_536]),
        (3, _) => service.external_ips.push(g.pick(&BAD_ADDRESSES).into()),
        (4, _) => service.internal_policy = g.pick(&["local", "Nearest"]).into(),
        (5, _) => service.external_policy = g.pick(&["local", "Nearest"]).into(),
        _ => service.session_affinity = g.pick(&["clientip", "Sticky"]).into(),
    }
}

/// A slice; its endpoints now and then have addresses of another family or that can be no endpoint's.
pub fn slice(index: u8, bytes: &[u8]) -> SliceObject {
    let g = &mut Genes::new(bytes);
    let name = slice_name(index);
    let services: [Option<&str>; 2] =
        if name.namespace == "a" { [Some("web"), Some("dns")] } else { [Some("web"), Some("api")] };
    let family = g.pick(&["IPv4", "IPv4", "IPv6", "IPv4", "IPv6", "IPv4", "IPv6", "FQDN"]);
    let mut slice = SliceObject {
        service: if g.odds(8) { g.pick(&[None, Some("")]) } else { g.pick(&services) }.map(String::from),
        name,
        proxy_name: g.odds(12).then(|| OTHER_PROXY.into()),
        headless_label: g.odds(8),
        address_type: family.into(),
        ports: slice_ports(g),
        endpoints: vec![],
    };
    // Controllers write all hints of a Service or none; some make mistakes.
    let hinted = g.pick(&[0, 0, 0, 1, 2, 3]);
    for _ in 0..g.upto(3) {
        let endpoint = endpoint(g, family, hinted);
        slice.endpoints.push(endpoint);
    }
    slice
}

fn slice_ports(g: &mut Genes<'_>) -> Vec<SlicePort> {
    let mut ports = vec![];
    for name in [Some(""), Some("dns"), Some("dns"), Some("web")] {
        let port = SlicePort {
            name: if g.odds(8) { None } else { name }.map(String::from),
            protocol: g.pick(&[Some("TCP"), Some("UDP"), None, Some("UDP"), Some("SCTP")]).map(String::from),
            port: g.pick(&[Some(8080), Some(8080), Some(8081), Some(8080)]),
        };
        if ports.is_empty() || g.odds(110) {
            ports.push(port);
        }
    }
    if g.odds(12) {
        ports[0].port = g.pick(&[None, Some(0), Some(70_000), Some(-1)]);
    }
    if g.odds(6) {
        ports[0].protocol = Some("QUIC".into());
    }
    ports
}

fn endpoint(g: &mut Genes<'_>, family: &str, hinted: u8) -> EndpointObject {
    let address = match (g.odds(20), family) {
        (true, _) => g.pick(&BAD_PODS),
        (false, "IPv6") => g.pick(&PODS6),
        (false, _) => g.pick(&PODS4),
    };
    let (ready, serving, terminating) = g.pick(&[
        (None, None, None),
        (Some(true), Some(true), Some(false)),
        (Some(true), None, None),
        (Some(false), Some(true), Some(true)),
        (Some(false), Some(false), Some(false)),
        (Some(false), Some(false), Some(true)),
        (Some(true), Some(true), Some(true)),
        (Some(true), Some(false), Some(false)),
        (Some(false), Some(true), Some(false)),
        (Some(false), None, None),
        (Some(false), None, Some(true)),
    ]);
    let mut endpoint = EndpointObject {
        addresses: vec![address.into()],
        ready,
        serving,
        terminating,
        node_name: g.pick(&[Some(NODE), Some("n2"), Some("n2"), None]).map(String::from),
        ..EndpointObject::default()
    };
    let forgets = g.odds(24);
    if hinted & 1 != 0 && !forgets {
        endpoint.for_zones = vec![g.pick(&["za", "zb"]).into()];
    }
    if hinted & 2 != 0 && !forgets {
        endpoint.for_nodes = vec![g.pick(&[NODE, "n2"]).into()];
    }
    match g.next() {
        250.. => endpoint.addresses = vec![],
        244..250 => endpoint.addresses.push("10.244.9.9".into()),
        _ => {}
    }
    endpoint
}

/// The agent's Node, or none.
pub fn node(bytes: &[u8]) -> Option<NodeObject> {
    let g = &mut Genes::new(bytes);
    let address = |kind: &str, address: &str| NodeAddress { kind: kind.into(), address: address.into() };
    let zone = g.pick(&[Some("za"), Some("zb"), None, Some("")]).map(String::from);
    let mut addresses = vec![address("InternalIP", "198.51.100.1"), address("Hostname", "n1")];
    if g.odds(128) {
        addresses.push(address("InternalIP", "2001:db8:1::1"));
    }
    if g.odds(64) {
        addresses.push(address("ExternalIP", "192.0.2.2"));
    }
    if g.odds(24) {
        addresses.push(address("InternalIP", g.pick(&BAD_ADDRESSES)));
    }
    (!g.odds(24)).then(|| NodeObject { name: NODE.into(), zone, addresses, ..NodeObject::default() })
}

fn garbage(g: &mut Genes<'_>) -> String {
    g.pick(&GARBAGE).to_string()
}

/// A Service that keeps its name and is otherwise spoilt in several places, by text and numbers without sense.
pub fn garbage_service(index: u8, bytes: &[u8]) -> ServiceObject {
    let (plain, rest) = bytes.split_at(bytes.len() / 2);
    let mut service = service(index, plain);
    let g = &mut Genes::new(rest);
    for _ in 0..=g.upto(4) {
        match g.upto(11) {
            0 => service.service_type = garbage(g),
            1 => service.cluster_ips = vec![garbage(g), garbage(g)],
            2 => service.cluster_ip = garbage(g),
            3 => service.external_ips = vec![garbage(g), garbage(g)],
            4 => service.ingress.push(IngressObject { ip: garbage(g), ip_mode: Some(garbage(g)) }),
            5 => service.source_ranges = vec![garbage(g), garbage(g)],
            6 => service.session_affinity = garbage(g),
            7 => service.affinity_seconds = Some(g.pick(&NUMBERS)),
            8 => (service.internal_policy, service.external_policy) = (garbage(g), garbage(g)),
            9 => service.health_check_node_port = g.pick(&NUMBERS),
            10 => service.ports.extend(service.ports.clone()),
            _ => service.ports.push(PortObject {
                name: garbage(g),
                protocol: garbage(g),
                port: g.pick(&NUMBERS),
                node_port: g.pick(&NUMBERS),
            }),
        }
    }
    service
}

/// The same for a slice.
pub fn garbage_slice(index: u8, bytes: &[u8]) -> SliceObject {
    let (plain, rest) = bytes.split_at(bytes.len() / 2);
    let mut slice = slice(index, plain);
    let g = &mut Genes::new(rest);
    for _ in 0..=g.upto(3) {
        match g.upto(3) {
            0 => slice.address_type = garbage(g),
            1 => slice.endpoints.push(EndpointObject {
                addresses: vec![garbage(g)],
                node_name: Some(garbage(g)),
                for_zones: vec![garbage(g)],
                for_nodes: vec![garbage(g)],
                ..EndpointObject::default()
            }),
            2 => slice.ports.extend(slice.ports.clone()),
            _ => slice.ports.push(SlicePort {
                name: Some(garbage(g)),
                protocol: Some(garbage(g)),
                port: Some(g.pick(&NUMBERS)),
            }),
        }
    }
    slice
}
