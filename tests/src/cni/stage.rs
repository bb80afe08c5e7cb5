//! A node without pods in a namespace of its own, a stand-in for its agent, and calls of a plugin on it.
//!
//! Must not know: what a plugin should do.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use cni::facts::{self, NodeFacts, VERSION};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde_json::{Map, Value, json};

use super::call::{Answer, Call};
use super::census::{Census, ask};
use super::pins::Pins;
use super::subject::{Kind, Subject};
use crate::lab::{NODE_V4, NODE_V6};
use crate::netns::Netns;
use crate::wait::wait_for;

/// Where pods get their addresses unless a test says otherwise.
pub(super) const RANGES: [&str; 2] = ["10.244.0.0/24", "fd00:10:244::/64"];
/// The interface of a pod.
pub const IFNAME: &str = "eth0";
/// How long a datagram between a pod and its node may take.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// A folder in memory, as `/run` is on a node: a plugin's state is there and on no disk. Without one, where temporary files go.
fn memory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    let in_memory = statfs(shared).is_ok_and(|it| it.filesystem_type() == TMPFS_MAGIC);
    if in_memory { shared.to_owned() } else { std::env::temp_dir() }
}

/// A node on which one plugin works.
#[derive(Debug)]
pub struct Stage {
    /// The plugin.
    pub subject: Subject,
    /// The node's namespace.
    pub node: Netns,
    folder: tempfile::TempDir,
    ranges: Vec<String>,
    agent: Option<Standin>,
    pins: Option<Pins>,
    told: Option<facts::Pins>,
    pods: AtomicUsize,
}

/// A namespace for a pod, and the path under which a runtime knows it.
#[derive(Debug)]
pub struct Pod {
    /// The namespace.
    pub netns: Netns,
    /// `CNI_NETNS`.
    pub path: PathBuf,
    /// `CNI_CONTAINERID`.
    pub container: String,
}

impl Stage {
    /// A node with the usual ranges and a running agent.
    ///
    /// # Errors
    /// Not root, or no room for files.
    pub fn new(subject: &Subject) -> Result<Self> {
        Self::ranged(subject, &RANGES)
    }

    /// A node with other ranges.
    ///
    /// # Errors
    /// As [`Stage::new`].
    pub fn ranged(subject: &Subject, ranges: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sheave-cni-").tempdir_in(memory())?;
        fs::create_dir(folder.path().join("state"))?;
        fs::create_dir(folder.path().join("pods"))?;
        let node = Netns::new()?;
        node.ip(&format!("addr add {NODE_V4}/32 dev lo"))?;
        node.ip(&format!("addr add {NODE_V6}/128 dev lo nodad"))?;
        node.sysctl("ipv4/ip_forward", "1")?;
        node.sysctl("ipv6/conf/all/forwarding", "1")?;
        // The kernel enters the route for it a moment later.
        wait_for(format!("{NODE_V6} is local"), PATIENCE, || {
            let routes = ask(&node, &["-6", "route", "show", "table", "local"])?;
            Ok(routes.iter().any(|route| route["dst"] == NODE_V6.to_string()).then_some(()))
        })?;
        let mut stage = Self {
            subject: subject.clone(),
            node,
            folder,
            ranges: ranges.iter().map(|&range| range.to_owned()).collect(),
            agent: None,
            pins: None,
            told: None,
            pods: AtomicUsize::new(0),
        };
        if subject.kind == Kind::Sheave {
            stage.pins = Some(Pins::new()?);
            stage.facts(None)?.write(&stage.state())?;
            stage.start_agent()?;
        } else {
            // The reference plugins wait for duplicate address detection: seconds in each test.
            stage.node.sysctl("ipv6/conf/default/accept_dad", "0")?;
        }
        Ok(stage)
    }

    /// The folder where the plugin keeps what it remembers: our run folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// What the agent says of the node.
    ///
    /// # Errors
    /// A range is none.
    pub fn facts(&self, obstacle: Option<&str>) -> Result<NodeFacts> {
        let told = self.told.clone().or_else(|| Some(self.pins.as_ref()?.facts.clone()));
        Ok(NodeFacts {
            version: VERSION,
            node: "node-a".to_owned(),
            pod_cidrs: self.ranges.iter().map(|range| range.parse()).collect::<Result<_, _>>()?,
            mtu: 1450,
            pins: told.context("this plugin has no pins")?,
            node_addresses: vec![NODE_V4.into(), NODE_V6.into()],
            obstacle: obstacle.map(str::to_owned),
        })
    }

    /// Tells the plugin of other pins than the stand-in's.
    ///
    /// # Errors
    /// The facts cannot be written.
    pub fn tell(&mut self, pins: facts::Pins) -> Result<()> {
        self.told = Some(pins);
        Ok(self.facts(None)?.write(&self.state())?)
    }

    /// Makes every attachment look as if it had been made an hour ago: the young ones are nobody's to collect.
    ///
    /// # Errors
    /// A record cannot be read or written.
    pub fn age(&self) -> Result<()> {
        for entry in fs::read_dir(self.state().join("cni/attachments"))? {
            let path = entry?.path();
            let mut record: Map<String, Value> = serde_json::from_slice(&fs::read(&path)?)?;
            let since = record.get("since").and_then(Value::as_u64).context("a record without a time")?;
            record.insert("since".to_owned(), json!(since.saturating_sub(3_600)));
            fs::write(&path, serde_json::to_vec(&record)?)?;
        }
        Ok(())
    }

    /// Has something hold the agent's lock and answer on its socket, as an agent does that runs.
    ///
    /// # Errors
    /// Another does.
    pub fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(Standin::start(&self.state())?);
        Ok(())
    }

    /// Ends it, as if it had ended long ago.
    pub fn stop_agent(&mut self) {
        self.agent = None;
        let lock = File::options().write(true).open(self.state().join("agent.lock"));
        // Where there is none there was no agent.
        let _ = lock.and_then(|lock| lock.set_modified(SystemTime::UNIX_EPOCH));
    }

    /// Ends it just now.
    pub fn interrupt_agent(&mut self) {
        self.agent = None;
    }

    /// The network configuration of this version.
    #[must_use]
    pub fn config(&self, version: &str) -> Value {
        let ranges: Vec<&str> = self.ranges.iter().map(String::as_str).collect();
        self.subject.config(&self.state(), &ranges, version)
    }

    /// A namespace for a pod with a container id of its own.
    ///
    /// # Errors
    /// Not root.
    pub fn pod(&self) -> Result<Pod> {
        let number = 1 + self.pods.fetch_add(1, Ordering::Relaxed);
        let netns = Netns::untouched()?;
        if self.subject.kind != Kind::Sheave {
            netns.sysctl("ipv6/conf/default/accept_dad", "0")?;
        }
        let path = self.folder.path().join("pods").join(number.to_string());
        symlink(netns.path(), &path)?;
        Ok(Pod { netns, path, container: format!("c{number}.{}", std::process::id()) })
    }

    /// A call of this verb for a pod.
    #[must_use]
    pub fn call(&self, verb: &str, config: &Value, pod: &Pod) -> Call {
        self.bare(verb, config)
            .set("CNI_CONTAINERID", &pod.container)
            .set("CNI_NETNS", pod.path.display().to_string())
            .set("CNI_IFNAME", IFNAME)
    }

    /// A call of this verb for no pod.
    #[must_use]
    pub fn bare(&self, verb: &str, config: &Value) -> Call {
        let path = self.subject.folder.display().to_string();
        // Some of the reference plugins call iptables.
        Call::new(verb, config).set("CNI_PATH", path).set("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    }

    /// Has the plugin called.
    ///
    /// # Errors
    /// It cannot be started, or hangs.
    pub fn run(&self, call: &Call) -> Result<Answer> {
        self.subject.plugin.call(&self.node, call)
    }

    /// ADD with this configuration: its result.
    ///
    /// # Errors
    /// It fails.
    pub fn add(&self, config: &Value, pod: &Pod) -> Result<Value> {
        self.run(&self.call("ADD", config, pod))?.result().context("ADD")
    }

    /// DEL with this configuration.
    ///
    /// # Errors
    /// It fails, or says something.
    pub fn del(&self, config: &Value, pod: &Pod) -> Result<()> {
        self.run(&self.call("DEL", config, pod))?.silence().context("DEL")
    }

    /// Counts what there is on the node.
    ///
    /// # Errors
    /// As [`Census::take`].
    pub fn census(&self) -> Result<Census> {
        let state = self.state();
        let pins = self.pins.as_ref().map(Pins::path);
        let folders: Vec<&Path> = pins.into_iter().chain([state.as_path()]).collect();
        let census = Census::take(&self.node, &folders, self.subject.keeps())?;
        Ok(census.with(self.pins.as_ref().map(Pins::elements).transpose()?.unwrap_or_default()))
    }
}

impl Pod {
    /// What there is in the pod's namespace.
    ///
    /// # Errors
    /// As [`Census::take`].
    pub fn census(&self) -> Result<Census> {
        Census::take(&self.netns, &[], &[])
    }

    /// Whether the pod has the interface.
    ///
    /// # Errors
    /// None that a test could meet.
    pub fn has(&self, device: &str) -> Result<bool> {
        let path = device.to_owned();
        Ok(self.netns.run(|| nix::net::if_::if_nametoindex(path.as_str())).is_ok())
    }

    /// The pod's namespace ends, and what its path leads to.
    ///
    /// # Errors
    /// There is no path.
    pub fn end(self) -> Result<Self> {
        fs::remove_file(&self.path)?;
        let ended = Netns::untouched()?;
        Ok(Self { netns: ended, ..self })
    }

    /// Another namespace at the same path, for another container.
    ///
    /// # Errors
    /// Not root.
    pub fn succeed(&self, container: &str) -> Result<Self> {
        let netns = Netns::untouched()?;
        fs::remove_file(&self.path)?;
        symlink(netns.path(), &self.path)?;
        Ok(Self { netns, path: self.path.clone(), container: container.to_owned() })
    }
}

/// Sends a datagram from one namespace to an address of another and back.
///
/// # Errors
/// It did not come, or its answer did not.
pub fn exchange(from: &Netns, to: &Netns, address: IpAddr) -> Result<()> {
    let server =
        to.run(|| UdpSocket::bind((address, 0))).with_context(|| format!("no socket at {address}"))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let any: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let client = from.run(|| UdpSocket::bind((any, 0)))?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.connect(SocketAddr::new(address, server.local_addr()?.port()))?;
    client.send(b"ask").with_context(|| format!("cannot send to {address}"))?;
    let mut buffer = [0; 16];
    let (length, peer) =
        server.recv_from(&mut buffer).with_context(|| format!("nothing came to {address}"))?;
    server.send_to(buffer.get(..length).unwrap_or_default(), peer)?;
    let answered = again(|| client.recv(&mut buffer)).with_context(|| format!("no answer from {address}"))?;
    ensure!(answered == length, "{answered} bytes instead of {length}");
    Ok(())
}

/// A signal that another test handles may interrupt a wait.
fn again<T>(mut wait: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match wait() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Something that holds the agent's lock and says "done" to whatever it is asked.
#[derive(Debug)]
struct Standin {
    _lock: Flock<File>,
    ends: Arc<AtomicBool>,
    socket: PathBuf,
}

impl Standin {
    fn start(run_dir: &Path) -> Result<Self> {
        let file = File::create(run_dir.join("agent.lock"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
        let socket = run_dir.join("control.sock");
        let listener = UnixListener::bind(&socket)?;
        let ends = Arc::new(AtomicBool::new(false));
        let standin = Self { _lock: lock, ends: Arc::clone(&ends), socket };
        thread::spawn(move || {
            for stream in listener.incoming().take_while(|_| !ends.load(Ordering::Relaxed)) {
                // A plugin that went away is looked at by its own test.
                let _ = stream.and_then(|stream| answer(&stream));
            }
        });
        Ok(standin)
    }
}

fn answer(mut stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    BufReader::new(stream).read_line(&mut String::new())?;
    stream.write_all(b"\"done\"\n")
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // Wakes the listener, which then ends; an error means that it has.
        let _ = UnixStream::connect(&self.socket);
        let _ = fs::remove_file(&self.socket);
    }
}
