//! Which endpoints a ServicePort's lists hold: kube-proxy's `CategorizeEndpoints`, rule for rule.
//!
//! Both lists take ready endpoints, or those which serve while they terminate if no ready one is left; each list
//! decides that for itself. Topology hints narrow the ready endpoints of the Cluster list only.
//!
//! Must not know frontends or addresses.

use std::collections::BTreeSet;

use super::{
    endpoint::{Condition, Endpoint, Endpoints, Hint},
    types::{Backend, BackendLists},
};

/// Which lists any frontend of a ServicePort can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Uses {
    /// The Cluster list.
    pub(super) cluster: bool,
    /// The Local list.
    pub(super) local: bool,
}

/// The lists of a ServicePort in one family.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Categorized {
    /// The lists.
    pub(super) lists: BackendLists,
    /// There is a usable endpoint somewhere in the cluster, whatever this node may use: decides reject or drop.
    pub(super) has_any: bool,
}

/// Sorts endpoints into lists. A list that is not used stays empty.
pub(super) fn categorize(endpoints: &Endpoints, uses: Uses) -> Categorized {
    let cluster = if uses.cluster { cluster_list(endpoints) } else { BTreeSet::new() };
    let local =
        if uses.local { tiered(endpoints, |_| true, |endpoint| endpoint.local) } else { BTreeSet::new() };
    let keep = select(endpoints, |endpoint| endpoint.condition >= Condition::Serving);
    let has_any = endpoints.values().any(|endpoint| endpoint.condition >= Condition::Draining);
    Categorized { lists: BackendLists { cluster, local, keep }, has_any }
}

fn cluster_list(endpoints: &Endpoints) -> BTreeSet<Backend> {
    match topology(endpoints) {
        Topology::Anywhere => tiered(endpoints, |_| true, |_| true),
        Topology::SameNode => tiered(endpoints, |endpoint| endpoint.node_hint == Hint::Here, |_| true),
        Topology::SameZone => tiered(endpoints, |endpoint| endpoint.zone_hint == Hint::Here, |_| true),
    }
}

/// The eligible endpoints of the best tier that has any; `preferred` narrows the ready tier only.
fn tiered(
    endpoints: &Endpoints,
    preferred: impl Fn(&Endpoint) -> bool,
    eligible: impl Fn(&Endpoint) -> bool,
) -> BTreeSet<Backend> {
    let ready =
        select(endpoints, |endpoint| eligible(endpoint) && endpoint.is_ready() && preferred(endpoint));
    if !ready.is_empty() {
        return ready;
    }
    select(endpoints, |endpoint| eligible(endpoint) && endpoint.condition == Condition::Draining)
}

fn select(endpoints: &Endpoints, wanted: impl Fn(&Endpoint) -> bool) -> BTreeSet<Backend> {
    let chosen = endpoints.iter().filter(|(_, endpoint)| wanted(endpoint));
    chosen
        .map(|((address, port), found)| Backend { address: *address, port: *port, local: found.local })
        .collect()
}

enum Topology {
    Anywhere,
    SameNode,
    SameZone,
}

/// Hints count only if every ready endpoint has one and at least one names this node (this zone): one endpoint
/// without a hint means that the controller has not caught up, and following the others would overload them.
fn topology(endpoints: &Endpoints) -> Topology {
    let followed = |hint: fn(&Endpoint) -> Hint| {
        let ready = || endpoints.values().filter(|endpoint| endpoint.is_ready()).map(hint);
        ready().all(|hint| hint != Hint::Absent) && ready().any(|hint| hint == Hint::Here)
    };
    if followed(|endpoint| endpoint.node_hint) {
        Topology::SameNode
    } else if followed(|endpoint| endpoint.zone_hint) {
        Topology::SameZone
    } else {
        Topology::Anywhere
    }
}
