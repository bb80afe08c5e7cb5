//! Every scenario of the folder, on both paths; with `SCENARIO` in the environment only those whose name contains it.

use std::env;
use std::path::Path;
use std::time::Instant;

use sheave_tests::scenario::{Scenario, Translation, failures};
use sheave_tests::topology::Links;

use crate::site::{Site, translating};

fn read(wanted: impl Fn(&Scenario) -> bool) -> Vec<Scenario> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packet/scenarios");
    let mut scenarios = Scenario::read_all(&folder).unwrap();
    scenarios.retain(wanted);
    // Those with the same settings one after the other: agents need not be started again between them.
    scenarios.sort_by(|a, b| a.settings.cmp(&b.settings));
    scenarios
}

fn run(site: &mut Site, scenarios: Vec<Scenario>, path: Translation) {
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
    let losses = if failed.is_empty() { String::new() } else { site.losses() };
    assert!(failed.is_empty(), "{} failed:\n{}\n{losses}", failed.len(), failed.join("\n"));
}

fn run_all(path: Translation) {
    let name = env::var("SCENARIO").unwrap_or_default();
    let scenarios = read(|scenario| scenario.name.contains(&name));
    run(&mut Site::without_agents(Links::ETHERNET), scenarios, path);
}

#[test]
fn every_scenario_holds_where_sockets_are_translated() {
    run_all(Translation::Sockets);
}

#[test]
fn every_scenario_holds_where_packets_are_translated() {
    run_all(Translation::Packets);
}

/// Otherwise no checksum is computed before a packet leaves the machine, and nobody would see a wrong one.
#[test]
fn packets_have_the_right_checksum_when_somebody_looks() {
    let mut site = Site::without_agents(Links::ETHERNET);
    site.topology.compute_checksums().unwrap();
    let names = ["cluster", "hairpin", "host-network", "no-endpoints"];
    run(&mut site, read(|scenario| names.contains(&scenario.name.as_str())), Translation::Packets);
}
