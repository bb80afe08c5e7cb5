//! What Ginkgo's JSON report says of each test.
//!
//! Must not know: which tests matter.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The whole name.
    pub(crate) name: String,
    /// Ginkgo's word for it: `passed`, `failed`, `skipped`, `timedout` ...
    pub(crate) state: String,
    /// Why, where it did not pass.
    pub(crate) message: String,
    /// The day on which it began: `2026-11-23`.
    pub(crate) date: String,
    /// Whether it was to run: all others are in the report as `skipped`.
    pub(crate) is_chosen: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    suite_config: Config,
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    focus_strings: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    leaf_node_type: String,
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    start_time: String,
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: Option<String>,
}

/// Reads a report.
///
/// # Errors
/// There is none, or it is not of Ginkgo's form.
pub(crate) fn read(path: &Path) -> Result<Vec<Outcome>> {
    let text = fs::read(path).with_context(|| format!("the tests left no report {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

fn parse(text: &[u8]) -> Result<Vec<Outcome>> {
    let suites: Vec<Suite> = serde_json::from_slice(text)?;
    Ok(suites.into_iter().flat_map(outcomes).collect())
}

fn outcomes(suite: Suite) -> Vec<Outcome> {
    let focus = suite.suite_config.focus_strings.unwrap_or_default();
    let specs = suite.spec_reports.unwrap_or_default().into_iter();
    specs.filter(|spec| spec.leaf_node_type == "It").map(|spec| Outcome::of(spec, &focus)).collect()
}

impl Outcome {
    fn of(spec: Spec, focus: &[String]) -> Self {
        let mut words = spec.container_hierarchy_texts.unwrap_or_default();
        words.push(spec.leaf_node_text);
        let name = words.join(" ");
        let is_chosen = focus.is_empty() || focus.iter().any(|one| one.contains(&quoted(&name)));
        let message = spec.failure.and_then(|failure| failure.message).unwrap_or_default();
        let date = spec.start_time.split('T').next().unwrap_or_default().to_owned();
        Self { name, state: spec.state, message, date, is_chosen }
    }
}

/// A test's name as a part of an expression that means it and nothing else: what stands between `\Q` and `\E` is taken
/// as it is.
pub(crate) fn quoted(name: &str) -> String {
    format!(r"\Q{name}\E")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tests_name_is_that_of_its_containers_and_its_own() {
        let report = br#"[{"SpecReports":[
            {"LeafNodeType":"BeforeSuite","LeafNodeText":"","State":"passed"},
            {"LeafNodeType":"It","ContainerHierarchyTexts":["[sig-network] DNS"],"LeafNodeText":"should answer",
             "State":"skipped","StartTime":"2026-11-23T19:35:31.1Z","Failure":{"Message":"no DNS"}}]}]"#;
        let outcomes = parse(report).unwrap();
        let expected = ["[sig-network] DNS should answer", "skipped", "no DNS", "2026-11-23"];
        let [outcome] = outcomes.as_slice() else { panic!("{outcomes:?}") };
        assert_eq!([&outcome.name, &outcome.state, &outcome.message, &outcome.date], expected);
    }

    #[test]
    fn chosen_is_what_the_run_was_asked_for_and_without_a_choice_everything() {
        let specs = r#""SpecReports":[{"LeafNodeType":"It","LeafNodeText":"a [x]","State":"passed"},
            {"LeafNodeType":"It","LeafNodeText":"b","State":"skipped"}]"#;
        let chosen = |config: &str| {
            let outcomes = parse(format!("[{{{config}{specs}}}]").as_bytes()).unwrap();
            outcomes.iter().map(|outcome| outcome.is_chosen).collect::<Vec<_>>()
        };
        assert_eq!(chosen(""), [true, true]);
        assert_eq!(chosen(r#""SuiteConfig":{"FocusStrings":null},"#), [true, true]);
        assert_eq!(chosen(r#""SuiteConfig":{"FocusStrings":["(\\Qa [x]\\E)$"]},"#), [true, false]);
    }
}
