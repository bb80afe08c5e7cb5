//! What users of kube-proxy know of Services, and what shows each: the file `tests/e2e/features.toml`.
//!
//! Must not know: what came of the tests.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::e2e::list::Entry;

/// The file, from the root of the repository.
pub(crate) const FILE: &str = "tests/e2e/features.toml";
/// What every name of upstream's begins with, and the file leaves out.
pub(crate) const UPSTREAM: &str = "[sig-network] ";

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Features {
    /// In the order of the page.
    pub(crate) feature: Vec<Feature>,
    /// What upstream's list tests besides.
    pub(crate) beside: Vec<Group>,
}

/// A feature of Services.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Feature {
    /// A few words, unique.
    pub(crate) name: String,
    /// What a proxy has to do.
    pub(crate) rule: String,
    /// With what the names of upstream's tests begin that show it.
    #[serde(default)]
    pub(crate) upstream: Vec<String>,
    /// Our own tests: a file and the name of a test, a case or nothing where the file is one scenario.
    #[serde(default)]
    pub(crate) own: Vec<String>,
    /// What the class `oracle` asks both proxies about it: names of its Services and targets.
    #[serde(default)]
    pub(crate) compared: Vec<String>,
    /// Headings of docs/differences.md.
    #[serde(default)]
    pub(crate) differs: Vec<String>,
    /// What is weaker than with kube-proxy, or shown by less than one would wish.
    pub(crate) weaker: Option<String>,
}

/// Tests that show no feature of Services.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// A few words, unique.
    pub(crate) name: String,
    /// With what the names of upstream's tests begin.
    pub(crate) upstream: Vec<String>,
}

impl Features {
    /// # Errors
    /// The text is not of this form.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).with_context(|| format!("in {FILE}"))
    }

    /// The beginnings of names in the whole file.
    pub(crate) fn beginnings(&self) -> impl Iterator<Item = &String> {
        let features = self.feature.iter().flat_map(|feature| &feature.upstream);
        features.chain(self.beside.iter().flat_map(|group| &group.upstream))
    }

    /// The names of features and groups.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        let groups = self.beside.iter().map(|group| &group.name);
        self.feature.iter().map(|feature| &feature.name).chain(groups)
    }
}

/// Whether a test's name begins so.
pub(crate) fn begins(entry: &Entry, beginning: &str) -> bool {
    entry.name.strip_prefix(UPSTREAM).is_some_and(|name| name.starts_with(beginning))
}

/// The tests of the list that begin with one of these.
pub(crate) fn chosen<'a>(entries: &'a [Entry], beginnings: &[String]) -> Vec<&'a Entry> {
    let is_meant = |entry: &&Entry| beginnings.iter().any(|beginning| begins(entry, beginning));
    entries.iter().filter(is_meant).collect()
}
