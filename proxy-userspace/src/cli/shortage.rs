//! Says in the log when the packet path drops because something of limited size is used up, and what to do.
//!
//! Must not know who uses it up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proxy_common::Counter;
use tokio::{task, time};
use tracing::warn;

use crate::dataplane::Observer;

/// Time between two looks at the counters.
const INTERVAL: Duration = Duration::from_secs(10);
/// After a line about a shortage so many looks pass before the next one about it: a minute.
const PAUSE: u32 = 6;

/// What can run out: the count of what was dropped for it, and the remedy.
const SHORTAGES: [(Counter, &str); 3] = [
    (
        Counter::DroppedFlowTableFull,
        "new connections are dropped: every place of the connection table that could be given up is held by an \
         established connection; raise --flows-max or lower --tcp-established-timeout",
    ),
    (
        Counter::DroppedNoSourcePort,
        "new connections are dropped: no source port is free towards a backend; widen --snat-ports, or spread the \
         clients over more nodes or the Service over more endpoints",
    ),
    (
        Counter::DroppedNoSourceAddress,
        "connections are dropped: the node has no address to send from to a backend elsewhere; give the device an \
         address of this family, or name the right devices with --devices",
    ),
];

/// Looks until the end of the process.
pub(super) async fn watch(observer: Arc<Observer>) {
    let mut ledger = Ledger::default();
    loop {
        let observer = Arc::clone(&observer);
        if let Ok(Ok(counts)) = task::spawn_blocking(move || observer.counters()).await {
            for (lost, remedy) in ledger.look(&counts) {
                warn!(dropped = lost, "{remedy}");
            }
        }
        time::sleep(INTERVAL).await;
    }
}

/// What was seen at the last look.
#[derive(Debug, Default)]
struct Ledger {
    known: BTreeMap<Counter, Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// At the last line, or at the first look.
    told: u64,
    /// Looks that pass before the next line.
    pause: u32,
}

impl Ledger {
    /// What has to be said: how much was dropped since it was said last, and the remedy. What was dropped before the
    /// first look was dropped under an earlier agent.
    fn look(&mut self, counts: &[(Counter, u64)]) -> Vec<(u64, &'static str)> {
        let mut lines = Vec::new();
        for (counter, remedy) in SHORTAGES {
            let Some((_, count)) = counts.iter().find(|(known, _)| *known == counter) else { continue };
            let known = self.known.entry(counter).or_insert(Known { told: *count, pause: 0 });
            if known.pause > 0 {
                known.pause -= 1;
            } else if *count > known.told {
                lines.push((count - known.told, remedy));
                *known = Known { told: *count, pause: PAUSE - 1 };
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_when_it_grows_and_then_once_a_minute() {
        let mut ledger = Ledger::default();
        let mut look =
            |count| ledger.look(&[(Counter::DroppedNoSourcePort, count), (Counter::FlowNew, count)]);
        assert!(look(5).is_empty(), "an earlier agent's");
        assert!(look(5).is_empty());
        let line = look(8);
        assert_eq!(line.iter().map(|(lost, _)| *lost).collect::<Vec<_>>(), [3]);
        assert!(line[0].1.contains("--snat-ports"));
        for _ in 1..PAUSE {
            assert!(look(20).is_empty());
        }
        assert_eq!(look(20)[0].0, 12);
        for _ in 0..2 * PAUSE {
            assert!(look(20).is_empty());
        }
    }
}
