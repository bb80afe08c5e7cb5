//! The rules of `CategorizeEndpoints` as one table: policies, conditions, places and hints in; lists out.

use std::collections::BTreeSet;

use super::objects::{ELSEWHERE, HERE, conditions, endpoint, slice, view};
use crate::{
    desired::{
        Backend, Family,
        categorize::{Uses, categorize},
        endpoint::EndpointMap,
    },
    model::EndpointObject,
};

const CLUSTER: Uses = Uses { cluster: true, local: false };
const LOCAL: Uses = Uses { cluster: false, local: true };
const BOTH: Uses = Uses { cluster: true, local: true };
const NEITHER: Uses = Uses { cluster: false, local: false };

/// One endpoint in a word: `r`eady, `d`raining, `n`ot ready (serving), `g`one, or `p`ublished (ready while it
/// terminates), with absent conditions: `a`ll, all but `u`nready, all but unready and `t`erminating; then `+` here or `-` elsewhere; then hints: `n` for this node, `m` for another, `z` this zone, `y`
/// another zone. The position is the last byte of the address.
fn parse(index: usize, word: &str) -> EndpointObject {
    let mut letters = word.chars();
    let condition = letters.next().unwrap();
    let place = if letters.next() == Some('+') { HERE } else { ELSEWHERE };
    let base = endpoint(&format!("10.0.0.{}", index + 1), place);
    let mut object = match condition {
        'r' => conditions(base, true, true, false),
        'p' => conditions(base, true, false, true),
        'd' => conditions(base, false, true, true),
        'n' => conditions(base, false, true, false),
        'g' => conditions(base, false, false, true),
        'a' => base,
        'u' => EndpointObject { ready: Some(false), ..base },
        't' => EndpointObject { ready: Some(false), terminating: Some(true), ..base },
        other => panic!("unknown condition {other}"),
    };
    for letter in letters {
        match letter {
            'n' => object.for_nodes.push(HERE.to_owned()),
            'm' => object.for_nodes.push(ELSEWHERE.to_owned()),
            'z' => object.for_zones.push("z1".to_owned()),
            'y' => object.for_zones.push("z2".to_owned()),
            other => panic!("unknown hint {other}"),
        }
    }
    object
}

fn last_bytes(backends: &BTreeSet<Backend>) -> String {
    let last = |backend: &Backend| backend.address.to_string().rsplit('.').next().unwrap().to_owned();
    backends.iter().map(last).collect::<Vec<_>>().join(" ")
}

/// What is wanted: Cluster list, Local list, kept, whether any is usable anywhere.
type Case = (&'static str, Uses, &'static str, (&'static str, &'static str, &'static str, bool));

const CASES: &[Case] = &[
    // Policies alone.
    ("no endpoints at all", BOTH, "", ("", "", "", false)),
    ("Cluster takes ready ones everywhere", CLUSTER, "r+ r- n- g-", ("1 2", "", "1 2 3", true)),
    ("Local takes ready ones here", LOCAL, "r+ r- r+", ("", "1 3", "1 2 3", true)),
    ("both policies fill both lists", BOTH, "r+ r-", ("1 2", "1", "1 2", true)),
    ("neither list is used, yet usable ones are known", NEITHER, "r+", ("", "", "1", true)),
    (
        "Local with endpoints only elsewhere is empty but not without any",
        LOCAL,
        "r- r-",
        ("", "", "1 2", true),
    ),
    // Conditions.
    ("absent conditions mean ready", CLUSTER, "a+ a-", ("1 2", "", "1 2", true)),
    ("absent serving means serving", CLUSTER, "u+ t+", ("2", "", "1 2", true)),
    ("not ready and not terminating is never used", BOTH, "n+ n-", ("", "", "1 2", false)),
    ("terminating and not serving is never used nor kept", BOTH, "g+ g-", ("", "", "", false)),
    ("ready while terminating counts as ready", BOTH, "p+ d+ r-", ("1 3", "1", "1 2 3", true)),
    // Readiness tiers, each list for itself.
    ("draining only as long as none is ready", CLUSTER, "d+ d- n-", ("1 2", "", "1 2 3", true)),
    ("one ready one is enough to drop the draining", CLUSTER, "d+ d- r-", ("3", "", "1 2 3", true)),
    ("Local falls back although Cluster has ready ones", BOTH, "d+ r-", ("2", "1", "1 2", true)),
    ("Local falls back together with Cluster", BOTH, "d+ d-", ("1 2", "1", "1 2", true)),
    ("Local fallback never leaves the node", LOCAL, "d- g+", ("", "", "1", true)),
    ("a ready one elsewhere does not hold a draining one here back", LOCAL, "d+ r-", ("", "1", "1 2", true)),
    // Node hints.
    ("node hints narrow the Cluster list", CLUSTER, "r+n r-m", ("1", "", "1 2", true)),
    ("node hints narrow nothing in the Local list", BOTH, "r+n r+m r-m", ("1", "1 2", "1 2 3", true)),
    ("node hints without one for here narrow nothing", CLUSTER, "r-m r-m", ("1 2", "", "1 2", true)),
    ("one ready endpoint without a node hint voids them", CLUSTER, "r+n r-", ("1 2", "", "1 2", true)),
    (
        "a not-ready endpoint without a hint voids nothing",
        CLUSTER,
        "r+n r-m n- d-",
        ("1", "", "1 2 3 4", true),
    ),
    ("a hint on a not-ready endpoint alone is no hint", CLUSTER, "n+n r-m", ("2", "", "1 2", true)),
    ("an endpoint may be for several nodes", CLUSTER, "r-mn r-m", ("1", "", "1 2", true)),
    // Zone hints.
    ("zone hints narrow the Cluster list", CLUSTER, "r-z r-y r+y", ("1", "", "1 2 3", true)),
    ("zone hints narrow nothing in the Local list", BOTH, "r-z r+y", ("1", "2", "1 2", true)),
    ("zone hints without one for here narrow nothing", CLUSTER, "r-y r+y", ("1 2", "", "1 2", true)),
    ("one ready endpoint without a zone hint voids them", CLUSTER, "r-z r-", ("1 2", "", "1 2", true)),
    ("node hints go before zone hints", CLUSTER, "r+nz r-mz r-my", ("1", "", "1 2 3", true)),
    ("zone hints hold where node hints are for others", CLUSTER, "r-mz r-my", ("1", "", "1 2", true)),
    ("incomplete node hints leave zone hints", CLUSTER, "r+nz r-z r-my", ("1 2", "", "1 2 3", true)),
    // Hints and tiers.
    ("hints do not narrow the fallback", CLUSTER, "d+n d-m d-z", ("1 2 3", "", "1 2 3", true)),
    (
        "hints do not prefer a draining one here to a ready one there",
        CLUSTER,
        "d+z r-y",
        ("2", "", "1 2", true),
    ),
];

#[test]
fn endpoints_fall_into_lists_by_policy_condition_place_and_hint() {
    let node = view(&[]);
    for (what, uses, words, (cluster, local, keep, has_any)) in CASES {
        let objects = words.split_whitespace().enumerate().map(|(index, word)| parse(index, word)).collect();
        let slices = [slice("a-1", "a", objects)];
        let map = EndpointMap::merge(&slices, &node, &mut Vec::new());
        let found = categorize(map.get(Family::V4, "http", proxy_common::Protocol::Tcp).unwrap(), *uses);
        let lists = [&found.lists.cluster, &found.lists.local, &found.lists.keep].map(last_bytes);
        assert_eq!(lists, [*cluster, *local, *keep], "{what}");
        assert_eq!(found.has_any, *has_any, "{what}");
        assert!(found.lists.cluster.is_subset(&found.lists.keep), "{what}");
        assert!(found.lists.local.is_subset(&found.lists.keep), "{what}");
    }
}

#[test]
fn a_node_without_a_zone_ignores_zone_hints() {
    for zone in [None, Some(String::new())] {
        let mut object = super::objects::node(&[]);
        object.zone = zone;
        let (node, _) =
            crate::desired::NodeView::new(&super::objects::settings(), Some(&object), &BTreeSet::new());
        let mut odd = endpoint("10.0.0.2", ELSEWHERE);
        odd.for_zones.push(String::new());
        let slices = [slice("a-1", "a", vec![parse(0, "r-z"), odd])];
        let map = EndpointMap::merge(&slices, &node, &mut Vec::new());
        let found = categorize(map.get(Family::V4, "http", proxy_common::Protocol::Tcp).unwrap(), CLUSTER);
        assert_eq!(last_bytes(&found.lists.cluster), "1 2");
    }
}
