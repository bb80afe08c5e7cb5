//! Every scenario of the folder, on both paths; with `SCENARIO` in the environment only those whose name contains it.

use std::env;
use std::path::Path;
use std::time::Instant;

use sheave_tests::scenario::{Scenario, Translation, failures};
use sheave_tests::topology::Links;

use crate::site::{Site, translating};

fn run(path: Translation) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packet/scenarios");
    let mut scenarios = Scenario::read_all(&folder).unwrap();
    let wanted = env::var("SCENARIO").unwrap_or_default();
    scenarios.retain(|scenario| scenario.name.contains(&wanted));
    // Those with the same settings one after the other: agents need not be started again between them.
    scenarios.sort_by(|a, b| a.settings.cmp(&b.settings));
    let mut site = Site::without_agents(Links::ETHERNET);
    let (mut running, mut failed) = (None, Vec::new());
    for scenario in scenarios {
        if running.as_ref() != Some(&scenario.settings) {
            let own: Vec<&str> = scenario.settings.iter().map(String::as_str).collect();
            site.start_agents(&[translating(path), &own].concat());
            running = Some(scenario.settings.clone());
        }
        site.publish(&scenario.manifests);
        let start = Instant::now();
        let failures = failures(&site.topology, &scenario, path).unwrap();
        println!("{}: {} failed, {:.1} s", scenario.name, failures.len(), start.elapsed().as_secs_f64());
        failed.extend(failures);
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn every_scenario_holds_where_sockets_are_translated() {
    run(Translation::Sockets);
}

#[test]
fn every_scenario_holds_where_packets_are_translated() {
    run(Translation::Packets);
}
