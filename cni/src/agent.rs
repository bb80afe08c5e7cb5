//! The few words that the plugin and a running agent exchange.
//!
//! Must not know what the agent does with them.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde_json::{Value, json};
use thiserror::Error;

use crate::record::AttachmentId;

/// In the run folder: the file that a running agent has locked.
const LOCK: &str = "agent.lock";
/// In the run folder: where the agent listens.
const SOCKET: &str = "control.sock";
/// How long the plugin waits for an answer: the runtime waits for the plugin, and tries again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer, bytes.
const LONGEST_ANSWER: usize = 4096;

/// Why host ports are not served.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PortsError {
    /// They cannot be as they are asked for: to wait does not help.
    #[error("the agent says: {0}")]
    Refused(String),
    /// They are not yet, or the agent could not be asked.
    #[error("{0}")]
    NotYet(String),
}

/// Whether an agent runs: it holds a lock on `<run_dir>/agent.lock` as long as it lives.
pub fn is_running(run_dir: &Path) -> bool {
    let Ok(file) = File::open(run_dir.join(LOCK)) else { return false };
    // Held for a moment if it is free; a starting agent tries its lock several times.
    matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
}

/// How often a running agent calls [`sign_of_life`].
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// The agent's: notes that it lives, in the time of `<run_dir>/agent.lock`.
///
/// # Errors
/// There is no such file, or its time cannot be set.
pub fn sign_of_life(run_dir: &Path) -> io::Result<()> {
    File::options().write(true).open(run_dir.join(LOCK))?.set_modified(SystemTime::now())
}

/// Whether an agent gave a sign of life at most so long ago. One from the future is none: the clock was set.
pub fn lived_within(run_dir: &Path, age: Duration) -> bool {
    let last = fs::metadata(run_dir.join(LOCK)).and_then(|file| file.modified()).ok();
    last.and_then(|last| last.elapsed().ok()).is_some_and(|since| since <= age)
}

/// Has the agent serve the host ports of an attachment, and waits until it does, at most 2 s. On the control socket
/// `<run_dir>/control.sock`: a line `{"ask":"pod-ports","containerId":"...","ifname":"..."}`, answered by the line
/// `"done"`, `{"refused":"..."}` where the request has to be another, or `{"error":"..."}`.
///
/// # Errors
/// See [`PortsError`].
pub fn serve_ports(run_dir: &Path, id: &AttachmentId) -> Result<(), PortsError> {
    let question = json!({"ask": "pod-ports", "containerId": id.container_id, "ifname": id.ifname});
    let path = run_dir.join(SOCKET);
    let answer = ask(&path, &question, PATIENCE);
    let unasked = |error| format!("no answer from the agent on {}: {error}", path.display());
    judge(&answer.map_err(|error| PortsError::NotYet(unasked(error)))?)
}

fn judge(answer: &str) -> Result<(), PortsError> {
    let value: Value = serde_json::from_str(answer).unwrap_or_default();
    let said = |key| value.get(key).and_then(Value::as_str);
    match (said("refused"), said("error")) {
        _ if value == "done" => Ok(()),
        (Some(reason), _) => Err(PortsError::Refused(reason.to_owned())),
        (None, Some(error)) => Err(PortsError::NotYet(format!("the agent says: {error}"))),
        (None, None) => Err(PortsError::NotYet(format!(
            "the agent's answer `{}` is not understood: is it of another version?",
            answer.trim()
        ))),
    }
}

/// One line there, one line back.
fn ask(path: &Path, question: &Value, patience: Duration) -> io::Result<String> {
    let end = Instant::now() + patience;
    let mut stream = UnixStream::connect(path)?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(format!("{question}\n").as_bytes())?;
    let (mut answer, mut piece) = (Vec::new(), [0; 512]);
    while !answer.contains(&b'\n') && answer.len() < LONGEST_ANSWER {
        // A duration of zero would mean for ever.
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => answer.extend(piece.iter().take(count)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing for {patience:?}")));
            }
            Err(error) => return Err(error),
        }
    }
    String::from_utf8(answer).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::OpenOptions,
        io::{BufRead as _, BufReader},
        os::unix::net::UnixListener,
        thread::{self, JoinHandle},
    };

    use tempfile::TempDir;

    use super::*;

    fn id() -> AttachmentId {
        AttachmentId { container_id: "c1".into(), ifname: "eth0".into() }
    }

    /// Takes one question and says `answer`.
    fn agent(folder: &Path, answer: &'static str) -> JoinHandle<String> {
        let listener = UnixListener::bind(folder.join(SOCKET)).unwrap();
        thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut question = String::new();
            BufReader::new(&stream).read_line(&mut question).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            question
        })
    }

    #[test]
    fn an_agent_runs_as_long_as_somebody_holds_the_lock() {
        let folder = TempDir::new().unwrap();
        assert!(!is_running(folder.path()));
        let open = || OpenOptions::new().create(true).append(true).open(folder.path().join(LOCK)).unwrap();
        let held = Flock::lock(open(), FlockArg::LockExclusiveNonblock).unwrap();
        assert!(is_running(folder.path()));
        drop(held);
        assert!(!is_running(folder.path()));
        assert!(Flock::lock(open(), FlockArg::LockExclusiveNonblock).is_ok(), "the question left a lock");
    }

    #[test]
    fn a_sign_of_life_counts_for_a_while_and_one_from_the_future_does_not() {
        let folder = TempDir::new().unwrap();
        let minute = Duration::from_mins(1);
        assert!(!lived_within(folder.path(), minute) && sign_of_life(folder.path()).is_err());
        let file = File::create(folder.path().join(LOCK)).unwrap();
        for (modified, lived) in [
            (SystemTime::now() - minute / 2, true),
            (SystemTime::now() - minute * 2, false),
            (SystemTime::now() + minute / 2, false),
        ] {
            file.set_modified(modified).unwrap();
            assert_eq!(lived_within(folder.path(), minute), lived, "{modified:?}");
        }
        sign_of_life(folder.path()).unwrap();
        assert!(lived_within(folder.path(), minute));
    }

    #[test]
    fn the_question_names_the_attachment_and_done_is_the_answer() {
        let folder = TempDir::new().unwrap();
        let agent = agent(folder.path(), "\"done\"\n");
        serve_ports(folder.path(), &id()).unwrap();
        let question: Value = serde_json::from_str(&agent.join().unwrap()).unwrap();
        assert_eq!(question, json!({"ask": "pod-ports", "containerId": "c1", "ifname": "eth0"}));
    }

    #[test]
    fn whatever_is_not_done_is_an_error_with_the_agents_words() {
        for (answer, words) in [
            ("{\"error\":\"port 80 is taken\"}\n", "port 80 is taken"),
            ("{\"status\":{}}\n", "not understood"),
            ("", "not understood"),
        ] {
            let folder = TempDir::new().unwrap();
            let agent = agent(folder.path(), answer);
            let error = serve_ports(folder.path(), &id()).unwrap_err();
            assert!(matches!(error, PortsError::NotYet(_)) && error.to_string().contains(words), "{error}");
            agent.join().unwrap();
        }
    }

    #[test]
    fn what_the_agent_refuses_is_told_from_what_it_has_not_done_yet() {
        let error = judge("{\"refused\":\"no address of this node\"}\n").unwrap_err();
        assert_eq!(error, PortsError::Refused("no address of this node".into()));
    }

    #[test]
    fn an_agent_that_is_not_there_or_hangs_is_an_error() {
        let folder = TempDir::new().unwrap();
        let error = serve_ports(folder.path(), &id()).unwrap_err();
        assert!(error.to_string().contains("control.sock"), "{error}");
        let path = folder.path().join(SOCKET);
        let _silent = UnixListener::bind(&path).unwrap();
        let error = ask(&path, &json!({}), Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
