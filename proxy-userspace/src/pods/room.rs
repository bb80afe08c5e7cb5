//! How many pod addresses this node has left, and telling when there were none.
//!
//! Must not know how addresses are chosen, nor how a warning is published.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use cni::{
    facts::NodeFacts,
    store::{Exhaustion, Room, Store, StoreError},
};
use ipnetwork::IpNetwork;
use proxy_core::{
    desired::{Warning, WarningReason},
    model::ObjectName,
};
use tokio::{task, time};
use tracing::warn;

/// Time between two looks at whether a pod was refused.
const INTERVAL: Duration = Duration::from_secs(5);

/// How full the node's ranges are. None before the agent knows them.
///
/// # Errors
/// The plugin's files cannot be read.
pub fn of_node(run_dir: &Path) -> Result<Vec<Room>, StoreError> {
    let ranges = NodeFacts::read(run_dir).map(|facts| facts.pod_cidrs).unwrap_or_default();
    Store::open(run_dir)?.room(&ranges)
}

/// The pods that were refused for want of an address, since the node was started.
///
/// # Errors
/// The plugin's files cannot be read.
pub fn refused(run_dir: &Path) -> Result<Exhaustion, StoreError> {
    Store::open(run_dir)?.exhaustion()
}

/// Tells in the log, and as a warning about the Node, whenever more pods were refused. Keeps on for ever.
pub async fn watch(run_dir: PathBuf, node_name: String, tell: impl Fn(&Warning) + Send) {
    let mut known = None;
    loop {
        let folder = run_dir.clone();
        if let Ok(Ok(now)) = task::spawn_blocking(move || refused(&folder)).await {
            if let Some(more) = since(known, &now) {
                let ranges = texts(&now.ranges);
                warn!(ranges, pods = more, "no pod address was free: pods were refused, and are tried again");
                tell(&warning(&node_name, &ranges));
            }
            known = Some(now.count);
        }
        time::sleep(INTERVAL).await;
    }
}

/// How many more were refused. What was refused before the first look was told by an earlier agent, or is no news.
fn since(known: Option<u64>, now: &Exhaustion) -> Option<u64> {
    now.count.checked_sub(known?).filter(|more| *more > 0)
}

/// Always in the same words: it is published once in a while only.
fn warning(node_name: &str, ranges: &str) -> Warning {
    Warning {
        kind: "Node",
        object: ObjectName::new("", node_name),
        field: "spec.podCIDRs".to_owned(),
        reason: WarningReason::NoPodAddress,
        message: format!(
            "every address of {ranges} is some pod's: new pods wait. Remove pods, lower the kubelet's maxPods, or give the \
             node a larger prefix (--node-cidr-mask-size of the controller manager)"
        ),
    }
}

fn texts(ranges: &[IpNetwork]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use cni::{record::Attachment, store::Wish};

    use super::*;
    use crate::pods::sample::attachment;

    #[test]
    fn what_was_refused_before_the_first_look_is_no_news() {
        let now = |count| Exhaustion { count, ..Exhaustion::default() };
        assert_eq!(since(None, &now(3)), None);
        assert_eq!((since(Some(3), &now(3)), since(Some(3), &now(5))), (None, Some(2)));
        assert_eq!(since(Some(3), &now(0)), None, "the node was started again");
    }

    #[tokio::test]
    async fn a_refusal_is_told_of_the_node_with_its_ranges() {
        let folder = tempfile::tempdir().unwrap();
        let told: Arc<Mutex<Vec<Warning>>> = Arc::default();
        let (sink, run_dir) = (Arc::clone(&told), folder.path().to_owned());
        let watching =
            tokio::spawn(watch(run_dir, "n1".to_owned(), move |it| sink.lock().unwrap().push(it.clone())));
        time::sleep(Duration::from_millis(300)).await;
        let store = Store::open(folder.path()).unwrap();
        let wish = Wish { ranges: vec!["10.1.0.0/32".parse().unwrap()], ..Wish::default() };
        let pod = |container: &str| Attachment { addresses: Vec::new(), ..attachment(container, "web") };
        store.reserve(pod("a"), &wish).unwrap();
        store.reserve(pod("b"), &wish).unwrap_err();
        time::timeout(Duration::from_secs(20), async {
            while told.lock().unwrap().is_empty() {
                time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .unwrap();
        let warning = told.lock().unwrap()[0].clone();
        assert_eq!((warning.kind, warning.reason), ("Node", WarningReason::NoPodAddress));
        assert!(warning.message.contains("10.1.0.0/32"), "{}", warning.message);
        watching.abort();
    }
}
