//! What the tests gave on one kind of cluster, kept in the repository: a file for each kind, with a head and a line for
//! each test.
//!
//! A run adds to what earlier ones of the same programs left. Must not know: what a test is about.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::sys::utsname::uname;

use super::list::{self, Entry};
use super::report::{self, Outcome};
use crate::layout::Folders;
use crate::spec::{Proxy, Spec};

/// The folder of the files, from the root of the repository.
pub(crate) const FOLDER: &str = "tests/e2e/results";

const REMARK: &str =
    "# What Kubernetes' network tests gave. Written by `cargo xtask cluster record`, not by hand.";
/// Between a test and why it ended itself.
const REASON: &str = " -- ";
/// Enough for a reason that somebody wrote down.
const REASON_LIMIT: usize = 200;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As it should.
    Passed,
    /// In any other way than the two others.
    Failed,
    /// By itself, as not applicable: with its reason.
    Skipped(String),
}

/// How and when a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// How.
    pub(crate) ending: Ending,
    /// The day: `2026-11-23`.
    pub(crate) date: String,
}

/// What was tested, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The program and its version.
    pub(crate) proxy: String,
    /// What of the cluster was chosen.
    pub(crate) settings: String,
    /// The version of Kubernetes.
    pub(crate) kubernetes: String,
    /// The kernel's first two numbers; more would name a machine.
    pub(crate) kernel: String,
}

/// A file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// What was tested.
    pub(crate) head: Head,
    /// By the test's whole name.
    pub(crate) lines: BTreeMap<String, Line>,
}

/// Adds the results in a folder, which bears the title of their cluster, to the file of that kind of cluster.
///
/// # Errors
/// The folder's name is no title, there is no report in it, or a file cannot be read or written.
pub(crate) fn keep(folders: &Folders, results: &Path) -> Result<()> {
    let title = results.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let spec = Spec::of_title(&title)
        .with_context(|| format!("{} is not named after a kind of cluster", results.display()))?;
    let outcomes = report::read(&results.join("report.json"))?;
    let path = folders.repository(FOLDER).join(format!("{title}.txt"));
    let kept = if path.exists() { Record::read(&path)? } else { Record::default() };
    let record = kept.with(Head::now(&spec)?, &outcomes, &list::of_repository()?);
    fs::create_dir_all(folders.repository(FOLDER))?;
    fs::write(&path, record.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("{}: {} tests", path.display(), record.lines.len());
    Ok(())
}

/// The folders that test runs left and that have a report.
///
/// # Errors
/// There are none.
pub(crate) fn found(folders: &Folders) -> Result<Vec<PathBuf>> {
    let root = folders.results_root();
    let files = fs::read_dir(&root).with_context(|| format!("no test run has left {}", root.display()))?;
    let paths = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.join("report.json").exists()).collect())
}

/// All records of a repository, by the titles of their clusters.
///
/// # Errors
/// A file cannot be read, or is none of these.
pub(crate) fn all(folders: &Folders) -> Result<BTreeMap<String, Record>> {
    let files = fs::read_dir(folders.repository(FOLDER)).context("no results are recorded")?;
    let mut records = BTreeMap::new();
    for file in files {
        let path = file?.path();
        let title = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        records.insert(title, Record::read(&path)?);
    }
    Ok(records)
}

impl Head {
    /// Of tests on this machine with the programs of this repository.
    fn now(spec: &Spec) -> Result<Self> {
        let kubernetes = kubernetes_version().context("go.mod does not name k8s.io/kubernetes")?;
        let proxy = match spec.proxy {
            Proxy::Sheave => format!("Sheave {}", env!("CARGO_PKG_VERSION")),
            Proxy::KubeProxyNftables => format!("kube-proxy {kubernetes} (nftables)"),
            Proxy::KubeProxyIptables => format!("kube-proxy {kubernetes} (iptables)"),
        };
        let release = uname()?.release().to_string_lossy().into_owned();
        let numbers: Vec<&str> = release.split('.').take(2).collect();
        let kernel = format!("Linux {}", numbers.join("."));
        Ok(Self { proxy, settings: spec.settings(), kubernetes: kubernetes.to_owned(), kernel })
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let field = match key {
            "proxy" => &mut self.proxy,
            "settings" => &mut self.settings,
            "kubernetes" => &mut self.kubernetes,
            "kernel" => &mut self.kernel,
            _ => bail!("{key:?} is no part of the head"),
        };
        value.clone_into(field);
        Ok(())
    }
}

fn kubernetes_version() -> Option<&'static str> {
    let requirement = |line: &'static str| line.trim().strip_prefix("k8s.io/kubernetes v");
    include_str!("../../controlplane/go.mod").lines().find_map(requirement)
}

impl Record {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut record = Self::default();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let in_line = || format!("in the line {line:?}");
            match line.split_once(": ") {
                Some((key, value)) if !key.contains(' ') => record.head.set(key, value)?,
                _ => record.add(line).with_context(in_line)?,
            }
        }
        Ok(record)
    }

    fn add(&mut self, line: &str) -> Result<()> {
        let (name, line) = parse_line(line)?;
        self.lines.insert(name, line);
        Ok(())
    }

    /// With the outcomes of a run. Whatever other versions gave is forgotten, and so are tests that are not listed any
    /// more and those that were to run this time and did not.
    fn with(self, head: Head, outcomes: &[Outcome], entries: &[Entry]) -> Self {
        let mut lines = if self.head == head { self.lines } else { BTreeMap::new() };
        for outcome in outcomes.iter().filter(|outcome| outcome.is_chosen) {
            lines.remove(&outcome.name);
            lines.extend(Line::of(outcome).map(|line| (outcome.name.clone(), line)));
        }
        lines.retain(|name, _| entries.iter().any(|entry| entry.name == *name));
        Self { head, lines }
    }
}

fn parse_line(line: &str) -> Result<(String, Line)> {
    let mut words = line.splitn(3, ' ');
    let (word, date, rest) = (words.next(), words.next(), words.next().context("no name")?);
    let (name, reason) = rest.split_once(REASON).unwrap_or((rest, ""));
    let ending = match word {
        Some("passed") => Ending::Passed,
        Some("failed") => Ending::Failed,
        Some("skipped") => Ending::Skipped(reason.to_owned()),
        _ => bail!("neither passed, failed nor skipped"),
    };
    Ok((name.to_owned(), Line { ending, date: date.unwrap_or_default().to_owned() }))
}

impl Line {
    /// None of a test that did not come to an end.
    fn of(outcome: &Outcome) -> Option<Self> {
        let reason = outcome.message.lines().next().unwrap_or_default().replace(REASON, " - ");
        let ending = match outcome.state.as_str() {
            "passed" => Ending::Passed,
            "skipped" if !reason.is_empty() => Ending::Skipped(reason.chars().take(REASON_LIMIT).collect()),
            "skipped" | "pending" | "interrupted" => return None,
            _ => Ending::Failed,
        };
        Some(Self { ending, date: outcome.date.clone() })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Head { proxy, settings, kubernetes, kernel } = &self.head;
        writeln!(out, "{REMARK}")?;
        writeln!(out, "proxy: {proxy}\nsettings: {settings}\nkubernetes: {kubernetes}\nkernel: {kernel}\n")?;
        self.lines.iter().try_for_each(|(name, Line { ending, date })| match ending {
            Ending::Passed => writeln!(out, "passed {date} {name}"),
            Ending::Failed => writeln!(out, "failed {date} {name}"),
            Ending::Skipped(reason) => writeln!(out, "skipped {date} {name}{REASON}{reason}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, state: &str, message: &str) -> Outcome {
        let words = |text: &str| text.to_owned();
        let (name, state, message) = (words(name), words(state), words(message));
        Outcome { name, state, message, date: words("2026-11-23"), is_chosen: true }
    }

    fn listed() -> Vec<Entry> {
        list::parse("run [a] one: x\nrun two\nrun three\nrun four").unwrap()
    }

    fn names(record: &Record) -> Vec<&str> {
        record.lines.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let head = Head::now(&Spec::default()).unwrap();
        let outcomes = [
            outcome("[a] one: x", "passed", ""),
            outcome("two", "timedout", "after a while"),
            outcome("three", "skipped", "needs -- more\nand more"),
        ];
        let record = Record::default().with(head, &outcomes, &listed());
        let endings: Vec<&Ending> = record.lines.values().map(|line| &line.ending).collect();
        assert_eq!(endings, [&Ending::Passed, &Ending::Skipped("needs - more".into()), &Ending::Failed]);
        assert_eq!(Record::parse(&record.to_string()).unwrap(), record);
    }

    #[test]
    fn a_run_replaces_what_it_ran_and_leaves_the_rest() {
        let head = Head::now(&Spec::default()).unwrap();
        let first =
            [outcome("two", "passed", ""), outcome("three", "passed", ""), outcome("four", "passed", "")];
        let record = Record::default().with(head.clone(), &first, &listed());
        let not_asked = Outcome { is_chosen: false, ..outcome("four", "skipped", "") };
        let second = [outcome("two", "failed", ""), outcome("three", "skipped", ""), not_asked];
        let record = record.with(head, &second, &listed());
        assert_eq!(names(&record), ["four", "two"], "three did not come to its turn");
        assert_eq!(record.lines["two"].ending, Ending::Failed);
    }

    #[test]
    fn what_other_versions_gave_and_tests_that_are_listed_no_more_are_forgotten() {
        let head = Head::now(&Spec::default()).unwrap();
        let outcomes = [outcome("two", "passed", ""), outcome("gone", "passed", "")];
        let record = Record::default().with(head.clone(), &outcomes, &listed());
        assert_eq!(names(&record), ["two"]);
        let next = Head { kubernetes: "1.99".into(), ..head };
        let record = record.with(next, &[outcome("three", "passed", "")], &listed());
        assert_eq!(names(&record), ["three"]);
    }
}
