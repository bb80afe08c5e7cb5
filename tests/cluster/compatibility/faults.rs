//! What is wrong with the file of features: names that mean nothing, and tests that nothing names.
//!
//! Must not know: how the page looks.

use std::fs;
use std::path::Path;

use super::Inputs;
use super::features::{Feature, begins};
use super::tally::{Cluster, outcome};
use crate::e2e::list::{Entry, Verdict};
use crate::e2e::record::Ending;

/// Where the class `oracle` has the names of its Services and targets.
const ORACLE: &str = include_str!("../../oracle/services.rs");

/// Everything that is wrong, in sentences.
pub(crate) fn of(inputs: &Inputs) -> Vec<String> {
    let mut faults = unnamed(inputs);
    faults.extend(beginnings(inputs));
    faults.extend(twice(inputs));
    for feature in &inputs.features.feature {
        faults.extend(own(feature, &inputs.root));
        faults.extend(comparison(feature, &inputs.differences));
    }
    faults.extend(inputs.entries.iter().filter_map(|entry| unjust(entry, &inputs.clusters)));
    faults
}

/// Tests of the list that neither a feature nor a group names.
fn unnamed(inputs: &Inputs) -> Vec<String> {
    let is_named = |entry: &&Entry| inputs.features.beginnings().any(|beginning| begins(entry, beginning));
    let unnamed = inputs.entries.iter().filter(|entry| !is_named(entry));
    unnamed.map(|entry| format!("no feature and no group has the test {:?}", entry.name)).collect()
}

fn beginnings(inputs: &Inputs) -> Vec<String> {
    let is_dead = |beginning: &&String| !inputs.entries.iter().any(|entry| begins(entry, beginning));
    let dead = inputs.features.beginnings().filter(is_dead);
    dead.map(|beginning| format!("no test in the list begins with {beginning:?}")).collect()
}

fn twice(inputs: &Inputs) -> Vec<String> {
    let mut names: Vec<&String> = inputs.features.names().collect();
    names.sort();
    let pairs = names.windows(2).filter(|pair| pair.first() == pair.last());
    pairs.map(|pair| format!("two features are called {:?}", pair.first())).collect()
}

/// Own tests that are not there.
fn own(feature: &Feature, root: &Path) -> Vec<String> {
    let missing = feature.own.iter().filter(|own| {
        let (file, name) = own.split_once(' ').unwrap_or((own, ""));
        !fs::read_to_string(root.join(file)).is_ok_and(|text| has_test(file, &text, name))
    });
    missing.map(|own| format!("{}: there is no test {own:?}", feature.name)).collect()
}

/// Whether a file has this test: a function with the attribute, a case of the packet path's, or the file is one itself.
fn has_test(file: &str, text: &str, name: &str) -> bool {
    let is_source = Path::new(file).extension().is_some_and(|extension| extension == "rs");
    match (is_source, name) {
        (false, "") => true,
        (false, name) => text.lines().any(|line| line.strip_prefix("case ") == Some(name)),
        (true, name) => has_function(text, name),
    }
}

fn has_function(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let heads = lines.iter().enumerate().filter(|(_, line)| line.contains(&format!("fn {name}(")));
    heads.into_iter().any(|(at, _)| {
        let before = lines.get(..at).unwrap_or_default().iter().rev();
        let mut attributes = before.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        attributes.any(|line| line.contains("test]") || line.contains("test("))
    })
}

/// Names that the oracle does not know, and differences that its page does not have.
fn comparison(feature: &Feature, headings: &[String]) -> Vec<String> {
    let Feature { name, compared, differs, .. } = feature;
    let unknown = compared.iter().filter(|asked| !ORACLE.contains(&format!("\"{asked}\"")));
    let mut faults: Vec<String> =
        unknown.map(|asked| format!("{name}: the oracle has nothing called {asked:?}")).collect();
    let unlisted = differs.iter().filter(|heading| !headings.contains(heading));
    faults.extend(unlisted.map(|heading| format!("{name}: docs/differences.md has no section {heading:?}")));
    faults
}

/// A skip is allowed only where the test cannot run with kube-proxy either, which has to be shown.
fn unjust(entry: &Entry, clusters: &[Cluster]) -> Option<String> {
    let Verdict::Skip(_) = entry.verdict else { return None };
    let baselines = clusters.iter().filter(|cluster| !cluster.is_sheave());
    let endings: Vec<&Ending> = baselines.filter_map(|cluster| outcome(cluster, entry)).collect();
    let what = if endings.is_empty() {
        "nothing shows that it cannot run with kube-proxy: cargo xtask test e2e -- --skipped --record"
    } else if endings.contains(&&Ending::Passed) {
        "it passes with kube-proxy"
    } else {
        return None;
    };
    Some(format!("{:?} is skipped, but {what}", entry.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cargo_runs_counts_as_a_test() {
        let text =
            "#[test]\nfn a() {}\n\n#[tokio::test(flavor = \"x\")]\n// why\nasync fn b() {}\n\nfn c() {}\n";
        let has = |name: &str| has_test("x.rs", text, name);
        assert_eq!([has("a"), has("b"), has("c"), has("d"), has("")], [true, true, false, false, false]);
        assert!(has_test("x.txt", "case one two\n", "one two") && has_test("x.txt", "", ""));
        assert!(!has_test("x.txt", "case one two\n", "one"));
    }
}
