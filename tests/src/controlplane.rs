//! A real Kubernetes control plane for one test: etcd, kube-apiserver and kube-controller-manager.
//!
//! Owns: their flags, files, ports, start, restart and end, and etcd's compaction. Everything
//! listens on loopback only and keeps its files in a temporary folder.
//! Must not know: what is stored in it (`cluster.rs`) or who watches it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::Process;
use crate::wait::wait_for;

/// What Services get their addresses from, per family.
pub const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:10:96::/112";

/// Two busy cores need some seconds for what takes one on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(90);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// A port found free may be taken by another test before it is used.
const ATTEMPTS: u32 = 3;
/// Those the tests rely on. Left out above all: the one that marks pods of silent nodes not ready,
/// because there is no kubelet here.
const CONTROLLERS: &str = "endpointslice-controller,serviceaccount-controller,namespace-controller,\
    deployment-controller,replicaset-controller,node-ipam-controller";
/// Out of which every Node gets a prefix of each family.
pub const POD_RANGES: &str = "10.244.0.0/16,fd00:10:244::/48";

/// Who may talk to the API server, each with a token of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// May do everything: the test itself and the controllers.
    Admin,
    /// `sheave`: may do what a role binding of the test allows.
    Agent,
}

impl User {
    /// The user's name in role bindings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Agent => "sheave",
        }
    }

    fn groups(self) -> &'static str {
        match self {
            Self::Admin => "system:masters",
            Self::Agent => "agents",
        }
    }
}

/// What is not as usual about the API server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peculiarities {
    /// It writes down what [`User::Agent`] asks: [`ControlPlane::asked`].
    pub audit: bool,
    /// It knows no streaming lists, as before Kubernetes 1.34.
    pub no_streaming_lists: bool,
}

/// A request that the API server was asked, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// As a role calls it.
    pub verb: String,
    /// Group and resource with a slash between; the core group is empty.
    pub resource: String,
    /// Whether the role allowed it.
    pub allowed: bool,
}

/// The three running programs. Dropping it ends them and removes their files.
#[derive(Debug)]
pub struct ControlPlane {
    // The order is that of the end: whoever is a client goes first.
    controllers: Process,
    api_server: Option<Process>,
    etcd: Process,
    site: Site,
}

/// Files, ports and secrets: what outlives a restart of a program.
#[derive(Debug)]
struct Site {
    dir: TempDir,
    programs: PathBuf,
    etcd_port: u16,
    api_port: u16,
    secret: String,
    peculiarities: Peculiarities,
}

impl ControlPlane {
    /// Starts all three and waits until the API server says that it is ready.
    ///
    /// # Errors
    /// The programs have not been built, or one of them does not start within a bounded time.
    pub fn start() -> Result<Self> {
        Self::start_peculiar(Peculiarities::default())
    }

    /// The same with an API server that is not as usual.
    ///
    /// # Errors
    /// As [`ControlPlane::start`].
    pub fn start_peculiar(peculiarities: Peculiarities) -> Result<Self> {
        program("kube-apiserver")?;
        let programs = programs()?;
        for _ in 1..ATTEMPTS {
            match Self::try_start(&programs, peculiarities) {
                Err(error) if format!("{error:#}").contains("address already in use") => {}
                result => return result,
            }
        }
        Self::try_start(&programs, peculiarities)
    }

    fn try_start(programs: &Path, peculiarities: Peculiarities) -> Result<Self> {
        let site = Site::new(programs, peculiarities)?;
        let etcd = site.start_etcd()?;
        let api_server = site.start_api_server()?;
        let controllers = site.start_controllers()?;
        Ok(Self { controllers, api_server: Some(api_server), etcd, site })
    }

    /// Where the API server listens, on 127.0.0.1.
    #[must_use]
    pub fn api_port(&self) -> u16 {
        self.site.api_port
    }

    /// A kubeconfig for `user` that goes to the API server by way of `port` on 127.0.0.1.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn kubeconfig(&self, user: User, port: u16) -> Result<PathBuf> {
        self.site.kubeconfig(user, port)
    }

    /// What `user` would find in a pod below `/var/run/secrets/kubernetes.io/serviceaccount`, in a folder of its own.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn service_account(&self, user: User) -> Result<PathBuf> {
        let folder = self.site.path("serviceaccount");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("token"), self.site.token(user))?;
        fs::write(folder.join("namespace"), "kube-system")?;
        fs::copy(self.site.path("certificates/apiserver.crt"), folder.join("ca.crt"))?;
        Ok(folder)
    }

    /// What the agent asked so far, if the API server writes it down.
    ///
    /// # Errors
    /// There is no such log, or it is not what it should be.
    pub fn asked(&self) -> Result<BTreeSet<Asked>> {
        let log = fs::read_to_string(self.site.path("audit.log")).context("no audit log")?;
        // The last line may not be whole yet.
        let whole = log.get(..log.rfind('\n').map_or(0, |end| end + 1)).unwrap_or_default();
        let lines: Vec<Value> = whole.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(lines.iter().filter_map(asked).collect())
    }

    /// A folder for the files of the test itself; it goes with the control plane.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.site.dir.path()
    }

    /// Ends the API server at once: every connection and its watch cache are lost.
    pub fn kill_api_server(&mut self) {
        if let Some(process) = self.api_server.take() {
            process.kill();
        }
    }

    /// Starts it again, on the same port with the same certificate, and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready within a bounded time.
    pub fn start_api_server(&mut self) -> Result<()> {
        self.api_server = Some(self.site.start_api_server()?);
        Ok(())
    }

    /// Makes etcd forget all history up to now. Together with a restart of the API server, whose
    /// watch cache holds some history too, an older resource version is then answered by 410 Gone.
    ///
    /// # Errors
    /// etcd refuses.
    pub fn compact(&self) -> Result<()> {
        let now = self.site.ask_etcd("/v3/kv/range", &json!({ "key": "AA==" }))?;
        let revision = now.pointer("/header/revision").context("etcd does not tell its revision")?;
        self.site.ask_etcd("/v3/kv/compaction", &json!({ "revision": revision, "physical": true }))?;
        Ok(())
    }

    /// # Errors
    /// One of the programs that should run has ended, with the end of its log.
    pub fn check_running(&mut self) -> Result<()> {
        self.etcd.check_running()?;
        self.controllers.check_running()?;
        self.api_server.as_mut().map_or(Ok(()), Process::check_running)
    }
}

impl Site {
    fn new(programs: &Path, peculiarities: Peculiarities) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("sheave-controlplane-").tempdir()?;
        let secret = random_hex()?;
        let [etcd_port, api_port] = free_ports()?;
        let site = Self { dir, programs: programs.to_owned(), etcd_port, api_port, secret, peculiarities };
        fs::write(site.path("audit.json"), audit_policy().to_string())?;
        site.write_tokens()?;
        site.write_key()?;
        Ok(site)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn token(&self, user: User) -> String {
        format!("{}-{}", user.name(), self.secret)
    }

    fn write_tokens(&self) -> Result<()> {
        // Token, name, id, groups.
        let line = |user: User| {
            let (token, name) = (self.token(user), user.name());
            format!("{token},{name},{name},{}\n", user.groups())
        };
        Ok(fs::write(self.path("tokens.csv"), line(User::Admin) + &line(User::Agent))?)
    }

    fn write_key(&self) -> Result<()> {
        let output = Command::new(self.programs.join("service-account-key")).output()?;
        ensure!(output.status.success(), "service-account-key: {}", String::from_utf8_lossy(&output.stderr));
        Ok(fs::write(self.path("service-account.key"), output.stdout)?)
    }

    fn kubeconfig(&self, user: User, port: u16) -> Result<PathBuf> {
        let path = self.path(&format!("{}-{port}.kubeconfig", user.name()));
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": self.path("certificates/apiserver.crt"),
            } }],
            "users": [{ "name": user.name(), "user": { "token": self.token(user) } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": user.name() } }],
            "current-context": "test",
        });
        fs::write(&path, config.to_string())?;
        Ok(path)
    }

    fn start_etcd(&self) -> Result<Process> {
        let client = format!("http://127.0.0.1:{}", self.etcd_port);
        // The only member: nobody ever uses this address, but etcd wants one to listen on.
        let peer = "http://127.0.0.1:0";
        let mut command = Command::new(self.programs.join("etcd"));
        command.arg("--data-dir").arg(self.path("etcd")).args([
            "--name=test",
            "--unsafe-no-fsync",
            "--log-level=warn",
            &format!("--listen-client-urls={client}"),
            &format!("--advertise-client-urls={client}"),
            &format!("--listen-peer-urls={peer}"),
            &format!("--initial-advertise-peer-urls={peer}"),
            &format!("--initial-cluster=test={peer}"),
        ]);
        let mut etcd = Process::start("etcd", &mut command, self.path("etcd.log"))?;
        wait_for("etcd is ready", START_LIMIT, || {
            etcd.check_running()?;
            Ok(self.ask_etcd("/v3/maintenance/status", &json!({})).ok())
        })
        .with_context(|| etcd.log_tail())?;
        Ok(etcd)
    }

    fn start_api_server(&self) -> Result<Process> {
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        let with_path = |flag: &str, name: &str| format!("--{flag}={}", self.path(name).display());
        command.args([
            with_path("cert-dir", "certificates"),
            with_path("token-auth-file", "tokens.csv"),
            with_path("service-account-key-file", "service-account.key"),
            with_path("service-account-signing-key-file", "service-account.key"),
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.api_port),
            format!("--service-cluster-ip-range={SERVICE_RANGES}"),
        ]);
        command.args([
            "--bind-address=127.0.0.1",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            // Where nodes would reach it. There are none: an address of no machine, and nobody told.
            "--advertise-address=192.0.2.1",
            "--endpoint-reconciler-type=none",
            // The tests compact themselves, at a moment of their choice.
            "--etcd-compaction-interval=0",
            "--profiling=false",
        ]);
        if self.peculiarities.no_streaming_lists {
            command.arg("--feature-gates=WatchList=false");
        }
        if self.peculiarities.audit {
            command.args([
                with_path("audit-policy-file", "audit.json"),
                with_path("audit-log-path", "audit.log"),
                "--audit-log-mode=blocking".to_owned(),
            ]);
        }
        let mut server = Process::start("kube-apiserver", &mut command, self.path("kube-apiserver.log"))?;
        self.wait_until_ready(&mut server).with_context(|| server.log_tail())?;
        Ok(server)
    }

    /// Asks `/readyz` with the plain client that the other parts use too.
    fn wait_until_ready(&self, server: &mut Process) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let certificate = self.path("certificates/apiserver.crt");
        wait_for("the API server is ready", START_LIMIT, || {
            server.check_running()?;
            if !certificate.exists() {
                return Ok(None);
            }
            // A client of its own each time: the certificate may be read before it is written to its end.
            let kubeconfig = self.kubeconfig(User::Admin, self.api_port)?;
            let Ok(client) = runtime.block_on(crate::cluster::connect(&kubeconfig)) else { return Ok(None) };
            Ok(runtime.block_on(crate::cluster::is_ready(&client)).then_some(()))
        })
    }

    fn start_controllers(&self) -> Result<Process> {
        let mut command = Command::new(self.programs.join("kube-controller-manager"));
        let kubeconfig = self.kubeconfig(User::Admin, self.api_port)?;
        command.arg("--kubeconfig").arg(kubeconfig).args([
            &format!("--controllers={CONTROLLERS}"),
            "--leader-elect=false",
            "--allocate-node-cidrs",
            &format!("--cluster-cidr={POD_RANGES}"),
            &format!("--service-cluster-ip-range={SERVICE_RANGES}"),
            "--secure-port=0",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
            "--profiling=false",
        ]);
        Process::start("kube-controller-manager", &mut command, self.path("kube-controller-manager.log"))
    }

    /// One call of etcd's JSON interface.
    fn ask_etcd(&self, path: &str, body: &Value) -> Result<Value> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.etcd_port))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let body = body.to_string();
        write!(
            stream,
            "POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("etcd's answer has no body")?;
        let status = head.split_whitespace().nth(1);
        ensure!(status == Some("200"), "etcd refuses {path}: {answer}");
        Ok(serde_json::from_str(body)?)
    }
}

/// Each request of the agent's user, as soon as it is answered.
fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{ "level": "Metadata", "users": [User::Agent.name()] }, { "level": "None" }],
    })
}

/// `None`: it was not about an object.
fn asked(line: &Value) -> Option<Asked> {
    let object = line.get("objectRef")?;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let resource = text(object.get("resource"));
    (!resource.is_empty()).then(|| Asked {
        verb: text(line.get("verb")),
        resource: format!("{}/{resource}", text(object.get("apiGroup"))),
        allowed: text(line.pointer("/annotations/authorization.k8s.io~1decision")) == "allow",
    })
}

/// Where `cargo xtask test apiserver` and `cargo xtask test oracle` put the programs.
fn programs() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("this package has no parent folder")?;
    Ok(root.join("target/controlplane"))
}

/// One of the programs of Kubernetes.
///
/// # Errors
/// It has not been built.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let program = programs()?.join(name);
    ensure!(program.exists(), "no {}: run `cargo xtask test apiserver`, which builds it", program.display());
    Ok(program)
}

/// Ports of 127.0.0.1 that were free a moment ago, no two the same.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    for _ in 0..N {
        held.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    }
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

fn random_hex() -> Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}
