//! A steady stream of requests that counts every failure.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use sheave_tests::netns::Netns;

use crate::{http, manifests};

/// How many answers in a row prove that nobody else answers any more.
const PROOF: usize = 24;
/// How long a change may take to show.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    requests: AtomicU64,
    failures: AtomicU64,
    /// The last answers, newest last, each with the time its request began.
    recent: Mutex<Vec<(Instant, String)>>,
}

/// A running stream.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Stream {
    pub(crate) fn start(client: &Netns, address: SocketAddr) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        let thread = client.spawn(move || {
            while !inside.stop.load(Ordering::Relaxed) {
                inside.one(address);
                std::thread::sleep(Duration::from_micros(200));
            }
        })?;
        Ok(Self { shared, thread })
    }

    /// Waits until `expected` answer and nobody else does; returns how long that took, by the first answer after the
    /// last one from somebody else.
    pub(crate) fn wait_until_only(&self, expected: &BTreeSet<String>) -> Result<Duration> {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            if let Some(settled) = self.shared.settled(start, expected) {
                return Ok(settled);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("{expected:?} did not take over within {LIMIT:?}")
    }

    /// Ends the stream: requests and failures.
    pub(crate) fn stop(self) -> Result<(u64, u64)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the stream panicked"))?;
        Ok((self.shared.requests.load(Ordering::Relaxed), self.shared.failures.load(Ordering::Relaxed)))
    }
}

impl Shared {
    fn one(&self, address: SocketAddr) {
        let began = Instant::now();
        self.requests.fetch_add(1, Ordering::Relaxed);
        match http::get(address) {
            Ok(pod) => {
                let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
                recent.push((began, pod));
                let surplus = recent.len().saturating_sub(PROOF);
                recent.drain(..surplus);
            }
            Err(error) => {
                eprintln!("   a request failed: {error}");
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn settled(&self, since: Instant, expected: &BTreeSet<String>) -> Option<Duration> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let after: Vec<_> = recent.iter().filter(|(began, _)| *began > since).collect();
        let pods: BTreeSet<String> = after.iter().map(|(_, pod)| pod.clone()).collect();
        let first = after.first()?;
        (after.len() == PROOF && pods == *expected).then(|| first.0 - since)
    }
}

/// Asks until the Service refuses; the error and how long that one connect took.
pub(crate) fn wait_for_refusal() -> Result<(io::Error, Duration)> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        let connect = Instant::now();
        if let Err(error) = std::net::TcpStream::connect(manifests::web_v4()) {
            return Ok((error, connect.elapsed()));
        }
    }
    bail!("the Service was not refused within {LIMIT:?}")
}

/// Asks until the Service answers.
pub(crate) fn wait_for_answer() -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if http::get(manifests::web_v4()).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("the Service did not answer within {LIMIT:?}")
}
