//! Clients that ask all the time while a test does something else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use sheave_tests::probe::{Outcome, tcp, udp};

use crate::site::Site;

/// Pause of each client between two questions.
const BREATH: Duration = Duration::from_millis(5);

/// One thread for each client. Dropping it stops them.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<u32, String>>>,
}

impl Traffic {
    /// Starts a client for each place and destination, which asks over TCP and UDP by turns.
    pub(crate) fn start(site: &Site, ways: &[(&str, SocketAddr)]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |(place, to): &(&str, SocketAddr)| {
            let (name, to, stop) = (format!("{place} at {to}"), *to, Arc::clone(&stop));
            let work = move || keep_asking(to, &stop).map_err(|text| format!("{name}: {text}"));
            site.place(place).spawn(work).unwrap()
        };
        let threads = ways.iter().map(start).collect();
        Self { stop, threads }
    }

    /// How many questions were answered: all.
    pub(crate) fn end(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).map(|thread| thread.join().unwrap().unwrap()).sum()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn keep_asking(to: SocketAddr, stop: &AtomicBool) -> Result<u32, String> {
    let mut asked = 0;
    while !stop.load(Ordering::Relaxed) {
        for ask in [tcp, udp] {
            asked += 1;
            match Outcome::from(ask(to)) {
                Outcome::Answered(_) => sleep(BREATH),
                other => return Err(format!("question {asked}: {other:?}")),
            }
        }
    }
    Ok(asked)
}
