//! The text of the page.
//!
//! Must not know: where features, tests and results come from.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Inputs;
use super::features::{Feature, UPSTREAM, chosen};
use super::tally::{Cluster, Tally, outcome, verdict};
use crate::e2e::list::{Entry, Verdict};
use crate::e2e::record::Ending;

const HEAD: &str = "\
# Compatibility with kube-proxy

<!-- Written by `cargo xtask cluster compatibility` from tests/e2e/features.toml and tests/e2e/results: change those. -->

Each feature of Services that kube-proxy serves: whether Sheave does, what shows it, and what is different. Three things
show it:

- **Kubernetes' own tests**, those of [tests/e2e/network.txt](../tests/e2e/network.txt), on [real clusters](cluster.md)
  with Sheave and with the real kube-proxy.
- **The oracle**: `cargo xtask test oracle` asks the real kube-proxy and Sheave the same questions;
  [differences.md](differences.md) lists all that comes out otherwise.
- **Tests of this repository**, which CI runs with each change.
";

const CLUSTERS: &str = "
## Results

What was recorded last, by command: `cargo xtask test e2e -- --record` on the cluster that is up. With each change CI runs the
list on two nodes with Sheave's defaults, and conformance on three with VXLAN, `--socket-lb off` and IPv6 first, without
recording them. What was not run on a kind of cluster is counted as that.

| | proxy | cluster | Kubernetes | kernel | on | passed | failed | not applicable | not run |
| --- | --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: |
";

const FEATURES: &str = "
## Features

Numbers are upstream's tests that passed, of those that show the feature; [left out](#left-out) are those that cannot run
here with kube-proxy either. *in part*: some passed on no cluster with Sheave. *own tests*: upstream's list has none that can
run here. *same*: the oracle asks for it, and what differs, if anything, differs for each Service at that kind of address, and
is listed there. *not compared*: the oracle does not ask; what upstream's tests say of both is all there is.

";

const DETAILS: &str = "
## What shows each feature

Behind a test of upstream's are the clusters on which it passed.
";

/// The heading over the differences that have no section of their own.
const BESIDES: &str = "Besides";

const SKIPS: &str = "
## Left out

For a reason that holds for kube-proxy as well, which was tried.

| test | why | with kube-proxy |
| --- | --- | --- |
";

const STRAYS: &str = "
## Unknown

In the results, but not in the list:

";

/// The whole page.
pub(super) fn render(inputs: &Inputs) -> String {
    let mut page = HEAD.to_owned();
    page.push_str(CLUSTERS);
    page.extend(inputs.clusters.iter().map(|cluster| cluster_row(cluster, &inputs.entries)));
    page.push_str(&overview(inputs));
    page.push_str(&beside(inputs));
    page.push_str(DETAILS);
    page.extend(inputs.features.feature.iter().map(|feature| details(inputs, feature)));
    page.push_str(SKIPS);
    page.extend(inputs.entries.iter().filter_map(|entry| skip_row(entry, &inputs.clusters)));
    page.push_str(&strays(inputs));
    page
}

fn cluster_row(cluster: &Cluster, entries: &[Entry]) -> String {
    let tests: Vec<&Entry> =
        entries.iter().filter(|entry| !matches!(entry.verdict, Verdict::Skip(_))).collect();
    let Tally { passed, failed, skipped, crowded, left_out: _, missing } = Tally::of(cluster, &tests);
    let skipped = skipped + crowded;
    let failed = if failed == 0 { "0".to_owned() } else { format!("**{failed}**") };
    let head = &cluster.record.head;
    let (label, days) = (&cluster.label, days(cluster));
    format!(
        "| {label} | {} | {} | {} | {} | {days} | {passed} | {failed} | {skipped} | {missing} |\n",
        head.proxy, head.settings, head.kubernetes, head.kernel,
    )
}

/// The first and the last day on which one of its tests ran.
fn days(cluster: &Cluster) -> String {
    let mut dates: Vec<&str> = cluster.record.lines.values().map(|line| line.date.as_str()).collect();
    dates.sort_unstable();
    match (dates.first(), dates.last()) {
        (Some(first), Some(last)) if first != last => format!("{first} to {last}"),
        (first, _) => first.map_or_else(String::new, |day| (*day).to_owned()),
    }
}

fn table_head(first: &str, second: &str, clusters: &[Cluster], last: &str) -> String {
    let labels: Vec<&str> = clusters.iter().map(|cluster| cluster.label.as_str()).collect();
    let columns = format!("| {first} | {second}{} |{last}\n", labels.join(" | "));
    let count = columns.matches('|').count().saturating_sub(1);
    format!("{columns}|{}\n", " --- |".repeat(count))
}

fn overview(inputs: &Inputs) -> String {
    let head = table_head(
        "feature",
        "Sheave | ",
        &inputs.clusters,
        " against kube-proxy | weaker, or shown by less |",
    );
    let rows = inputs.features.feature.iter().map(|feature| feature_row(inputs, feature));
    format!("{FEATURES}{head}{}", rows.collect::<String>())
}

fn feature_row(inputs: &Inputs, feature: &Feature) -> String {
    let tests = chosen(&inputs.entries, &feature.upstream);
    let verdict = verdict(&inputs.clusters, &tests, !feature.own.is_empty());
    let (name, counts) = (link(&feature.name, "", &feature.name), counts(&inputs.clusters, &tests));
    let weaker = feature.weaker.as_deref().unwrap_or_default();
    format!("| {name} | {verdict} | {counts} | {} | {weaker} |\n", comparison(feature))
}

fn counts(clusters: &[Cluster], tests: &[&Entry]) -> String {
    let cells = clusters.iter().map(|cluster| Tally::of(cluster, tests).words());
    cells.collect::<Vec<_>>().join(" | ")
}

fn comparison(feature: &Feature) -> String {
    let links = feature.differs.iter().map(|title| {
        let text = if title == BESIDES { "what questions cannot show" } else { title };
        link(text, "differences.md", title)
    });
    let links = links.collect::<Vec<_>>().join("; ");
    match (feature.differs.is_empty(), feature.compared.is_empty()) {
        (true, true) => "not compared".to_owned(),
        (true, false) => "same".to_owned(),
        (false, _) => format!("differs: {links}"),
    }
}

fn beside(inputs: &Inputs) -> String {
    let rows = inputs.features.beside.iter().map(|group| {
        let tests = chosen(&inputs.entries, &group.upstream);
        format!("| {} | {} |\n", group.name, counts(&inputs.clusters, &tests))
    });
    let head = table_head("not a feature of Services", "", &inputs.clusters, "");
    format!("\nUpstream's list tests other things besides:\n\n{head}{}", rows.collect::<String>())
}

fn details(inputs: &Inputs, feature: &Feature) -> String {
    let mut text = format!("\n### {}\n\n{}\n", feature.name, feature.rule);
    let tests = chosen(&inputs.entries, &feature.upstream);
    if !tests.is_empty() {
        text.push_str("\nUpstream:\n\n");
        text.extend(tests.iter().map(|entry| test_line(entry, &inputs.clusters)));
    }
    if !feature.own.is_empty() {
        text.push_str("\nOur own:\n\n");
        text.push_str(&own_tests(&feature.own));
    }
    if !feature.compared.is_empty() {
        let asked = feature.compared.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        writeln!(text, "\nThe oracle asks {asked}: {}.", comparison(feature)).unwrap_or_default();
    }
    text
}

fn test_line(entry: &Entry, clusters: &[Cluster]) -> String {
    let labels = |wanted: fn(&Ending) -> bool| {
        let ended = clusters.iter().filter(|cluster| outcome(cluster, entry).is_some_and(wanted));
        ended.map(|cluster| cluster.label.as_str()).collect::<Vec<_>>().join(" ")
    };
    let parts = [
        (String::new(), labels(|ending| *ending == Ending::Passed), ""),
        ("**failed ".to_owned(), labels(|ending| *ending == Ending::Failed), "**"),
        ("not applicable on ".to_owned(), labels(|ending| matches!(ending, Ending::Skipped(_))), ""),
    ];
    let parts = parts.iter().filter(|(_, labels, _)| !labels.is_empty());
    let parts: Vec<String> =
        parts.map(|(before, labels, after)| format!("{before}{labels}{after}")).collect();
    let words = if parts.is_empty() { absence(entry).to_owned() } else { parts.join(", ") };
    format!("- {}: {words}\n", short(&entry.name))
}

/// Of a test that ran nowhere.
fn absence(entry: &Entry) -> &'static str {
    if matches!(entry.verdict, Verdict::Skip(_)) { "left out" } else { "**not run**" }
}

/// Without what all of them begin with, and with brackets that no renderer takes for a link's.
fn short(name: &str) -> String {
    name.strip_prefix(UPSTREAM).unwrap_or(name).replace('[', "\\[")
}

fn own_tests(own: &[String]) -> String {
    let mut files: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for one in own {
        let (file, name) = one.split_once(' ').unwrap_or((one, ""));
        let names = files.entry(file).or_default();
        names.extend((!name.is_empty()).then(|| format!("`{name}`")));
    }
    let lines = files.iter().map(|(file, names)| {
        let separator = if names.is_empty() { "" } else { ": " };
        format!("- [{file}](../{file}){separator}{}\n", names.join(", "))
    });
    lines.collect()
}

fn skip_row(entry: &Entry, clusters: &[Cluster]) -> Option<String> {
    let Verdict::Skip(reason) = &entry.verdict else { return None };
    let baselines = clusters.iter().filter(|cluster| !cluster.is_sheave());
    let tried = baselines.filter_map(|cluster| Some((&cluster.label, outcome(cluster, entry)?)));
    let words: Vec<String> = tried
        .map(|(label, ending)| match ending {
            Ending::Passed => format!("**passes** on {label}"),
            Ending::Failed => format!("fails on {label}"),
            Ending::Skipped(why) => format!("ends itself on {label}: {why}"),
        })
        .collect();
    let words = if words.is_empty() { "**not tried**".to_owned() } else { words.join("; ") };
    Some(format!("| {} | {reason} | {words} |\n", short(&entry.name)))
}

fn strays(inputs: &Inputs) -> String {
    let is_listed = |name: &str| inputs.entries.iter().any(|entry| entry.name == name);
    let strays: Vec<String> = inputs
        .clusters
        .iter()
        .flat_map(|cluster| cluster.record.lines.keys().map(move |name| (name, &cluster.label)))
        .filter(|(name, _)| !is_listed(name))
        .map(|(name, label)| format!("- {label}: {}\n", short(name)))
        .collect();
    if strays.is_empty() { String::new() } else { format!("{STRAYS}{}", strays.concat()) }
}

/// A link to a heading of a page.
fn link(text: &str, page: &str, heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    let anchor = kept.collect::<String>().to_lowercase().replace(' ', "-");
    format!("[{text}]({page}#{anchor})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_the_heading_as_git_hosts_name_it() {
        let heading = "NodePorts on loopback are a socket's, in both families";
        let expected = "[x](differences.md#nodeports-on-loopback-are-a-sockets-in-both-families)";
        assert_eq!(link("x", "differences.md", heading), expected);
    }
}
