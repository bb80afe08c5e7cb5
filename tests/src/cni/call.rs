//! One call of a plugin: its environment and input, and what came of it.
//!
//! Must not know: which plugin it is, nor what its answer should be.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::netns::Netns;

/// After this long a plugin hangs, and is killed.
const LIMIT: Duration = Duration::from_secs(30);

/// What a runtime sets and writes.
#[derive(Debug, Clone)]
pub struct Call {
    environment: BTreeMap<String, String>,
    input: Vec<u8>,
}

impl Call {
    /// A call of this verb with this network configuration and nothing else.
    #[must_use]
    pub fn new(verb: &str, config: &Value) -> Self {
        Self { environment: BTreeMap::new(), input: config.to_string().into_bytes() }.set("CNI_COMMAND", verb)
    }

    /// Sets a variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a variable out.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// Writes other input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// The input.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.input
    }
}

/// A plugin's program.
#[derive(Debug, Clone)]
pub struct Plugin {
    program: PathBuf,
}

impl Plugin {
    /// The program at this path.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }

    /// Its path.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The command that a runtime inside `node` starts.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn command(&self, node: &Netns, call: &Call) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(&call.environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        node.place(&mut command)?;
        Ok(command)
    }

    /// Calls it inside `node` and waits for its end.
    ///
    /// # Errors
    /// It cannot be started, or hangs.
    pub fn call(&self, node: &Netns, call: &Call) -> Result<Answer> {
        let mut command = self.command(node, call)?;
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        let pid = Pid::from_raw(child.id().try_into()?);
        let mut input = child.stdin.take().context("no pipe to the plugin")?;
        let (ended, watch) = mpsc::channel::<()>();
        let output = thread::scope(|scope| {
            let watchdog = scope.spawn(move || {
                let hangs = matches!(watch.recv_timeout(LIMIT), Err(mpsc::RecvTimeoutError::Timeout));
                hangs && kill(pid, Signal::SIGKILL).is_ok()
            });
            // A plugin that refuses may end before it has read: then nobody misses the rest.
            let _ = input.write_all(&call.input);
            drop(input);
            let output = child.wait_with_output();
            drop(ended);
            let hung = watchdog.join().unwrap_or(true);
            ensure!(!hung, "{} hung for {LIMIT:?}", self.program.display());
            Ok(output?)
        })?;
        Ok(Answer {
            status: output.status.code(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// What came of a call.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The exit status; `None`: ended by a signal.
    pub status: Option<i32>,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub log: String,
}

/// The error that a plugin answered with.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Its number in the specification.
    pub code: u64,
    /// Its words, details included.
    pub text: String,
    /// The whole document.
    pub document: Value,
}

impl Answer {
    /// The one JSON document on standard output; `None`: there is nothing.
    ///
    /// # Errors
    /// There is something else, or more than one.
    pub fn document(&self) -> Result<Option<Value>> {
        let mut documents = serde_json::Deserializer::from_str(&self.output).into_iter::<Value>();
        let first = documents.next().transpose().with_context(|| format!("no JSON: {self:?}"))?;
        ensure!(documents.next().is_none(), "more than one document: {self:?}");
        Ok(first)
    }

    /// What a call that succeeded printed.
    ///
    /// # Errors
    /// It failed, or printed an error or something else.
    pub fn success(&self) -> Result<Option<Value>> {
        let document = self.document()?;
        ensure!(self.status == Some(0), "failed: {self:?}");
        ensure!(
            document.as_ref().is_none_or(|it| it.get("code").is_none()),
            "exit 0 with an error: {self:?}"
        );
        Ok(document)
    }

    /// The result that a call which succeeded printed.
    ///
    /// # Errors
    /// As [`Answer::success`], or it printed nothing.
    pub fn result(&self) -> Result<Value> {
        self.success()?.with_context(|| format!("no result: {self:?}"))
    }

    /// Nothing was printed, and the call succeeded.
    ///
    /// # Errors
    /// Otherwise.
    pub fn silence(&self) -> Result<()> {
        match self.success()? {
            None => Ok(()),
            Some(document) => bail!("success says {document} instead of nothing"),
        }
    }

    /// The error that a call which failed printed.
    ///
    /// # Errors
    /// It succeeded, or printed no error as the specification has it.
    pub fn refusal(&self) -> Result<Refusal> {
        let document = self.document()?.with_context(|| format!("no error on standard output: {self:?}"))?;
        ensure!(!matches!(self.status, None | Some(0)), "should have failed: {self:?}");
        let code = document.get("code").and_then(Value::as_u64).context("the error has no code")?;
        let word = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        ensure!(!word("msg").is_empty(), "the error has no msg: {document}");
        Ok(Refusal { code, text: format!("{} {}", word("msg"), word("details")), document })
    }
}
