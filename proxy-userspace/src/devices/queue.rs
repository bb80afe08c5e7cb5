//! Whether what leaves the node is kept by a queue until its time (`fq`), so that the guard may delay instead of drop.
//!
//! Must not know what is delayed.

use std::{fs, time::Duration};

use tracing::{info, warn};

use super::{netlink, snapshot::Snapshot};

/// How long a packet may wait where nobody says: long enough for a TCP to notice the delay, and shorter than its patience.
const USUAL: Duration = Duration::from_millis(200);
/// The queue that devices, and each of several queues of one, get by themselves.
const DEFAULT_QUEUE: &str = "/proc/sys/net/core/default_qdisc";

/// How long a packet may be delayed on this node, as it is now.
pub async fn pacing() -> Duration {
    let usual = fs::read_to_string(DEFAULT_QUEUE).unwrap_or_default();
    match netlink::read().await {
        Ok(snapshot) if keeps_times(&snapshot, usual.trim()) => {
            info!(patience = ?USUAL, "what leaves the node is queued by fq: pods' packets beyond a limit may wait");
            USUAL
        }
        Ok(_) => Duration::ZERO,
        Err(error) => {
            warn!(%error, "the queues of devices are not known; packets beyond a pod's limit are dropped");
            Duration::ZERO
        }
    }
}

/// Whether every device of a default route has the queue. One with several has `mq` above them, which tells nothing: then
/// what devices get by themselves counts.
fn keeps_times(snapshot: &Snapshot, usual: &str) -> bool {
    let devices = snapshot.default_routes.iter().map(|route| route.device);
    let mut queues =
        devices.map(|device| snapshot.links.get(&device).map(|link| link.queue.as_str())).peekable();
    queues.peek().is_some()
        && queues.all(|queue| queue == Some("fq") || (queue == Some("mq") && usual == "fq"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{DefaultRoute, Link};

    #[test]
    fn packets_may_wait_where_every_way_out_has_the_queue() {
        let cases: [(&[&str], &str, bool); 8] = [
            (&[], "fq", false),
            (&["fq"], "pfifo_fast", true),
            (&["fq", "fq"], "", true),
            (&["fq", "noqueue"], "fq", false),
            (&["fq_codel"], "fq_codel", false),
            (&["noqueue"], "fq", false),
            (&["mq"], "fq", true),
            (&["mq"], "fq_codel", false),
        ];
        for (queues, usual, expected) in cases {
            let mut snapshot = Snapshot::default();
            for (device, queue) in (1..).zip(queues) {
                snapshot.links.insert(device, Link { queue: (*queue).to_owned(), ..Link::default() });
                let route = DefaultRoute { device, is_v6: false, metric: 0, preferred_source: None };
                snapshot.default_routes.push(route);
            }
            assert_eq!(keeps_times(&snapshot, usual), expected, "{queues:?} {usual}");
        }
    }
}
