//! A node: its link to the control plane, containerd, the images in it, and kubelet.
//!
//! Must not know: who gives its pods their network.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use sheave_tests::wait::wait_for;

use crate::cgroups::Cgroups;
use crate::layout::{DNS, Families, Folders, LINK_PREFIX, machine};
use crate::place::Place;

const START_LIMIT: Duration = Duration::from_mins(1);
const BRIDGE: &str = "nodes";
/// Where kubeadm puts it.
pub(crate) const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
/// Where distributions put the reference plugins.
const PLUGIN_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// A node's machine and what its programs are told.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// From 1.
    pub(crate) number: u8,
    /// The machine.
    pub(crate) place: Place,
}

/// Makes the link that all machines share, on the control plane's.
///
/// # Errors
/// `ip` fails.
pub(crate) fn make_link(control: &Place) -> Result<()> {
    control.ip("link set lo up")?;
    control.ip(&format!("link add {BRIDGE} type bridge"))?;
    set_addresses(control, BRIDGE, 0)
}

/// Addresses that are usable at once, without the time that finding duplicates takes.
fn set_addresses(place: &Place, device: &str, number: u8) -> Result<()> {
    place.sysctl(&format!("ipv6/conf/{device}/accept_dad"), "0")?;
    place.ip(&format!("link set {device} up"))?;
    for (address, prefix) in machine(number).into_iter().zip(LINK_PREFIX) {
        place.ip(&format!("address add {address}/{prefix} dev {device}"))?;
    }
    Ok(())
}

impl Node {
    /// Connects it to the control plane's machine, which is its default gateway, and lets it forward, as whoever sets
    /// up a node does.
    ///
    /// # Errors
    /// `ip` fails.
    pub(crate) fn connect(&self, control: &Place) -> Result<()> {
        let Place { name, holder, .. } = &self.place;
        control.ip_from_outside(&format!("link add {name} type veth peer name eth0 netns {holder}"))?;
        control.ip(&format!("link set {name} master {BRIDGE} up"))?;
        self.place.ip("link set lo up")?;
        set_addresses(&self.place, "eth0", self.number)?;
        for gateway in machine(0) {
            self.place.ip(&format!("route add default via {gateway}"))?;
        }
        ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]
            .iter()
            .try_for_each(|name| self.place.sysctl(name, "1"))
    }

    /// Starts containerd and puts the images into it.
    ///
    /// # Errors
    /// It does not start within a bounded time; with the end of its log.
    pub(crate) fn start_containerd(&self, folders: &Folders, cgroups: &Cgroups) -> Result<()> {
        let config = folders.of_place(&self.place.name).join("containerd.toml");
        fs::write(&config, CONTAINERD)?;
        let mut command = self.place.command("containerd");
        command.arg("--config").arg(config);
        self.place.spawn(cgroups, "containerd", command)?;
        wait_for("containerd answers", START_LIMIT, || Ok(self.ctr(&["version"]).ok()))
            .with_context(|| self.place.log_of("containerd"))?;
        Ok(())
    }

    /// Puts an archive of images into containerd.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn load_image(&self, archive: &Path) -> Result<()> {
        self.ctr(&["images", "import", "--local", &archive.display().to_string()])
            .or_else(|_| self.ctr(&["images", "import", &archive.display().to_string()]))
            .map(drop)
    }

    /// Puts the plugin for the loopback device where containerd before 2.0 looks for it: the package that brings kubelet
    /// to a real node brings it, too.
    ///
    /// # Errors
    /// The reference plugins are not installed.
    pub(crate) fn add_loopback_plugin(&self) -> Result<()> {
        let plugin = plugin_folder()?.join("loopback").display().to_string();
        self.place.run("ln", &["--symbolic", &plugin, "/opt/cni/bin/loopback"]).map(drop)
    }

    fn ctr(&self, words: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", "k8s.io"];
        all.extend(words);
        self.place.run("ctr", &all)
    }

    /// Starts kubelet, which makes itself known to the API server.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start_kubelet(
        &self,
        folders: &Folders,
        cgroups: &Cgroups,
        families: Families,
    ) -> Result<()> {
        let name = &self.place.name;
        let config = folders.of_place(name).join("kubelet.json");
        fs::write(&config, kubelet_config(name, families).to_string())?;
        let mut command = self.place.command(folders.program("kubelet"));
        let kubeconfig = folders.kubeconfig(name).display().to_string();
        self.place.run("install", &["-D", "--mode=600", &kubeconfig, KUBECONFIG])?;
        command.arg("--config").arg(config).args(["--kubeconfig", KUBECONFIG]);
        // Tests of traffic distribution want three zones, some of them two nodes in each.
        let zone = self.number % 3;
        command.arg(format!("--node-labels=topology.kubernetes.io/zone=zone-{zone}"));
        command.args(["--hostname-override", name, "--node-ip", &families.list(machine(self.number))]);
        self.place.spawn(cgroups, "kubelet", command)
    }
}

/// Where the reference CNI plugins are.
///
/// # Errors
/// They are not installed.
pub(crate) fn plugin_folder() -> Result<PathBuf> {
    let mut folders = PLUGIN_FOLDERS.into_iter().map(PathBuf::from);
    folders
        .find(|folder| folder.join("loopback").exists())
        .with_context(|| format!("no CNI plugins in {PLUGIN_FOLDERS:?}: install containernetworking-plugins"))
}

fn kubelet_config(node: &str, families: Families) -> serde_json::Value {
    let [dns, _] = families.order(DNS);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [dns],
        "clusterDomain": "cluster.local",
        // Nodes share one machine, whose limits are none of theirs.
        "failSwapOn": false,
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": Cgroups::name(node),
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": false,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": { "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
        "maxPods": 110,
        // A pod on this machine should wait for its work and not for a turn.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        // Its default is a folder of the host.
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "registryPullQPS": 0,
        "serializeImagePulls": false,
    })
}

const CONTAINERD: &str = r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10.2"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"#;
