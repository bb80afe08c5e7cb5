//! What came of some tests on the kinds of clusters.
//!
//! Must not know: which tests these are and why.

use crate::e2e::list::{Entry, Verdict};
use crate::e2e::record::{Ending, Record};
use crate::spec::{Proxy, Spec};

/// A kind of cluster and its record.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// A letter and a number: `S1`, `K1`.
    pub(crate) label: String,
    /// What it is.
    pub(crate) spec: Spec,
    /// What came of the tests there.
    pub(crate) record: Record,
}

impl Cluster {
    /// Whether Sheave serves there; else kube-proxy does.
    pub(crate) fn is_sheave(&self) -> bool {
        self.spec.proxy == Proxy::Sheave
    }
}

/// How a test ended there; nothing if it has not run.
pub(crate) fn outcome<'a>(cluster: &'a Cluster, entry: &Entry) -> Option<&'a Ending> {
    cluster.record.lines.get(&entry.name).map(|line| &line.ending)
}

/// How many tests ended how on one cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// As they should.
    pub(crate) passed: usize,
    /// Otherwise.
    pub(crate) failed: usize,
    /// By themselves, as not applicable.
    pub(crate) skipped: usize,
    /// Not at all, as there are too few nodes.
    pub(crate) crowded: usize,
    /// Not at all, as the list leaves them out.
    pub(crate) left_out: usize,
    /// Not at all, although they could.
    pub(crate) missing: usize,
}

impl Tally {
    /// Of these tests.
    pub(crate) fn of(cluster: &Cluster, entries: &[&Entry]) -> Self {
        let mut tally = Self::default();
        for entry in entries {
            *tally.count(cluster, entry) += 1;
        }
        tally
    }

    /// Where a test counts.
    fn count(&mut self, cluster: &Cluster, entry: &Entry) -> &mut usize {
        match (outcome(cluster, entry), &entry.verdict) {
            (Some(Ending::Passed), _) => &mut self.passed,
            (Some(Ending::Failed), _) => &mut self.failed,
            (Some(Ending::Skipped(_)), _) => &mut self.skipped,
            (None, Verdict::Skip(_)) => &mut self.left_out,
            (None, Verdict::Nodes(needed)) if *needed > cluster.spec.nodes => &mut self.crowded,
            (None, _) => &mut self.missing,
        }
    }

    /// For a cell: how many of how many passed, and what of the others.
    pub(crate) fn words(self) -> String {
        let Self { passed, failed, skipped, crowded, left_out, missing } = self;
        let total = passed + failed + skipped + crowded + left_out + missing;
        if total == 0 {
            return "–".to_owned();
        }
        let others = [
            (failed, "**failed**"),
            (skipped, "not applicable"),
            (crowded, "for more nodes"),
            (left_out, "left out"),
            (missing, "not run"),
        ];
        let others = others.iter().filter(|(count, _)| *count > 0);
        let others: Vec<String> = others.map(|(count, word)| format!("{count} {word}")).collect();
        let separator = if others.is_empty() { "" } else { "; " };
        format!("{passed}/{total}{separator}{}", others.join(", "))
    }
}

/// What upstream's tests say of a feature with Sheave.
pub(crate) fn verdict(clusters: &[Cluster], entries: &[&Entry], has_own_tests: bool) -> &'static str {
    let ours: Vec<&Cluster> = clusters.iter().filter(|cluster| cluster.is_sheave()).collect();
    let any =
        |entry: &Entry, ending: &Ending| ours.iter().any(|cluster| outcome(cluster, entry) == Some(ending));
    let passed = entries.iter().filter(|entry| any(entry, &Ending::Passed)).count();
    let is_skip = |entry: &&Entry| matches!(entry.verdict, Verdict::Skip(_));
    match (passed, entries.len()) {
        _ if entries.iter().any(|entry| any(entry, &Ending::Failed)) => "**fails**",
        (0, _) if !entries.iter().all(is_skip) => "**not run**",
        (0, _) if has_own_tests => "own tests",
        (0, _) => "**untested**",
        (passed, total) if passed < total => "in part",
        _ => "passes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2e::list;

    /// A cluster with these lines in its record.
    fn cluster(label: &str, proxy: Proxy, lines: &str) -> Cluster {
        let spec = Spec { proxy, ..Spec::default() };
        Cluster { label: label.to_owned(), spec, record: Record::parse(lines).unwrap() }
    }

    #[test]
    fn a_cell_counts_what_did_not_pass_too() {
        let lines = "passed 2026-11-01 a\nfailed 2026-11-01 b\nskipped 2026-11-01 c -- why\n";
        let cluster = cluster("S1", Proxy::Sheave, lines);
        let words = |text: &str| {
            let entries = list::parse(text).unwrap();
            Tally::of(&cluster, &entries.iter().collect::<Vec<_>>()).words()
        };
        assert_eq!(words("run a"), "1/1");
        assert_eq!(words("run a\nrun b\nrun c\nrun d"), "1/4; 1 **failed**, 1 not applicable, 1 not run");
        assert_eq!(
            words("three c\nthree d\nskip e -- why"),
            "0/3; 1 not applicable, 1 for more nodes, 1 left out"
        );
        assert_eq!(words(""), "–");
    }

    #[test]
    fn one_failure_on_one_cluster_fails_the_feature_and_kube_proxys_do_not_count() {
        let clusters = [
            cluster("S1", Proxy::Sheave, "passed 2026-11-01 a\npassed 2026-11-01 b\n"),
            cluster("S2", Proxy::Sheave, "failed 2026-11-01 b\n"),
            cluster("K1", Proxy::KubeProxyNftables, "failed 2026-11-01 a\npassed 2026-11-01 c\n"),
        ];
        let said = |text: &str, own: bool| {
            let entries = list::parse(text).unwrap();
            verdict(&clusters, &entries.iter().collect::<Vec<_>>(), own)
        };
        let cases = [
            ("run a", false, "passes"),
            ("run a\nrun b", true, "**fails**"),
            ("run a\nskip c -- why", true, "in part"),
            ("run c", true, "**not run**"),
            ("skip c -- why", true, "own tests"),
            ("skip c -- why", false, "**untested**"),
            ("", true, "own tests"),
            ("", false, "**untested**"),
        ];
        for (text, own, expected) in cases {
            assert_eq!(said(text, own), expected, "{text}");
        }
    }
}
