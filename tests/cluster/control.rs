//! The control plane on its machine: etcd, API server, controller manager and scheduler, and who may talk to it.
//!
//! Must not know: what is stored in it.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sheave_tests::wait::wait_for;

use crate::cgroups::Cgroups;
use crate::layout::{API_PORT, Families, Folders, POD_RANGES, SERVICE_RANGES, machine, node_name};
use crate::node::Node;
use crate::place::{Place, output};

const START_LIMIT: Duration = Duration::from_secs(90);
const ETCD: &str = "http://127.0.0.1:2379";

/// May do everything.
pub(crate) const ADMIN: &str = "admin";

/// The control plane's machine and what its programs are told.
pub(crate) struct Control<'a> {
    /// The machine.
    pub(crate) place: &'a Place,
    /// The cgroups.
    pub(crate) cgroups: &'a Cgroups,
    /// The folders.
    pub(crate) folders: &'a Folders,
    /// The order of families.
    pub(crate) families: Families,
    /// How many nodes may come.
    pub(crate) nodes: u8,
}

impl Control<'_> {
    /// Starts all four; the API server answers afterwards.
    ///
    /// # Errors
    /// One of them does not start within a bounded time; with the end of its log.
    pub(crate) fn start(&self) -> Result<()> {
        self.write_secrets()?;
        self.spawn("etcd", &self.etcd_flags())?;
        self.spawn("kube-apiserver", &self.api_server_flags())?;
        self.wait_until_ready()?;
        self.spawn("kube-controller-manager", &self.controller_flags())?;
        let kubeconfig = self.folders.kubeconfig(ADMIN).display().to_string();
        self.spawn("kube-scheduler", &[format!("--kubeconfig={kubeconfig}"), "--leader-elect=false".into()])
    }

    /// Runs kubectl as the administrator.
    ///
    /// # Errors
    /// It fails: with what it said.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Result<String> {
        kubectl(self.place, self.folders, words)
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// The API server refuses them.
    pub(crate) fn apply(&self, name: &str, manifests: &str) -> Result<()> {
        let path = self.folders.of_run(&format!("{name}.yaml"));
        fs::write(&path, manifests)?;
        let path = path.display().to_string();
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &path]).map(drop)
    }

    /// What the pods of a node get addresses from.
    ///
    /// # Errors
    /// The node is not registered, or has none yet.
    pub(crate) fn pod_ranges(&self, node: &str) -> Result<Vec<String>> {
        let text = self.kubectl(&["get", "node", node, "-o", "jsonpath={.spec.podCIDRs[*]}"])?;
        let ranges: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        ensure!(ranges.len() == 2, "{node} has the pod ranges {text:?}");
        Ok(ranges)
    }

    /// Lets the API server reach a node's pods, as it must for its proxy verb.
    ///
    /// # Errors
    /// `ip` fails.
    pub(crate) fn route_to(&self, node: &Node) -> Result<()> {
        let [v4, v6] = machine(node.number);
        for range in self.pod_ranges(&node.place.name)? {
            let gateway = if range.contains(':') { v6 } else { v4 };
            self.place.ip(&format!("route add {range} via {gateway}"))?;
        }
        Ok(())
    }

    fn spawn(&self, program: &str, flags: &[String]) -> Result<()> {
        let mut command = self.place.command(self.folders.program(program));
        command.args(flags);
        self.place.spawn(self.cgroups, program, command)
    }

    /// Users with a token each, the key of service accounts, and a kubeconfig for each user.
    fn write_secrets(&self) -> Result<()> {
        let key = output(&mut std::process::Command::new(self.folders.program("service-account-key")))?;
        fs::write(self.folders.of_run("service-account.key"), key)?;
        let mut tokens = format!("{},{ADMIN},{ADMIN},system:masters\n", self.write_kubeconfig(ADMIN)?);
        for node in (1..=self.nodes).map(node_name) {
            let token = self.write_kubeconfig(&node)?;
            writeln!(tokens, "{token},system:node:{node},{node},system:nodes")?;
        }
        Ok(fs::write(self.folders.of_run("tokens.csv"), tokens)?)
    }

    /// Returns the token in it.
    fn write_kubeconfig(&self, user: &str) -> Result<String> {
        let mut bytes = [0; 16];
        fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let token = format!("{user}-{:032x}", u128::from_ne_bytes(bytes));
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "sheave", "cluster": {
                "server": self.server(),
                "certificate-authority": self.folders.of_run("certificates/apiserver.crt"),
            } }],
            "users": [{ "name": user, "user": { "token": token } }],
            "contexts": [{ "name": "sheave", "context": { "cluster": "sheave", "user": user } }],
            "current-context": "sheave",
        });
        fs::write(self.folders.kubeconfig(user), config.to_string())?;
        Ok(token)
    }

    /// The API server's address in the first family.
    pub(crate) fn server(&self) -> String {
        let [first, _] = self.families.order(machine(0));
        format!("https://{}", std::net::SocketAddr::new(first, API_PORT))
    }

    fn path(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.folders.of_run(name).display())
    }

    fn etcd_flags(&self) -> Vec<String> {
        // The only member: nobody ever uses its peer address, but etcd wants one to listen on.
        let peer = "http://127.0.0.1:2380";
        let flags = [
            "--name=control",
            // A cluster that is thrown away need not survive a power cut.
            "--unsafe-no-fsync",
            "--log-level=warn",
            &format!("--listen-client-urls={ETCD}"),
            &format!("--advertise-client-urls={ETCD}"),
            &format!("--listen-peer-urls={peer}"),
            &format!("--initial-advertise-peer-urls={peer}"),
            &format!("--initial-cluster=control={peer}"),
        ];
        let mut flags = flags.map(str::to_owned).to_vec();
        flags.push(self.path("data-dir", "etcd"));
        flags
    }

    fn api_server_flags(&self) -> Vec<String> {
        let [address, _] = self.families.order(machine(0));
        vec![
            self.path("cert-dir", "certificates"),
            self.path("token-auth-file", "tokens.csv"),
            self.path("service-account-key-file", "service-account.key"),
            self.path("service-account-signing-key-file", "service-account.key"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            format!("--etcd-servers={ETCD}"),
            format!("--secure-port={API_PORT}"),
            format!("--service-cluster-ip-range={}", self.families.list(SERVICE_RANGES)),
            format!("--advertise-address={address}"),
            "--bind-address=::".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--allow-privileged=true".into(),
            // There is no DNS for the names of nodes.
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--profiling=false".into(),
        ]
    }

    fn controller_flags(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.folders.kubeconfig(ADMIN).display()),
            self.path("service-account-private-key-file", "service-account.key"),
            self.path("root-ca-file", "certificates/apiserver.crt"),
            "--allocate-node-cidrs".into(),
            format!("--cluster-cidr={}", self.families.list(POD_RANGES)),
            format!("--service-cluster-ip-range={}", self.families.list(SERVICE_RANGES)),
            "--leader-elect=false".into(),
            "--kube-api-qps=300".into(),
            "--kube-api-burst=600".into(),
        ]
    }

    fn wait_until_ready(&self) -> Result<()> {
        let ready = || self.kubectl(&["get", "--raw", "/readyz"]);
        let last = wait_for("the API server is ready", START_LIMIT, || Ok(ready().ok()));
        last.map(drop).with_context(|| self.place.log_of("kube-apiserver"))
    }
}

/// Runs kubectl on the control plane's machine as the administrator.
///
/// # Errors
/// It fails: with what it said.
pub(crate) fn kubectl(place: &Place, folders: &Folders, words: &[&str]) -> Result<String> {
    let kubeconfig = folders.kubeconfig(ADMIN).display().to_string();
    let mut all = vec!["--kubeconfig", &kubeconfig];
    all.extend(words);
    place.run(folders.program("kubectl"), &all)
}
