//! Asks all questions of one proxy and notes what came of each.
//!
//! Must not know: what is right.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::str::FromStr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::{fmt, io, thread};

use sheave_tests::probe::{self, Answer, Connection, Outcome, udp_socket};
use sheave_tests::topology::{Place, Topology};

use crate::questions::{Question, series};
use crate::services::Target;

/// How many clients ask at the same time at one place: most of the time they wait.
const WORKERS: usize = 48;
/// So many turns that missing one of two backends in any of some thousand questions is one in a million.
const TURNS: usize = 32;
/// With affinity every turn gives the same.
const STICKY_TURNS: usize = 8;
/// Of one endpoint, and of none.
const LONE_TURNS: usize = 2;

const EINPROGRESS: i32 = nix::errno::Errno::EINPROGRESS as i32;
/// The ports that clients ask from: outside those of Services and of source address translation.
const FIRST_PORT: u16 = 33_000;
const PORTS: u16 = 28_000;

/// What came of one question, asked several times.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Outcomes(BTreeSet<Seen>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    /// Whom the server saw, and who it is.
    Answered {
        source: String,
        server: String,
    },
    Refused,
    Silent,
    Other(String),
}

/// What came of everything.
pub(crate) type Survey = BTreeMap<Question, Outcomes>;

/// Asks everything. A place's series are shared between its workers, each a thread in its namespace and cgroup.
pub(crate) fn survey(topology: &Topology) -> Survey {
    let mut by_place: BTreeMap<&str, Vec<Vec<Question>>> = BTreeMap::new();
    for questions in series() {
        by_place.entry(questions[0].row.client).or_default().push(questions);
    }
    let result = Mutex::new(Survey::new());
    thread::scope(|scope| {
        for (name, todo) in by_place {
            let place = topology.place(name).unwrap();
            let asker =
                Arc::new(Asker { topology, place, todo: Mutex::new(todo), ports: AtomicU16::default() });
            for _ in 0..WORKERS {
                let (asker, result) = (Arc::clone(&asker), &result);
                scope.spawn(move || place.run(|| asker.work(result)));
            }
        }
    });
    result.into_inner().unwrap()
}

/// All clients at one place.
struct Asker<'a> {
    topology: &'a Topology,
    place: &'a Place,
    todo: Mutex<Vec<Vec<Question>>>,
    ports: AtomicU16,
}

impl Asker<'_> {
    fn work(&self, result: &Mutex<Survey>) {
        loop {
            let Some(questions) = self.todo.lock().unwrap().pop() else { return };
            for question in questions {
                let outcomes = self.ask(question);
                result.lock().unwrap().insert(question, outcomes);
            }
        }
    }

    /// Until every endpoint has answered, or it is clear enough that no more will.
    fn ask(&self, question: Question) -> Outcomes {
        let service = question.row.service();
        let turns = match service.usable() {
            _ if service.is_sticky() => STICKY_TURNS,
            0 | 1 => LONE_TURNS,
            _ => TURNS,
        };
        let mut seen = BTreeSet::new();
        for turn in 1..=turns {
            let outcome = self.ask_once(question);
            let is_answer = matches!(outcome, Seen::Answered { .. });
            seen.insert(outcome);
            if !is_answer {
                // Whoever meets silence waits for long: the rest at the same time, in threads that inherit the place.
                seen.extend(at_once(turns - turn, || self.ask_once(question)));
                break;
            }
            if turn >= LONE_TURNS && seen.len() == service.usable() && !service.is_sticky() {
                break;
            }
        }
        if service.is_sticky() { Outcomes(anonymous(seen)) } else { Outcomes(seen) }
    }

    fn ask_once(&self, Question { row, way }: Question) -> Seen {
        let ask = |target: Target, port| {
            let to = target.socket(row.service, way.v6);
            if way.udp { udp(to, port) } else { tcp(to, port) }
        };
        let port = self.port();
        if let Some(first) = row.target.asked_first()
            && let Err(error) = ask(first, port)
        {
            return Seen::Other(format!("{} first: {error}", first.name()));
        }
        Seen::of(self.topology, self.place, ask(row.target, port))
    }

    /// One after the other, so that none is used twice.
    fn port(&self) -> u16 {
        loop {
            let port = FIRST_PORT + self.ports.fetch_add(1, Ordering::Relaxed) % PORTS;
            // Those of the proxies' own servers are passed over.
            if TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).is_ok() {
                return port;
            }
        }
    }
}

fn at_once(turns: usize, ask: impl Fn() -> Seen + Sync) -> Vec<Seen> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..turns).map(|_| scope.spawn(&ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// As [`sheave_tests::probe::tcp`], from this port, and reset, so that the port is free afterwards.
fn tcp(to: SocketAddr, port: u16) -> io::Result<Answer> {
    let connection = Connection::open_from(to, port)?;
    let answer = connection.answer;
    connection.reset()?;
    Ok(answer)
}

/// As [`sheave_tests::probe::udp`], from this port. Where a firewall refuses or drops what the own host sends, the call
/// that sends fails with the same error; only the next call tells the two apart.
fn udp(to: SocketAddr, port: u16) -> io::Result<Answer> {
    let socket = udp_socket(to, port)?;
    socket.connect(to)?;
    match probe::ask(&socket, b"who?") {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(socket.recv(&mut []).map_or_else(|e| e, |_| error))
        }
        result => result,
    }
}

/// Which endpoint has it is chance.
fn anonymous(seen: BTreeSet<Seen>) -> BTreeSet<Seen> {
    let one = seen.len() == 1;
    let rename = |seen| match seen {
        Seen::Answered { source, .. } if one => Seen::Answered { source, server: "one".to_owned() },
        other => other,
    };
    seen.into_iter().map(rename).collect()
}

impl Outcomes {
    /// The same with other sources, each by its server and the source it had.
    pub(crate) fn with_sources(&self, rename: impl Fn(&str, &str) -> String) -> Self {
        let replace = |seen: &Seen| match seen {
            Seen::Answered { server, source } => {
                Seen::Answered { source: rename(server, source), server: server.clone() }
            }
            other => other.clone(),
        };
        Self(self.0.iter().map(replace).collect())
    }
}

impl Seen {
    fn of(topology: &Topology, place: &Place, result: io::Result<Answer>) -> Self {
        // A call that waits for a connection says so when its patience ends.
        let result = result.map_err(|error| match error.raw_os_error() {
            Some(EINPROGRESS) => io::ErrorKind::TimedOut.into(),
            _ => error,
        });
        match Outcome::from(result) {
            Outcome::Answered(answer) => Self::Answered {
                source: if answer.seen.ip() == answer.client.ip() {
                    place.name.clone()
                } else {
                    name(topology, answer.seen.ip())
                },
                server: name(topology, answer.server.ip()),
            },
            Outcome::Refused => Self::Refused,
            Outcome::Silent => Self::Silent,
            Outcome::Other(text) => Self::Other(text),
        }
    }
}

/// Whose address that is.
fn name(topology: &Topology, address: IpAddr) -> String {
    let whose = topology.places().find(|place| place.addresses.both().contains(&address));
    whose.map_or_else(|| address.to_string(), |place| place.name.clone())
}

impl FromStr for Outcomes {
    type Err = Infallible;

    /// Reads what [`fmt::Display`] writes, but for errors.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let word = |word: &str| match (word, word.split_once('>')) {
            (_, Some((source, server))) => {
                Seen::Answered { source: source.to_owned(), server: server.to_owned() }
            }
            ("refused", _) => Seen::Refused,
            ("silent", _) => Seen::Silent,
            (other, _) => Seen::Other(other.to_owned()),
        };
        Ok(Self(text.split_whitespace().map(word).collect()))
    }
}

impl fmt::Display for Outcomes {
    /// Servers after what they take for the client: `client>1a node1>2a`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        out.write_str(&words.join(" "))
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { source, server } => write!(out, "{source}>{server}"),
            Self::Refused => out.write_str("refused"),
            Self::Silent => out.write_str("silent"),
            Self::Other(text) => write!(out, "[{text}]"),
        }
    }
}
