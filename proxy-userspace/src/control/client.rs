//! The command line's end of the control socket. Blocking: a command does one thing at a time.
//!
//! Must not know how an answer is shown.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::protocol::{Reply, Request};

/// An agent that does not answer for so long hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the agent is not running.
    #[error("no agent answers on {path}: {error}")]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The socket cannot be used; it is for root alone.
    #[error("cannot connect to {path}: {error}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the agent broke: {0}")]
    Broken(#[from] io::Error),
    /// The agent is of another version and says something else.
    #[error("the agent's answer is not understood ({0}); is it of another version?")]
    NotUnderstood(#[from] serde_json::Error),
    /// The agent says why it has no answer.
    #[error("the agent says: {0}")]
    Refused(String),
}

/// A connection to the agent, with one question asked.
#[derive(Debug)]
pub struct Client {
    replies: BufReader<UnixStream>,
}

impl Client {
    /// Asks the agent that listens on `path`.
    ///
    /// # Errors
    /// Nobody listens, or the connection broke.
    pub fn ask(path: &Path, request: &Request) -> Result<Self, ClientError> {
        let mut stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoAgent { path: path.to_owned(), error }
            }
            _ => ClientError::Unreachable { path: path.to_owned(), error },
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        Ok(Self { replies: BufReader::new(stream) })
    }

    /// Waits as long as it takes from now on: what comes next is an event.
    ///
    /// # Errors
    /// The connection broke.
    pub fn wait_for_ever(&self) -> Result<(), ClientError> {
        Ok(self.replies.get_ref().set_read_timeout(None)?)
    }

    /// The next answer; `None` when the agent ended the connection.
    ///
    /// # Errors
    /// The connection broke, or the agent has no answer.
    pub fn reply(&mut self) -> Result<Option<Reply>, ClientError> {
        let mut line = String::new();
        if self.replies.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match serde_json::from_str(&line)? {
            Reply::Error(error) => Err(ClientError::Refused(error)),
            reply => Ok(Some(reply)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    /// An agent that takes one question and says `lines`.
    fn agent(path: &Path, lines: &'static str) -> thread::JoinHandle<Request> {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut question = String::new();
            BufReader::new(&stream).read_line(&mut question).unwrap();
            stream.write_all(lines.as_bytes()).unwrap();
            serde_json::from_str(&question).unwrap()
        })
    }

    #[test]
    fn without_a_socket_there_is_no_agent() {
        let folder = tempfile::tempdir().unwrap();
        let error = Client::ask(&folder.path().join("control.sock"), &Request::Maps).unwrap_err();
        assert!(matches!(error, ClientError::NoAgent { .. }), "{error}");
    }

    #[test]
    fn a_socket_that_a_dead_agent_left_is_no_agent_either() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        let error = Client::ask(&path, &Request::Maps).unwrap_err();
        assert!(matches!(error, ClientError::NoAgent { .. }), "{error}");
    }

    #[test]
    fn answers_come_one_a_line_until_the_agent_ends_the_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let agent = agent(&path, "\"monitoring\"\n{\"error\":\"no room\"}\n");
        let mut client = Client::ask(&path, &Request::Monitor).unwrap();
        assert_eq!(client.reply().unwrap(), Some(Reply::Monitoring));
        assert!(matches!(client.reply(), Err(ClientError::Refused(reason)) if reason == "no room"));
        assert_eq!(client.reply().unwrap(), None);
        assert_eq!(agent.join().unwrap(), Request::Monitor);
    }

    #[test]
    fn an_answer_of_another_version_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let agent = agent(&path, "{\"weather\":\"fine\"}\n");
        let mut client = Client::ask(&path, &Request::Status).unwrap();
        assert!(matches!(client.reply(), Err(ClientError::NotUnderstood(_))));
        agent.join().unwrap();
    }
}
