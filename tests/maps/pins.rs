//! Pins of another layout, another size, another agent.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use aya::maps::{HashMap, Map, MapData};
use proxy_common::{AffinityKey, AffinityValue};
use proxy_core::desired::Settings;
use proxy_core::entries::text::{self, Ids};
use proxy_userspace::dataplane::{Capacities, DataPlane, LinkAction, cleanup, inspect, lock_holder};
use proxy_userspace::metrics::Metrics;
use proxy_userspace::reconcile::Reconciler;

use crate::setup::{Site, cluster, dump, wanted, written};

type Affinity = HashMap<MapData, AffinityKey, AffinityValue>;

fn pins(site: &Site) -> Vec<PathBuf> {
    let mut pins: Vec<PathBuf> = fs::read_dir(site.host.bpffs.pins().join("maps"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    pins.sort();
    pins
}

fn pin(site: &Site, name: &str) -> PathBuf {
    let is = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{name}-"));
    pins(site).into_iter().find(is).unwrap()
}

#[test]
fn the_next_agent_opens_the_same_maps() {
    let site = Site::new();
    let mut plane = site.open();
    assert!(!plane.data.inherited());
    plane.apply(cluster()).unwrap();
    let (names, text) = (pins(&site), written(&mut plane));
    drop(plane);
    let mut next = site.open();
    assert!(next.data.inherited());
    assert_eq!((pins(&site), written(&mut next)), (names, text));
}

/// aya 0.14 opens any map it finds at a pin's path. A map of another size under our name must not be used.
#[test]
fn a_map_of_another_size_under_our_name_is_not_used() {
    let site = Site::new();
    let small = Capacities { services: 64, ..Capacities::default() };
    drop(site.open_with(small));
    let foreign = pin(&site, "services4");
    drop(site.open());
    let ours = pin(&site, "services4");
    assert_ne!(foreign, ours);
    // A third agent with the small size leaves a small map, which then takes the place of the large one's name.
    drop(site.open_with(small));
    fs::rename(&foreign, &ours).unwrap();

    let mut plane = site.open();
    plane.apply(cluster()).unwrap();
    assert_eq!(written(&mut plane), wanted(&plane.engine));
    let usage = plane.data.usage().unwrap();
    let services = usage.iter().find(|map| map.name == "services4").unwrap();
    assert_eq!(services.capacity, u64::from(Capacities::default().services));
}

#[test]
fn pins_of_other_sizes_are_removed_after_the_change_over() {
    let site = Site::new();
    drop(site.open_with(Capacities { services: 64, ..Capacities::default() }));
    let before = pins(&site);
    drop(site.open());
    let after = pins(&site);
    assert_eq!(before.len(), after.len());
    assert!(before.iter().any(|pin| !after.contains(pin)), "the service maps are new: {after:?}");
    let kept = |name: &str| {
        before
            .iter()
            .filter(|pin| after.contains(pin))
            .any(|pin| pin.ends_with(pin.file_name().unwrap()) && pin.to_string_lossy().contains(name))
    };
    assert!(kept("sock_peers") && kept("udp_flows"), "what sockets know outlives a change of size");
}

/// An agent with another capacity was stopped before its maps came into use.
#[test]
fn a_change_of_size_that_was_given_up_leaves_the_earlier_maps_whole() {
    let site = Site::new();
    let mut plane = site.open();
    plane.apply(cluster()).unwrap();
    let (names, text) = (pins(&site), written(&mut plane));
    drop(plane);
    let other = site.host.config(Capacities { services: 64, ..Capacities::default() });
    let given_up = site.lab.node.run(|| DataPlane::open(&other)).unwrap();
    assert!(!given_up.inherited());
    drop(given_up);
    assert!(names.iter().all(|name| pins(&site).contains(name)), "{names:?}");
    let seen =
        text::print(&text::of_dump(&inspect(&site.host.bpffs.pins()).unwrap().dump().unwrap(), Ids::Hidden));
    assert_eq!(seen, text, "who looks sees what is in use");

    let mut next = site.open();
    assert!(next.data.inherited());
    assert_eq!((pins(&site), written(&mut next)), (names, text));
}

/// The service maps refer to each other: they are all old or all new.
#[test]
fn a_missing_map_makes_the_whole_group_new() {
    let site = Site::new();
    let mut plane = site.open();
    plane.apply(cluster()).unwrap();
    drop(plane);
    fs::remove_file(pin(&site, "ring")).unwrap();
    let mut next = site.open();
    assert!(!next.data.inherited());
    assert!(dump(&mut next).services4.is_empty());
    next.apply(cluster()).unwrap();
    assert_eq!(written(&mut next), wanted(&next.engine));
}

/// A new Service may get the id of one that is gone: it must not inherit that one's clients.
#[test]
fn the_next_agent_forgets_the_clients_of_services_that_are_gone() {
    let site = Site::new();
    let mut plane = site.open();
    plane.apply(cluster()).unwrap();
    let live: BTreeSet<u32> = plane.planner.service_ids().collect();
    drop(plane);
    let data = MapData::from_pin(pin(&site, "affinity")).unwrap();
    let mut affinity: Affinity = HashMap::try_from(Map::LruHashMap(data)).unwrap();
    let gone = live.last().unwrap() + 1;
    for id in live.iter().copied().chain([gone, gone + 1]) {
        for family in [4, 6] {
            let value = AffinityValue { backend_id: 1, tag: 1, last_used_ns: 1 };
            affinity.insert(AffinityKey::of_netns(7, id, family), value, 0).unwrap();
        }
    }

    let config = site.host.config(Capacities::default());
    let next = site.lab.node.run(|| DataPlane::open(&config)).unwrap();
    let (settings, capacities) = (Settings::default(), proxy_core::diff::Capacities::default());
    let maps = next.clone_maps().unwrap();
    Reconciler::restore(settings, maps, capacities, Metrics::default(), Arc::default()).unwrap();
    let left: Vec<u32> = affinity.keys().map(|key| key.unwrap().service_id).collect();
    assert_eq!(left.len(), 2 * live.len());
    assert_eq!(left.into_iter().collect::<BTreeSet<_>>(), live);
}

#[test]
fn a_link_whose_pin_is_gone_is_made_again() {
    let site = Site::new();
    drop(site.open());
    fs::remove_file(site.host.bpffs.pins().join("links/connect4")).unwrap();
    let plane = site.open();
    for (program, action) in &plane.links {
        let expected = if *program == "connect4" { LinkAction::Created } else { LinkAction::Updated };
        assert_eq!(*action, expected, "{program}");
    }
}

#[test]
fn a_second_agent_is_refused_and_told_who_runs() {
    let site = Site::new();
    let plane = site.open();
    let config = site.host.config(Capacities::default());
    let Err(error) = site.lab.node.run(|| DataPlane::open(&config)) else {
        unreachable!("two agents at once")
    };
    let own = std::process::id().to_string();
    assert!(error.to_string().contains(&own), "{error}");
    assert_eq!(lock_holder(&config.lock_file).unwrap(), Some(std::process::id()));
    drop(plane);
    assert_eq!(lock_holder(&config.lock_file).unwrap(), None);
}

/// An agent in a container has a /run of its own.
#[test]
fn a_second_agent_with_another_run_folder_and_a_cleanup_are_refused_too() {
    let site = Site::new();
    let mut plane = site.open();
    plane.apply(cluster()).unwrap();
    let text = written(&mut plane);
    let elsewhere = tempfile::tempdir().unwrap();
    let mut config = site.host.config(Capacities::default());
    config.lock_file = elsewhere.path().join("agent.lock");
    let pins = site.host.bpffs.pins();
    let Err(second) = site.lab.node.run(|| DataPlane::open(&config)) else {
        unreachable!("two agents at once")
    };
    let own = format!("pid {}", std::process::id());
    for error in [second.to_string(), cleanup(&pins).unwrap_err().to_string()] {
        assert!(error.contains(&own) && error.contains("--pin-dir"), "{error}");
        assert!(error.contains(pins.to_str().unwrap()), "{error}");
    }
    assert_eq!(written(&mut plane), text);
    assert_eq!(fs::read_dir(pins.join("links")).unwrap().count(), plane.links.len());

    drop(plane);
    let next = site.lab.node.run(|| DataPlane::open(&config)).unwrap();
    assert!(next.inherited() && next.succeeds_another());
    drop(next);
    assert_eq!(cleanup(&pins).unwrap().errors, Vec::<String>::new());
    assert!(!pins.exists());
    assert!(!site.lab.node.run(|| DataPlane::open(&config)).unwrap().succeeds_another());
}

#[test]
fn every_map_reports_its_use_and_size() {
    let site = Site::new();
    let mut plane = site.open();
    plane.apply(cluster()).unwrap();
    let records = dump(&mut plane).services4.len() as u64;
    let usage = plane.data.usage().unwrap();
    assert_eq!(usage.len(), 24, "{usage:?}");
    let services = usage.iter().find(|map| map.name == "services4").unwrap();
    assert_eq!(services.used, Some(records));
    assert!(services.bytes.is_some_and(|bytes| bytes > 0));
}
