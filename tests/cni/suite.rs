//! Cases, a candidate that they are put to, and the verdict: every rule holds but for those that are listed.
//!
//! Must not know: the rules.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sheave_tests::cni::{Call, Census, Stage, Subject};
use sheave_tests::netns::Netns;
use sheave_tests::wait::wait_for;

/// Cases at a time: each has a node of its own.
const AT_ONCE: usize = 4;
/// How long the kernel may take to remove a namespace.
const SETTLED: Duration = Duration::from_secs(5);

type Question = Box<dyn Fn(&Candidate) -> Result<()> + Send + Sync>;

/// A rule and how it is tried.
pub(crate) struct Case {
    /// A sentence.
    pub(crate) rule: String,
    /// The version of the specification that has the rule; candidates that do not speak it are not asked.
    pub(crate) since: &'static str,
    question: Question,
}

impl Case {
    pub(crate) fn new(
        rule: &str,
        question: impl Fn(&Candidate) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { rule: rule.to_owned(), since: "0.3.0", question: Box::new(question) }
    }

    /// A rule that came with a version.
    pub(crate) fn since(self, version: &'static str) -> Self {
        Self { since: version, ..self }
    }
}

/// A rule and the function that tries it.
pub(crate) type Named<'a> = (&'a str, fn(&Candidate) -> Result<()>);

/// Makes a list of cases out of sentences and functions.
pub(crate) fn cases(list: &[Named<'_>]) -> Vec<Case> {
    list.iter().map(|(rule, question)| Case::new(rule, *question)).collect()
}

/// A plugin and the versions that it says it speaks.
pub(crate) struct Candidate {
    pub(crate) subject: Subject,
    versions: Vec<String>,
}

impl Candidate {
    pub(crate) fn new(subject: Subject) -> Result<Self> {
        let call = Call::new("VERSION", &json!({ "cniVersion": "1.0.0" }));
        let answer = subject.plugin.call(&Netns::new()?, &call)?.result()?;
        let versions = answer["supportedVersions"].as_array().context("no supportedVersions")?;
        let versions = versions.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Ok(Self { subject, versions })
    }

    /// Whether it speaks a version.
    pub(crate) fn speaks(&self, version: &str) -> bool {
        self.versions.iter().any(|spoken| spoken == version)
    }

    /// The newest that it speaks.
    pub(crate) fn newest(&self) -> &str {
        let newest = ["1.1.0", "1.0.0"].into_iter().find(|version| self.speaks(version));
        newest.expect("the plugin speaks no version of this decade")
    }

    /// A node, and the configuration in the newest version.
    pub(crate) fn stage(&self) -> Result<(Stage, Value)> {
        let stage = Stage::new(&self.subject)?;
        let config = stage.config(self.newest());
        Ok((stage, config))
    }

    /// Puts every case to it. The rules that it broke, and how.
    pub(crate) fn examine(&self, cases: &[Case]) -> BTreeMap<String, String> {
        let broken = Mutex::new(BTreeMap::new());
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if !self.speaks(case.since) {
                            continue;
                        }
                        if let Err(error) = (case.question)(self) {
                            broken.lock().unwrap().insert(case.rule.clone(), format!("{error:#}"));
                        }
                    }
                });
            }
        });
        broken.into_inner().unwrap()
    }

    /// Every rule holds but for those listed, and those do not.
    pub(crate) fn must_keep(&self, cases: &[Case], except: &[&str]) {
        let broken = self.examine(cases);
        let asked = |rule: &str| cases.iter().any(|case| case.rule == rule && self.speaks(case.since));
        let mut complaints: Vec<String> = broken
            .iter()
            .filter(|(rule, _)| !except.contains(&rule.as_str()))
            .map(|(rule, how)| format!("- {rule}\n    {how}"))
            .collect();
        for rule in except.iter().filter(|rule| !broken.contains_key(**rule)) {
            let why = if asked(rule) { "listed as broken, and it holds" } else { "listed, and nobody asks" };
            complaints.push(format!("- {rule}\n    {why}"));
        }
        eprintln!("{} cases, {} broken, {} of them known", cases.len(), broken.len(), except.len());
        assert!(complaints.is_empty(), "{} surprises:\n{}", complaints.len(), complaints.join("\n"));
    }
}

/// The node is as it was before, once the kernel has removed what it removes by itself.
pub(crate) fn unchanged(stage: &Stage, before: &Census) -> Result<()> {
    let mut last = stage.census()?.same_as(before);
    let settled = wait_for("the node is as before", SETTLED, || {
        if last.is_err() {
            last = stage.census()?.same_as(before);
        }
        Ok(last.is_ok().then_some(()))
    });
    match last {
        Err(difference) => Err(difference.context("the node changed")),
        Ok(()) => settled,
    }
}
