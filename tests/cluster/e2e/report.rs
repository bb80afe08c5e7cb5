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
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    leaf_node_type: String,
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_text: String,
    state: String,
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
    let specs = suites.into_iter().flat_map(|suite| suite.spec_reports.unwrap_or_default());
    Ok(specs.filter(|spec| spec.leaf_node_type == "It").map(Outcome::from).collect())
}

impl From<Spec> for Outcome {
    fn from(spec: Spec) -> Self {
        let mut words = spec.container_hierarchy_texts.unwrap_or_default();
        words.push(spec.leaf_node_text);
        let message = spec.failure.and_then(|failure| failure.message).unwrap_or_default();
        Self { name: words.join(" "), state: spec.state, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tests_name_is_that_of_its_containers_and_its_own() {
        let report = br#"[{"SpecReports":[
            {"LeafNodeType":"BeforeSuite","LeafNodeText":"","State":"passed"},
            {"LeafNodeType":"It","ContainerHierarchyTexts":["[sig-network] DNS"],"LeafNodeText":"should answer",
             "State":"skipped","Failure":{"Message":"no DNS"}}]}]"#;
        let outcomes = parse(report).unwrap();
        let expected = ["[sig-network] DNS should answer", "skipped", "no DNS"];
        let [outcome] = outcomes.as_slice() else { panic!("{outcomes:?}") };
        assert_eq!([&outcome.name, &outcome.state, &outcome.message], expected);
    }
}
