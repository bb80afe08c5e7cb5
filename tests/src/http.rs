//! The plainest HTTP client: one GET, one answer.
//!
//! Must not know: who serves.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Status and body of an answer.
///
/// # Errors
/// Nobody answers in time, or something that is no HTTP.
pub(crate) fn ask(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without body")?;
    let status = head.split_whitespace().nth(1).context("an answer without status")?;
    Ok((status.parse()?, body.to_owned()))
}
