//! The file from which the plugin learns what it must know of this node.
//!
//! Must not know how it was found out.

use std::{
    io,
    path::{Path, PathBuf},
};

use cni::facts::{FactsError, NodeFacts, Pins, VERSION};
use proxy_core::nodes::Plan;

use super::RoutingError;

/// The file, and what never changes in it.
#[derive(Clone, Debug)]
pub struct FactsFile {
    run_dir: PathBuf,
    node: String,
    pins: Pins,
}

impl FactsFile {
    /// In this run folder, for this node, with what is pinned.
    pub fn new(run_dir: &Path, node: String, pins: Pins) -> Self {
        Self { run_dir: run_dir.to_owned(), node, pins }
    }

    /// Says that nothing is known yet, unless an earlier agent said more: that is good enough to go on with.
    pub(super) fn begin(&self) -> io::Result<()> {
        if !matches!(NodeFacts::read(&self.run_dir), Err(FactsError::Missing(_))) {
            return Ok(());
        }
        let obstacle = format!("the agent has not heard of Node `{}` yet", self.node);
        self.facts(&Plan { obstacle: Some(obstacle), ..Plan::default() }).write(&self.run_dir)
    }

    /// Writes what follows from the plan, if that is not what the file says. Returns whether it was.
    pub(super) fn tell(&self, plan: &Plan, obstacle: Option<String>) -> io::Result<bool> {
        let facts = NodeFacts { obstacle: plan.obstacle.clone().or(obstacle), ..self.facts(plan) };
        if NodeFacts::read(&self.run_dir).is_ok_and(|told| told == facts) {
            return Ok(false);
        }
        facts.write(&self.run_dir)?;
        Ok(true)
    }

    pub(super) fn error(&self, source: io::Error) -> RoutingError {
        RoutingError::Facts { path: NodeFacts::path(&self.run_dir), source }
    }

    fn facts(&self, plan: &Plan) -> NodeFacts {
        NodeFacts {
            version: VERSION,
            node: self.node.clone(),
            pod_cidrs: plan.pod_cidrs.clone(),
            mtu: plan.mtu,
            pins: self.pins.clone(),
            node_addresses: plan.node_addresses.iter().copied().collect(),
            obstacle: plan.obstacle.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins() -> Pins {
        let path = PathBuf::from("/pins/any");
        Pins {
            schema: 1,
            endpoints: path.clone(),
            packet_only: path.clone(),
            guard_ingress: path.clone(),
            guard_egress: path.clone(),
            path: None,
        }
    }

    #[test]
    fn a_new_agent_says_that_it_knows_nothing_only_where_no_other_said_more() {
        let folder = tempfile::tempdir().unwrap();
        let file = FactsFile::new(folder.path(), "n1".into(), pins());
        let told = || NodeFacts::read(folder.path()).unwrap();
        file.begin().unwrap();
        assert!(told().obstacle.unwrap().contains("has not heard of Node `n1`"));
        let plan = Plan { mtu: 1450, pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()], ..Plan::default() };
        assert!(file.tell(&plan, None).unwrap());
        assert!(!file.tell(&plan, None).unwrap(), "nothing changed");
        file.begin().unwrap();
        assert_eq!((told().mtu, told().obstacle), (1450, None));
        assert!(file.tell(&plan, Some("in the way".into())).unwrap());
        assert_eq!(told().obstacle.as_deref(), Some("in the way"));
    }
}
