//! Tells the packet path whose packets leave the cluster with the node's address, from the plans of the router and the
//! addresses that pods have.
//!
//! Must not know how a plan comes about, nor how a pod gets an address.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ipnetwork::IpNetwork;
use proxy_core::nodes::Plan;
use tokio::{sync::watch, task, time};
use tracing::warn;

use super::with_causes;
use crate::dataplane::{DataPlane, Masquerade};

/// Pause before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct MasqueradeKeeper {
    pub(super) data_plane: Arc<Mutex<DataPlane>>,
    /// Destinations that the administrator exempts besides.
    pub(super) exempt: Vec<IpNetwork>,
    pub(super) plans: watch::Receiver<Option<Arc<Plan>>>,
    /// The addresses of this node's pods.
    pub(super) held: watch::Receiver<Option<Arc<BTreeSet<IpAddr>>>>,
}

impl MasqueradeKeeper {
    /// Keeps on until nobody plans any more.
    pub(super) async fn run(mut self) {
        let mut told = None;
        loop {
            let wanted = self.wanted();
            let failed = match wanted.as_ref().filter(|_| wanted != told) {
                Some(prefixes) => self.tell(prefixes.clone()).await.err(),
                None => None,
            };
            match &failed {
                Some(reason) => warn!(reason, "cannot tell the prefixes of egress masquerade; trying again"),
                None => told = wanted,
            }
            tokio::select! {
                changed = self.plans.changed() => if changed.is_err() { return },
                changed = self.held.changed() => if changed.is_err() { return },
                () = time::sleep(RETRY), if failed.is_some() => {}
            }
        }
    }

    /// `None` until both are known.
    fn wanted(&mut self) -> Option<Masquerade> {
        let plan = self.plans.borrow_and_update().clone()?;
        let held = self.held.borrow_and_update().clone()?;
        let mut prefixes = prefixes(&plan, &self.exempt);
        add_pods(&mut prefixes, held.iter());
        Some(prefixes)
    }

    async fn tell(&self, prefixes: Masquerade) -> Result<(), String> {
        let data_plane = Arc::clone(&self.data_plane);
        let told = task::spawn_blocking(move || {
            let mut data_plane = data_plane.lock().unwrap_or_else(PoisonError::into_inner);
            data_plane.set_masquerade(&prefixes).map_err(|error| with_causes(&error))
        });
        told.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

/// Pods of every node see each other's addresses, and so do nodes to which packets go without a tunnel: through one, an
/// answer would come another way than the question went.
fn prefixes(plan: &Plan, exempt: &[IpNetwork]) -> Masquerade {
    let inside = plan.inside.difference(&plan.behind_tunnel);
    Masquerade { pods: plan.pod_cidrs.clone(), exempt: exempt.iter().chain(inside).copied().collect() }
}

/// Pods keep their addresses when the node gets another prefix, or its Node object goes.
fn add_pods<'a>(prefixes: &mut Masquerade, addresses: impl Iterator<Item = &'a IpAddr>) {
    let known = prefixes.pods.clone();
    let is_new = |address: &&IpAddr| !known.iter().any(|network| network.contains(**address));
    prefixes.pods.extend(addresses.filter(is_new).map(|address| IpNetwork::from(*address)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn pods_of_all_nodes_and_nodes_without_a_tunnel_see_a_pods_own_address() {
        let inside = ["10.244.1.0/24", "10.244.2.0/24", "192.0.2.12/32", "198.51.100.13/32"].map(network);
        // Whose routes they are does not matter: with `--routing=none` the plan has none.
        let mut plan =
            Plan { pod_cidrs: vec![network("10.244.1.0/24")], inside: inside.into(), ..Plan::default() };
        let told = prefixes(&plan, &[network("203.0.113.0/24")]);
        assert_eq!(told.pods, plan.pod_cidrs);
        let own = network("203.0.113.0/24");
        assert_eq!(told.exempt, [own, inside[0], inside[1], inside[2], inside[3]]);
        plan.behind_tunnel = [inside[3]].into();
        assert_eq!(prefixes(&plan, &[]).exempt, inside[..3]);
    }

    #[test]
    fn pods_outside_of_the_nodes_present_prefixes_stay_pods() {
        let mut told = Masquerade { pods: vec![network("10.244.9.0/24")], exempt: Vec::new() };
        let addresses: [IpAddr; 2] = ["10.244.9.7".parse().unwrap(), "10.244.1.2".parse().unwrap()];
        add_pods(&mut told, addresses.iter());
        assert_eq!(told.pods, ["10.244.9.0/24", "10.244.1.2/32"].map(network));
    }
}
