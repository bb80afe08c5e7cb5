//! Slices merged: copies, disagreements, ports that differ.

use proptest::prelude::*;

use super::{config, objects::*};
use crate::{
    desired::{Backend, Engine},
    model::{EndpointObject, Event, SliceObject, SlicePort},
};

fn cluster(slices: &[SliceObject]) -> Vec<String> {
    let found = desired(&service("a", &["10.96.0.1"]), slices);
    found.ports[0].lists.cluster.iter().map(Backend::to_string).collect()
}

#[test]
fn several_slices_add_up_and_copies_count_once() {
    let slices = [
        slice("a-1", "a", vec![endpoint("10.1.0.1", HERE), endpoint("10.1.0.2", ELSEWHERE)]),
        slice("a-2", "a", vec![endpoint("10.1.0.2", ELSEWHERE), endpoint("10.1.0.3", ELSEWHERE)]),
    ];
    assert_eq!(cluster(&slices), ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"]);
}

#[test]
fn the_target_port_may_differ_from_slice_to_slice() {
    let mut other = slice("a-2", "a", vec![endpoint("10.1.0.2", HERE), endpoint("10.1.0.1", HERE)]);
    other.ports = vec![slice_port("http", "TCP", 9090)];
    let slices = [slice("a-1", "a", vec![endpoint("10.1.0.1", HERE)]), other];
    assert_eq!(cluster(&slices), ["10.1.0.1:8080", "10.1.0.1:9090", "10.1.0.2:9090"]);
}

#[test]
fn when_copies_disagree_the_local_one_counts_then_the_more_usable_one() {
    let mut object = service("a", &["10.96.0.1"]);
    object.internal_policy = "Local".into();
    let there = slice("a-1", "a", vec![endpoint("10.1.0.1", ELSEWHERE)]);
    let here = slice("a-2", "a", vec![endpoint("10.1.0.1", HERE)]);
    for slices in [[there.clone(), here.clone()], [here, there.clone()]] {
        let found = desired(&object, &slices);
        assert_eq!(found.ports[0].lists.local.len(), 1);
        assert_eq!(found.ports[0].lists.keep, found.ports[0].lists.local);
        assert!(found.ports[0].lists.keep.iter().all(|backend| backend.local));
    }
    let dead = slice("a-2", "a", vec![conditions(endpoint("10.1.0.1", ELSEWHERE), false, false, true)]);
    for slices in [[there.clone(), dead.clone()], [dead, there]] {
        assert_eq!(cluster(&slices), ["10.1.0.1:8080"]);
    }
}

#[test]
fn ports_without_name_or_number_and_endpoints_without_address_are_passed_over() {
    let mut odd = slice("a-1", "a", vec![endpoint("10.1.0.1", HERE), EndpointObject::default()]);
    odd.ports = vec![
        SlicePort { name: None, ..slice_port("", "TCP", 1) },
        SlicePort { port: None, ..slice_port("http", "TCP", 1) },
        slice_port("http", "TCP", 0),
        SlicePort { protocol: None, ..slice_port("http", "", 8080) },
    ];
    let found = desired(&service("a", &["10.96.0.1"]), &[odd.clone()]);
    assert_eq!(cluster(&[odd]), ["10.1.0.1:8080"]);
    assert_eq!(complaints(&found), [""; 0]);
}

#[test]
fn an_unnamed_port_matches_an_unnamed_port_only() {
    let mut object = service("a", &["10.96.0.1"]);
    object.ports = vec![port("", "TCP", 80, 0)];
    let mut unnamed = slice("a-1", "a", vec![endpoint("10.1.0.1", HERE)]);
    unnamed.ports = vec![slice_port("", "TCP", 8080)];
    let named = slice("a-2", "a", vec![endpoint("10.1.0.2", HERE)]);
    let found = desired(&object, &[unnamed, named]);
    assert_eq!(rows(&found), ["ClusterIP 10.96.0.1:80/TCP internal -> 10.1.0.1:8080 | reject"]);
}

#[test]
fn only_the_first_address_of_an_endpoint_counts() {
    let mut several = endpoint("10.1.0.1", HERE);
    several.addresses.push("10.1.0.2".into());
    assert_eq!(cluster(&[slice("a-1", "a", vec![several])]), ["10.1.0.1:8080"]);
}

#[test]
fn slices_of_names_are_for_others() {
    let mut names = slice("a-1", "a", vec![endpoint("host.example", HERE)]);
    names.address_type = "FQDN".into();
    let found = desired(&service("a", &["10.96.0.1"]), &[names]);
    assert_eq!((found.ports[0].lists.keep.len(), complaints(&found).len()), (0, 0));
}

/// The controller moves an endpoint by two writes, in either order; at no point may it vanish if the new slice comes
/// first, nor stay if it is in neither.
#[test]
fn an_endpoint_moves_between_slices_in_either_order() {
    let moving = || endpoint("10.1.0.1", HERE);
    let staying = || endpoint("10.1.0.2", HERE);
    let before = [slice("a-1", "a", vec![moving(), staying()]), slice("a-2", "a", vec![])];
    let after = [slice("a-1", "a", vec![staying()]), slice("a-2", "a", vec![moving()])];
    for (order, halfway) in [([0, 1], 1), ([1, 0], 2)] {
        let mut engine = Engine::new(settings());
        engine.handle(applied(&service("a", &["10.96.0.1"])));
        before.iter().for_each(|slice| engine.handle(slice_applied(slice)));
        let mut counts = Vec::new();
        for index in order {
            engine.refresh();
            engine.handle(slice_applied(&after[index]));
            counts.push(engine.all()[&name("a")].ports[0].lists.cluster.len());
        }
        assert_eq!(counts, [halfway, 2]);
        engine.handle(Event::SliceDeleted(name("a-2")));
        assert_eq!(engine.all()[&name("a")].ports[0].lists.cluster.len(), 1);
    }
}

fn any_endpoint() -> impl Strategy<Value = EndpointObject> {
    let condition = || proptest::option::of(any::<bool>());
    let hints =
        || proptest::collection::vec(prop_oneof![Just("n1"), Just("n2"), Just("z1"), Just("z2")], 0..2);
    (0..4_u8, 0..3_u8, condition(), condition(), condition(), hints(), hints()).prop_map(
        |(address, place, ready, serving, terminating, zones, nodes)| EndpointObject {
            ready,
            serving,
            terminating,
            for_zones: strings(&zones),
            for_nodes: strings(&nodes),
            ..endpoint(&format!("10.1.0.{address}"), &format!("n{place}"))
        },
    )
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn neither_the_order_of_slices_nor_that_of_endpoints_matters(
        endpoints in proptest::collection::vec(any_endpoint(), 0..8),
        cut in 0..8_usize,
        local in any::<bool>(),
    ) {
        let mut object = service("a", &["10.96.0.1"]);
        object.internal_policy = if local { "Local" } else { "Cluster" }.into();
        let cut = cut.min(endpoints.len());
        let (first, second) = endpoints.split_at(cut);
        let (a, b) = (slice("a-1", "a", first.to_vec()), slice("a-2", "a", second.to_vec()));
        let wanted = desired(&object, &[a.clone(), b.clone()]);
        prop_assert_eq!(&desired(&object, &[b, a]), &wanted);
        let mut reversed = endpoints;
        reversed.reverse();
        prop_assert_eq!(&desired(&object, &[slice("a-3", "a", reversed)]), &wanted);
    }
}
