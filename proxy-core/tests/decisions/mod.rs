//! Properties of the desired state.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proxy_core::{
    desired::{
        DesiredService, Engine, Family, Frontend, FrontendKey, ListKind, ServicePortName, Settings, Warning,
        WarningReason,
    },
    model::{Event, ObjectName, Source},
};

use crate::{
    config,
    generate::{self, history, relisted, reordered, settings},
    reference::{Answer, Expected, World, expected, network_of},
};

type All = BTreeMap<ObjectName, DesiredService>;

/// What the crate says, in the words of the model.
pub fn told(all: &All) -> Expected {
    let mut result = Expected::default();
    for (name, service) in all {
        for port in &service.ports {
            assert_eq!(port.name.service, *name);
            for frontend in &port.frontends {
                let list = match frontend.list {
                    ListKind::Cluster => &port.lists.cluster,
                    ListKind::Local => &port.lists.local,
                };
                let answer = Answer {
                    owner: port.name.clone(),
                    kind: frontend.kind,
                    when_empty: list.is_empty().then_some(frontend.when_empty),
                    backends: list.clone(),
                    keep: port.lists.keep.clone(),
                    affinity_seconds: port.affinity_seconds,
                    source_ranges: frontend.source_ranges.iter().copied().map(network_of).collect(),
                    host_netns_only: frontend.host_netns_only,
                    owns_address: frontend.owns_address,
                };
                let other = result.frontends.insert(frontend.key, answer);
                assert_eq!(other, None, "{:?} has two owners", frontend.key);
            }
        }
        if let Some(check) = &service.health_check {
            result.health_checks.insert(name.clone(), (check.port, check.local_ready));
        }
    }
    result
}

/// What every desired state promises about its own form.
fn assert_well_formed(all: &All) {
    for service in all.values() {
        let order: Vec<_> = service.ports.iter().map(|port| (&port.name, port.family)).collect();
        assert!(order.is_sorted() && order.windows(2).all(|pair| pair[0] != pair[1]), "{order:?}");
        for port in &service.ports {
            let keys: Vec<FrontendKey> = port.frontends.iter().map(|frontend| frontend.key).collect();
            assert!(keys.is_sorted(), "{keys:?}");
            assert!(keys.iter().all(|key| Family::of(key.address) == port.family));
            assert!(keys.iter().all(|key| key.protocol == port.name.protocol));
            let lists = &port.lists;
            assert!(
                lists.keep.is_superset(&lists.cluster) && lists.keep.is_superset(&lists.local),
                "{lists:?}"
            );
            assert!(lists.keep.iter().all(|backend| Family::of(backend.address) == port.family));
        }
    }
}

fn engine_after(settings: &Settings, events: &[Event]) -> Engine {
    let mut engine = Engine::new(settings.clone());
    events.iter().for_each(|event| engine.handle(event.clone()));
    engine
}

pub fn world_after(events: &[Event]) -> World {
    let mut world = World::default();
    events.iter().for_each(|event| world.take(event));
    world
}

/// Takes over a result of [`Engine::refresh`].
fn merge(known: &mut All, engine: &mut Engine) {
    for (name, service) in engine.refresh() {
        match service {
            Some(service) => drop(known.insert(name, service)),
            None => drop(known.remove(&name)),
        }
    }
}

fn all_warnings(engine: &Engine) -> BTreeSet<Warning> {
    engine.warnings().cloned().collect()
}

/// The frontends of a Service by key, with the names of their ports.
fn frontends(service: &DesiredService) -> BTreeMap<FrontendKey, (&Frontend, &ServicePortName)> {
    let all =
        service.ports.iter().flat_map(|port| port.frontends.iter().map(|one| (one.key, (one, &port.name))));
    all.collect()
}

/// Asserts that between two states of the node only `culprits` changed, and what they hand to or take from others.
fn assert_only_changed(before: &All, after: &All, culprits: &BTreeSet<ObjectName>) {
    let keys_of = |all: &All| -> BTreeSet<FrontendKey> {
        culprits
            .iter()
            .filter_map(|name| all.get(name))
            .flat_map(|service| frontends(service).into_keys())
            .collect()
    };
    let contested: BTreeSet<FrontendKey> = keys_of(before).union(&keys_of(after)).copied().collect();
    let names = |all: &All| all.keys().filter(|name| !culprits.contains(*name)).cloned().collect::<Vec<_>>();
    assert_eq!(names(before), names(after));
    for name in names(before) {
        let (old, new) = (&before[&name], &after[&name]);
        assert_eq!(old.health_check, new.health_check);
        let (mut old_frontends, mut new_frontends) = (frontends(old), frontends(new));
        old_frontends.retain(|key, _| !contested.contains(key));
        new_frontends.retain(|key, _| !contested.contains(key));
        assert_eq!(old_frontends, new_frontends);
        let rest = |service: &DesiredService| {
            let ports =
                service.ports.iter().map(|port| (port.name.clone(), port.family, port.affinity_seconds));
            let lists = service.ports.iter().map(|port| port.lists.clone());
            let own =
                service.warnings.iter().filter(|warning| warning.reason != WarningReason::AddressConflict);
            (ports.collect::<Vec<_>>(), lists.collect::<Vec<_>>(), own.cloned().collect::<Vec<_>>())
        };
        assert_eq!(rest(old), rest(new));
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_frontend_answers_as_the_reference_model_says(settings in settings(), events in history(14)) {
        let all = engine_after(&settings, &events).all();
        assert_well_formed(&all);
        let (told, model) = (told(&all), expected(&world_after(&events), &settings));
        let keys = |expected: &Expected| expected.frontends.keys().copied().collect::<Vec<_>>();
        prop_assert_eq!(keys(&told), keys(&model));
        for (key, answer) in &model.frontends {
            prop_assert_eq!(&told.frontends[key], answer, "{:?}", key);
        }
        prop_assert_eq!(told.health_checks, model.health_checks);
    }

    #[test]
    fn the_order_in_which_objects_arrive_does_not_matter(
        settings in settings(), events in history(14), order in any::<[u8; 16]>(),
    ) {
        let (one, other) = (engine_after(&settings, &events), engine_after(&settings, &reordered(&events, &order)));
        prop_assert_eq!(one.all(), other.all());
    }

    #[test]
    fn following_changes_gives_what_a_fresh_look_gives(
        settings in settings(), events in history(14), looks in any::<u16>(),
    ) {
        let mut engine = Engine::new(settings.clone());
        let mut known = All::new();
        for (index, event) in events.iter().enumerate() {
            engine.handle(event.clone());
            if looks & (1 << index) != 0 {
                merge(&mut known, &mut engine);
                prop_assert_eq!(&known, &engine.all(), "after {} events", index + 1);
            }
        }
        merge(&mut known, &mut engine);
        prop_assert_eq!(&known, &engine.all());
        let mut fresh = engine_after(&settings, &relisted(&world_after(&events)));
        prop_assert!(fresh.is_complete(&[Source::Services, Source::Slices, Source::Node, Source::Addresses]));
        prop_assert_eq!(&known, &fresh.all());
        let mut learned = All::new();
        merge(&mut learned, &mut fresh);
        prop_assert_eq!(&known, &learned);
        prop_assert_eq!(all_warnings(&engine), all_warnings(&fresh));
    }

    #[test]
    fn a_relist_without_news_changes_nothing(settings in settings(), events in history(14)) {
        let mut engine = engine_after(&settings, &events);
        engine.refresh();
        let (before, warnings) = (engine.all(), all_warnings(&engine));
        relisted(&world_after(&events)).into_iter().for_each(|event| engine.handle(event));
        prop_assert_eq!(engine.refresh(), BTreeMap::new());
        prop_assert_eq!(engine.all(), before);
        prop_assert_eq!(all_warnings(&engine), warnings);
    }

    #[test]
    fn a_malformed_service_changes_only_itself(
        settings in settings(), events in history(12), index in any::<u8>(), genes in any::<[[u8; 30]; 3]>(),
    ) {
        let mut engine = engine_after(&settings, &events);
        let before = engine.all();
        let culprit = generate::garbage_service(index, &genes.concat());
        let culprits = BTreeSet::from([culprit.name.clone()]);
        engine.handle(Event::ServiceApplied(Box::new(culprit)));
        let after = engine.all();
        assert_well_formed(&after);
        told(&after);
        assert_only_changed(&before, &after, &culprits);
        let mut known = All::new();
        merge(&mut known, &mut engine);
        prop_assert_eq!(known, after);
    }

    #[test]
    fn a_malformed_slice_changes_only_the_services_it_names(
        settings in settings(), events in history(12), index in any::<u8>(), genes in any::<[[u8; 30]; 3]>(),
    ) {
        let mut engine = engine_after(&settings, &events);
        let before = engine.all();
        let slice = generate::garbage_slice(index, &genes.concat());
        let old = world_after(&events).slices.get(&slice.name).and_then(|slice| slice.service.clone());
        let owner = |name: Option<String>| name.map(|name| ObjectName::new(&slice.name.namespace, name));
        let culprits: BTreeSet<ObjectName> = owner(old).into_iter().chain(owner(slice.service.clone())).collect();
        engine.handle(Event::SliceApplied(Box::new(slice)));
        let after = engine.all();
        assert_well_formed(&after);
        told(&after);
        assert_only_changed(&before, &after, &culprits);
    }
}
