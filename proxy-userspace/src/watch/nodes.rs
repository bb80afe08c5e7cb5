//! From what is told of Nodes, of one or of all, to the agent's own Node and the set of all.
//!
//! Must not know where it is told.

use std::sync::Arc;

use proxy_core::{
    model::{Event, NodeObject},
    nodes::Nodes,
};
use tokio::sync::{mpsc, watch};

/// Where all Nodes are published: `None` before the first complete list.
pub type NodesSender = watch::Sender<Option<Arc<Nodes>>>;

/// A change of Nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodeEvent {
    /// All there are of those that are watched.
    Listed(Vec<NodeObject>),
    /// One was created or changed.
    Applied(NodeObject),
    /// One was deleted: its name.
    Deleted(String),
}

/// Hands on what is told of Nodes.
pub(super) struct NodeTeller {
    pub(super) node_name: String,
    pub(super) tx: mpsc::Sender<Event>,
    /// `None`: only the own Node is watched.
    pub(super) nodes: Option<NodesSender>,
}

impl NodeTeller {
    /// Until nobody tells, or nobody listens to `tx` any more.
    pub(super) async fn run(self, mut told: mpsc::Receiver<NodeEvent>) {
        let (mut known, mut own) = (Nodes::new(), None);
        loop {
            let event = tokio::select! {
                event = told.recv() => event,
                () = self.tx.closed() => None,
            };
            let Some(event) = event else { return };
            let changed = take(&mut known, event);
            let now = known.get(&self.node_name).cloned();
            if own.as_ref() != Some(&now) {
                own = Some(now.clone());
                if self.tx.send(Event::Node(now)).await.is_err() {
                    return;
                }
            }
            if let Some(nodes) = &self.nodes
                && (changed || nodes.borrow().is_none())
            {
                nodes.send_replace(Some(Arc::new(known.clone())));
            }
        }
    }
}

/// Returns whether anything that decides has changed: most changes of a Node are signs of life.
fn take(known: &mut Nodes, event: NodeEvent) -> bool {
    match event {
        NodeEvent::Listed(all) => {
            let all = all.into_iter().map(|node| (node.name.clone(), node)).collect();
            let before = std::mem::replace(known, all);
            before != *known
        }
        NodeEvent::Applied(node) if known.get(&node.name) == Some(&node) => false,
        NodeEvent::Applied(node) => {
            known.insert(node.name.clone(), node);
            true
        }
        NodeEvent::Deleted(name) => known.remove(&name).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeObject {
        NodeObject { name: name.to_owned(), ..NodeObject::default() }
    }

    #[tokio::test]
    async fn the_own_node_is_told_when_it_changed_and_the_set_whenever_one_did() {
        let (tx, mut rx) = mpsc::channel(8);
        let (nodes, mut all) = watch::channel(None);
        let (events, told) = mpsc::channel(8);
        let teller = NodeTeller { node_name: "n1".into(), tx, nodes: Some(nodes) };
        let task = tokio::spawn(teller.run(told));
        let mut names = async || {
            all.changed().await.unwrap();
            all.borrow_and_update().as_ref().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        events.send(NodeEvent::Listed(vec![])).await.unwrap();
        assert_eq!(rx.recv().await, Some(Event::Node(None)));
        assert!(names().await.is_empty());
        events.send(NodeEvent::Applied(node("n2"))).await.unwrap();
        assert_eq!(names().await, ["n2"]);
        events.send(NodeEvent::Applied(node("n1"))).await.unwrap();
        assert_eq!(rx.recv().await, Some(Event::Node(Some(node("n1")))));
        assert_eq!(names().await, ["n1", "n2"]);
        events.send(NodeEvent::Deleted("n2".into())).await.unwrap();
        assert_eq!(names().await, ["n1"]);
        assert!(rx.try_recv().is_err(), "nothing of the own Node changed");
        drop(rx);
        task.await.unwrap();
    }
}
