//! Network namespaces that live as long as a value: no name on disk, so nothing is left behind whatever happens.
//!
//! Must not know: topologies or Services.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace. The kernel removes it, with its devices, when the last user of it is gone.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// Makes an empty namespace with its loopback device up.
    ///
    /// # Errors
    /// Not root, or `ip` is missing.
    pub fn new() -> Result<Self> {
        let netns = Self::untouched()?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Makes a namespace as a runtime does: nothing in it is up.
    ///
    /// # Errors
    /// Not root.
    pub fn untouched() -> Result<Self> {
        let file = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace (root needed)")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        })
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that makes a namespace panicked"))??;
        Ok(Self { file })
    }

    /// The same namespace again.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it. A panic goes on in the caller.
    #[expect(
        clippy::expect_used,
        reason = "a test that cannot enter its own namespace has nothing to go on with"
    )]
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter().expect("cannot enter a network namespace of the test");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts `work` on a thread of its own inside the namespace.
    ///
    /// # Errors
    /// No descriptor is left.
    #[expect(
        clippy::expect_used,
        reason = "a test that cannot enter its own namespace has nothing to go on with"
    )]
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>> {
        let inside = self.try_clone()?;
        Ok(thread::spawn(move || {
            inside.enter().expect("cannot enter a network namespace of the test");
            work()
        }))
    }

    /// Moves the calling thread into the namespace for the rest of its life.
    ///
    /// # Errors
    /// Not root.
    pub fn enter(&self) -> Result<()> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).context("setns")
    }

    /// Runs `ip` with these words inside the namespace.
    ///
    /// # Errors
    /// `ip` fails: with what it said.
    pub fn ip(&self, words: &str) -> Result<()> {
        let output = self
            .run(|| Command::new("ip").args(words.split_whitespace()).output())
            .context("cannot run ip")?;
        if !output.status.success() {
            bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Runs several `ip` commands, which need no option for their family, in one process inside the namespace.
    ///
    /// # Errors
    /// One of them fails: with what `ip` said, which names the line.
    pub fn ip_lines(&self, lines: &[String]) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut ip = self.run(|| command.spawn()).context("cannot run ip")?;
        // The pipe is closed at the end of the statement: `ip` reads to its end.
        ip.stdin.take().context("no pipe to ip")?.write_all(lines.join("\n").as_bytes())?;
        let output = ip.wait_with_output()?;
        if !output.status.success() {
            bail!("{}\n{}", lines.join("\n"), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Sets a sysctl below `net/` inside the namespace.
    ///
    /// # Errors
    /// There is no such setting.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| std::fs::write(&path, value)).with_context(|| path.clone())
    }

    /// A path to the namespace, for programs of this process's children.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Lets a program start inside the namespace.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn place(&self, command: &mut Command) -> Result<()> {
        use std::os::unix::process::CommandExt as _;
        let file = self.file.try_clone()?;
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(move || setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
        }
        Ok(())
    }
}

/// Connects two namespaces with a veth pair: `left` and `right` name the devices, which come up.
///
/// # Errors
/// `ip` fails.
pub fn veth(a: &Netns, left: &str, b: &Netns, right: &str) -> Result<()> {
    a.ip(&format!("link add {left} type veth peer name {right} netns {}", b.path()))?;
    a.ip(&format!("link set {left} up"))?;
    b.ip(&format!("link set {right} up"))
}
