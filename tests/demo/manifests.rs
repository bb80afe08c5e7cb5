//! The folder of manifests that the agent watches.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;

/// Port that the pods serve on.
pub(crate) const TARGET: u16 = 8080;

/// The folder.
pub(crate) struct Folder {
    folder: tempfile::TempDir,
}

/// Name and addresses of a pod.
pub(crate) type Addresses = (String, Ipv4Addr, Ipv6Addr);

pub(crate) fn web_v4() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}

pub(crate) fn web_v6() -> SocketAddr {
    SocketAddr::from((Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10), 80))
}

pub(crate) fn echo() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 11], 53))
}

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::Builder::new().prefix("sheave-demo-").tempdir()? })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write_services(&self) -> Result<()> {
        let service = |name: &str, ips: &str, families: &str, policy: &str, port: u16, protocol: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: demo}}\nspec:\n  \
                 type: ClusterIP\n  clusterIPs: [{ips}]\n  ipFamilies: [{families}]\n  ipFamilyPolicy: {policy}\n  \
                 ports: [{{port: {port}, protocol: {protocol}, targetPort: {TARGET}}}]\n"
            )
        };
        let web = service("web", "10.96.0.10, 'fd00:10:96::10'", "IPv4, IPv6", "RequireDualStack", 80, "TCP");
        let echo = service("echo", "10.96.0.11", "IPv4", "SingleStack", 53, "UDP");
        self.put("services.yaml", &format!("{web}---\n{echo}"))
    }

    /// Writes the slices of both Services over these pods, all at once.
    pub(crate) fn write_endpoints(&self, pods: &[Addresses]) -> Result<()> {
        let v4: Vec<String> = pods.iter().map(|(_, v4, _)| v4.to_string()).collect();
        let v6: Vec<String> = pods.iter().map(|(_, _, v6)| v6.to_string()).collect();
        let documents = [
            slice("web", "web-v4", "IPv4", "TCP", &v4),
            slice("web", "web-v6", "IPv6", "TCP", &v6),
            slice("echo", "echo-v4", "IPv4", "UDP", &v4),
        ];
        self.put("endpoints.yaml", &documents.join("---\n"))
    }

    /// Writes beside and renames, as editors and kubelets do: a reader never meets half a file.
    fn put(&self, name: &str, text: &str) -> Result<()> {
        let hidden = self.path().join(format!(".{name}.new"));
        fs::write(&hidden, text)?;
        Ok(fs::rename(hidden, self.path().join(name))?)
    }
}

fn slice(service: &str, name: &str, family: &str, protocol: &str, addresses: &[String]) -> String {
    let endpoint =
        |address: &String| format!("- {{addresses: ['{address}'], conditions: {{ready: true}}}}\n");
    let endpoints: String = addresses.iter().map(endpoint).collect();
    let endpoints =
        if endpoints.is_empty() { "endpoints: []\n".to_owned() } else { format!("endpoints:\n{endpoints}") };
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: demo, labels: \
         {{kubernetes.io/service-name: {service}}}}}\naddressType: {family}\nports: [{{name: '', port: {TARGET}, \
         protocol: {protocol}}}]\n{endpoints}"
    )
}
