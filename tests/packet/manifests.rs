//! The Service that most tests use, as YAML, and where clients find it.

use std::net::SocketAddr;

use sheave_tests::topology::PORT;
use sheave_tests::topology::addresses::{Pair, node, pod};

/// NodePort of the Service, TCP and UDP.
pub(crate) const NODE_PORT: u16 = 30_080;
/// Port of the Service at its other addresses.
pub(crate) const SERVICE_PORT: u16 = 80;
/// IPv4 and IPv6.
pub(crate) const FAMILIES: [bool; 2] = [false, true];

/// The Service `web`: TCP and UDP, dual-stack, at a ClusterIP, a NodePort and load balancer addresses on each node.
pub(crate) struct Web<'a> {
    /// Further lines of its `spec`.
    pub(crate) spec: &'a str,
    /// Port of the endpoints.
    pub(crate) target: u16,
    /// Pods: `1a`; `1a:terminating` still serves, `1a:ending` does not, `1a:unready` never did.
    pub(crate) endpoints: &'a [&'a str],
}

impl Web<'_> {
    /// The manifests.
    pub(crate) fn yaml(&self) -> String {
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\nspec:\n  type: LoadBalancer\n  \
             clusterIPs: [10.96.0.10, 'fd00:10:96::10']\n  {}\n  ports:\n  - {{name: t, port: {SERVICE_PORT}, nodePort: \
             {NODE_PORT}, protocol: TCP}}\n  - {{name: u, port: {SERVICE_PORT}, nodePort: {NODE_PORT}, protocol: UDP}}\n\
             status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.10}}, {{ip: 203.0.113.138}}, {{ip: \
             '2001:db8:f:1::10'}}, {{ip: '2001:db8:f:2::10'}}]}}}}\n",
            self.spec
        );
        [service, self.slice(false), self.slice(true)].join("---\n")
    }

    fn slice(&self, v6: bool) -> String {
        let family = if v6 { "IPv6" } else { "IPv4" };
        let endpoints: Vec<String> =
            self.endpoints.iter().map(|endpoint| endpoint_line(endpoint, v6)).collect();
        let target = self.target;
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-{}, namespace: default, labels: \
             {{kubernetes.io/service-name: web}}}}\naddressType: {family}\nports: [{{name: t, port: {target}, protocol: \
             TCP}}, {{name: u, port: {target}, protocol: UDP}}]\nendpoints: [{}]\n",
            family.to_lowercase(),
            endpoints.join(", ")
        )
    }
}

/// `web` with these endpoints and both policies `Cluster`.
pub(crate) fn web(endpoints: &[&str]) -> String {
    Web { spec: "", target: PORT, endpoints }.yaml()
}

/// The same with further lines of `spec`.
pub(crate) fn web_with(spec: &str, endpoints: &[&str]) -> String {
    Web { spec, target: PORT, endpoints }.yaml()
}

fn endpoint_line(endpoint: &str, v6: bool) -> String {
    let (name, state) = endpoint.split_once(':').unwrap_or((endpoint, "ready"));
    let conditions = match state {
        "ready" => "ready: true",
        "terminating" => "ready: false, serving: true, terminating: true",
        "ending" => "ready: false, serving: false, terminating: true",
        "unready" => "ready: false, serving: false, terminating: false",
        other => panic!("{other}"),
    };
    let address = of(pod_of(name), v6, PORT).ip();
    let number = &name[..1];
    format!("{{addresses: ['{address}'], nodeName: node{number}, conditions: {{{conditions}}}}}")
}

fn pod_of(name: &str) -> Pair {
    let [number, letter] = name.as_bytes() else { panic!("{name}") };
    pod(number - b'0', letter - b'a')
}

fn of(pair: Pair, v6: bool, port: u16) -> SocketAddr {
    let [v4, v6_address] = pair.both();
    SocketAddr::new(if v6 { v6_address } else { v4 }, port)
}

/// What a pod's server calls itself.
pub(crate) fn server(pod: &str, v6: bool) -> SocketAddr {
    of(pod_of(pod), v6, PORT)
}

/// The NodePort at a node, counted from 1.
pub(crate) fn node_port(number: u8, v6: bool) -> SocketAddr {
    of(node(number), v6, NODE_PORT)
}

/// The load balancer address that the router sends to a node.
pub(crate) fn vip(number: u8, v6: bool) -> SocketAddr {
    let address = match (number, v6) {
        (1, false) => "203.0.113.10",
        (_, false) => "203.0.113.138",
        (1, true) => "2001:db8:f:1::10",
        (_, true) => "2001:db8:f:2::10",
    };
    SocketAddr::new(address.parse().unwrap(), SERVICE_PORT)
}

/// The ClusterIP.
pub(crate) fn cluster_ip(v6: bool) -> SocketAddr {
    SocketAddr::new(if v6 { "fd00:10:96::10" } else { "10.96.0.10" }.parse().unwrap(), SERVICE_PORT)
}
