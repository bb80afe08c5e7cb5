//! Series of requests to servers that answer with their name (`server.rs`).
//!
//! Must not know: who translates the address that is asked.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use crate::client;
use crate::netns::Netns;

/// What a series of requests got, and how often: a server's name or the kind of the error.
pub type Answers = BTreeMap<String, usize>;

/// The transport of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One connection per request.
    Tcp,
    /// One unconnected socket and datagram per request.
    Udp,
}

/// Makes `count` requests from inside `netns`, one after the other, each with a socket of its own.
#[must_use]
pub fn ask(netns: &Netns, transport: Transport, target: SocketAddr, count: usize) -> Answers {
    netns.run(|| {
        let mut answers = Answers::new();
        for _ in 0..count {
            let answer = request(transport, target).unwrap_or_else(|error| format!("{:?}", error.kind()));
            *answers.entry(answer).or_default() += 1;
        }
        answers
    })
}

/// An answer counts only if it seems to come from the address that was asked.
fn request(transport: Transport, target: SocketAddr) -> io::Result<String> {
    let (name, from) = match transport {
        Transport::Tcp => client::ask_tcp(target)?,
        Transport::Udp => client::ask_udp(&client::udp_socket(target)?, target)?,
    };
    Ok(if from == target { name } else { format!("{name} as {from}") })
}
