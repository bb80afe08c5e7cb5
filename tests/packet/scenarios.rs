//! Every scenario of the folder, on both paths.

use std::env;
use std::path::Path;
use std::time::Instant;

use sheave_tests::scenario::{Scenario, Translation, failures};
use sheave_tests::topology::Links;

use crate::site::{Site, translating};

/// The scenarios of a folder beside this file; with `SCENARIO` in the environment those whose name contains it.
pub(crate) fn read(folder: &str) -> Vec<Scenario> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packet").join(folder);
    let name = env::var("SCENARIO").unwrap_or_default();
    let mut scenarios = Scenario::read_all(&folder).unwrap();
    scenarios.retain(|scenario| scenario.name.contains(&name));
    // Those with the same settings one after the other: agents need not be started again between them.
    scenarios.sort_by(|a, b| a.settings.cmp(&b.settings));
    scenarios
}

/// Runs them on the site, whose agents are started with these settings and with those of each scenario.
pub(crate) fn run(site: &mut Site, settings: &[&str], scenarios: Vec<Scenario>, path: Translation) {
    let (mut running, mut failed) = (None, Vec::new());
    for scenario in scenarios {
        if running.as_ref() != Some(&scenario.settings) {
            let own: Vec<&str> = scenario.settings.iter().map(String::as_str).collect();
            site.start_agents(&[translating(path), settings, &own].concat());
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
    run(&mut Site::without_agents(Links::ETHERNET), &[], read("scenarios"), path);
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
    let mut scenarios = read("scenarios");
    scenarios.retain(|scenario| names.contains(&scenario.name.as_str()));
    run(&mut site, &[], scenarios, Translation::Packets);
}
