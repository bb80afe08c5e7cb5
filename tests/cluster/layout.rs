//! The cluster's addresses, names and folders: what every other part takes as given.
//!
//! Must not know: what is started where.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The control plane's place: namespaces, cgroup and log names.
pub(crate) const CONTROL: &str = "control";
/// The cgroup, below the root of each hierarchy, in which everything of the cluster runs.
pub(crate) const CGROUP: &str = "sheave-cluster";
/// Where the API server listens, on the control plane's address.
pub(crate) const API_PORT: u16 = 6443;
/// What pods of all nodes get addresses from.
pub(crate) const POD_RANGES: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];
/// What Services get addresses from.
pub(crate) const SERVICE_RANGES: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
/// The cluster's DNS, in each family.
pub(crate) const DNS: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
/// What load balancers get addresses from, in each family.
pub(crate) const LOAD_BALANCER_RANGES: [&str; 2] = ["172.30.100.0/24", "fd00:30:64::/112"];
/// Where the control plane's machine speaks from to load balancers: tests of the source address take whatever begins
/// like a node's (16 bits of IPv4, 64 of IPv6) for one of the cluster.
pub(crate) const OUTSIDE: [&str; 2] = ["172.31.0.1", "fd00:31::1"];
/// Prefix lengths of the link between the control plane and the nodes.
pub(crate) const LINK_PREFIX: [u8; 2] = [24, 64];

/// Which address family comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Families {
    /// IPv4, then IPv6.
    V4First,
    /// IPv6, then IPv4.
    V6First,
}

impl Families {
    /// An IPv4 and an IPv6 thing, in this order.
    pub(crate) fn order<T>(self, [v4, v6]: [T; 2]) -> [T; 2] {
        match self {
            Self::V4First => [v4, v6],
            Self::V6First => [v6, v4],
        }
    }

    /// Both of them with a comma between, in this order.
    pub(crate) fn list<T: ToString>(self, pair: [T; 2]) -> String {
        self.order(pair).map(|one| one.to_string()).join(",")
    }
}

/// The addresses of the machine with this number on the link; 0 is the control plane.
pub(crate) fn machine(number: u8) -> [IpAddr; 2] {
    let host = if number == 0 { 1 } else { number.saturating_add(10) };
    [Ipv4Addr::new(172, 30, 0, host).into(), Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, host.into()).into()]
}

/// The name of the node with this number, from 1.
pub(crate) fn node_name(number: u8) -> String {
    format!("node{number}")
}

/// The folders that the cluster uses.
#[derive(Debug, Clone)]
pub(crate) struct Folders {
    root: PathBuf,
}

impl Folders {
    /// Those of the repository that this program was compiled in.
    ///
    /// # Errors
    /// The repository has moved since.
    pub(crate) fn locate() -> Result<Self> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("this package has no parent folder")?;
        let root = root.canonicalize().with_context(|| format!("{} is gone", root.display()))?;
        Ok(Self { root })
    }

    /// Those of another checkout.
    pub(crate) fn of(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The repository.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A file or folder of the repository.
    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// What belongs to one run of a cluster, and goes with it.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("target/cluster")
    }

    /// A file or folder of one run.
    pub(crate) fn of_run(&self, name: &str) -> PathBuf {
        self.state().join(name)
    }

    /// A folder of one place in one run.
    pub(crate) fn of_place(&self, place: &str) -> PathBuf {
        self.of_run(place)
    }

    /// A program that xtask has built.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let folder = match name {
            "etcd" | "kube-apiserver" | "kube-controller-manager" | "kube-proxy" | "service-account-key" => {
                "controlplane"
            }
            _ => "kubernetes",
        };
        self.root.join("target").join(folder).join(name)
    }

    /// The archives of container images.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("target/kubernetes/images")
    }

    /// What test runs left, beside the cluster's own state: it stays when that goes.
    pub(crate) fn results_root(&self) -> PathBuf {
        self.root.join("target/e2e")
    }

    /// The log of a program of the cluster.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.of_run("logs").join(format!("{name}.log"))
    }

    /// How `user` gets to the API server.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.of_run(&format!("{user}.kubeconfig"))
    }
}

/// A program that cargo built beside this one.
///
/// # Errors
/// It has not been built.
pub(crate) fn built(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.parent().context("this program lies in no folder")?.join(name);
    anyhow::ensure!(path.exists(), "no {}: run `cargo xtask cluster`, which builds it", path.display());
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_family_comes_first_in_every_list() {
        assert_eq!(Families::V4First.list(SERVICE_RANGES), "10.96.0.0/16,fd00:10:96::/112");
        assert_eq!(Families::V6First.list(machine(2)), "fd00:30::c,172.30.0.12");
    }
}
