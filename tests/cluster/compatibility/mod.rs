//! The page docs/compatibility.md: each feature of Services, what tests it, and what came of it with Sheave and with
//! kube-proxy.
//!
//! Owns: which files it is made of. Must not know: how tests are run.

mod faults;
mod features;
mod page;
mod tally;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use self::features::Features;
use self::tally::Cluster;
use crate::e2e::list::{self, Entry};
use crate::e2e::record::{self, Record};
use crate::layout::Folders;
use crate::spec::Spec;

/// The page, from the root of the repository.
const PAGE: &str = "docs/compatibility.md";

/// What the page is made of.
struct Inputs {
    features: Features,
    /// The list of upstream's tests.
    entries: Vec<Entry>,
    /// Sheave's, then kube-proxy's.
    clusters: Vec<Cluster>,
    /// Headings of docs/differences.md.
    differences: Vec<String>,
    /// Of the repository.
    root: PathBuf,
}

/// Writes the page; it is written, too, when something is wrong with the file of features.
///
/// # Errors
/// A file is missing or not of its form, or names what is not there.
pub(crate) fn write(folders: &Folders) -> Result<()> {
    let inputs = Inputs::read(folders)?;
    let path = folders.repository(PAGE);
    fs::write(&path, page::render(&inputs)).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("wrote {}", path.display());
    let faults = faults::of(&inputs);
    ensure!(faults.is_empty(), "in {} and the results:\n  {}", features::FILE, faults.join("\n  "));
    Ok(())
}

impl Inputs {
    fn read(folders: &Folders) -> Result<Self> {
        let read = |name: &str| {
            fs::read_to_string(folders.repository(name)).with_context(|| format!("cannot read {name}"))
        };
        Ok(Self {
            features: Features::parse(&read(features::FILE)?)?,
            entries: list::of_repository()?,
            clusters: clusters(record::all(folders)?)?,
            differences: headings(&read("docs/differences.md")?),
            root: folders.repository("."),
        })
    }
}

/// With labels, Sheave's before kube-proxy's and otherwise by their titles.
fn clusters(records: impl IntoIterator<Item = (String, Record)>) -> Result<Vec<Cluster>> {
    let mut clusters = Vec::new();
    for (title, record) in records {
        let spec = Spec::of_title(&title).with_context(|| format!("{title} is no kind of cluster"))?;
        clusters.push(Cluster { label: String::new(), spec, record });
    }
    clusters.sort_by_key(|cluster| !cluster.is_sheave());
    let mut counts = [0, 0];
    for cluster in &mut clusters {
        let [ours, theirs] = &mut counts;
        let (letter, count) = if cluster.is_sheave() { ('S', ours) } else { ('K', theirs) };
        *count += 1;
        cluster.label = format!("{letter}{count}");
    }
    Ok(clusters)
}

fn headings(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with("##"));
    headings.map(|line| line.trim_start_matches('#').trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2e::record::{Ending, Line};

    fn inputs() -> Inputs {
        Inputs::read(&Folders::locate().unwrap()).unwrap()
    }

    #[test]
    fn the_page_is_what_the_features_and_the_results_make_of_it_now() {
        let text = fs::read_to_string(Folders::locate().unwrap().repository(PAGE)).unwrap();
        assert!(text == page::render(&inputs()), "{PAGE} is old: run `cargo xtask cluster compatibility`");
    }

    #[test]
    fn every_test_has_a_feature_and_every_name_in_the_file_means_something() {
        let faults = faults::of(&inputs());
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn whatever_is_wrong_is_found() {
        let mut inputs = inputs();
        inputs.features.beside.retain(|group| group.name != "DNS");
        let feature = inputs.features.feature.first_mut().unwrap();
        feature.upstream.push("Services should fly".into());
        feature.own.extend(["tests/datapath/tcp.rs there_is_no_such_test".into(), "tests/no.rs a".into()]);
        feature.compared.push("no-such-service".into());
        feature.differs.push("No such heading".into());
        feature.name = "NodePort".into();
        let faults = faults::of(&inputs).join("\n");
        let wanted = ["DNS should provide", "should fly", "no_such_test", "tests/no.rs", "no-such-service"];
        for word in wanted.iter().chain(&["No such heading", "two features are called"]) {
            assert!(faults.contains(word), "{word} is not in:\n{faults}");
        }
    }

    /// Whatever was recorded of the test, on the first cluster of this proxy.
    fn set(inputs: &mut Inputs, is_sheave: bool, name: &str, ending: Ending) {
        let cluster = inputs.clusters.iter_mut().find(|cluster| cluster.is_sheave() == is_sheave).unwrap();
        cluster.record.lines.insert(name.to_owned(), Line { ending, date: "2026-11-23".into() });
    }

    #[test]
    fn a_failed_test_makes_its_features_say_so_and_one_that_is_not_listed_is_named() {
        let mut inputs = inputs();
        let name = "[sig-network] Services should serve a basic endpoint from pods [Conformance]";
        set(&mut inputs, true, name, Ending::Failed);
        set(&mut inputs, true, "[sig-network] Services should fly", Ending::Passed);
        let page = page::render(&inputs);
        let line = |beginning: &str| page.lines().find(|line| line.starts_with(beginning)).unwrap();
        let row = line("| [ClusterIP]");
        assert!(row.contains("| **fails** |") && row.contains("1 **failed**"), "{row}");
        let detail = line("- Services should serve a basic endpoint from pods");
        assert!(detail.contains("**failed S1"), "{detail}");
        line("- S1: Services should fly");
    }

    #[test]
    fn a_skip_counts_only_where_kube_proxy_was_seen_not_to_pass() {
        let mut inputs = inputs();
        let is_skip = |entry: &&Entry| matches!(entry.verdict, list::Verdict::Skip(_));
        let name = inputs.entries.iter().find(is_skip).unwrap().name.clone();
        set(&mut inputs, false, &name, Ending::Passed);
        assert!(faults::of(&inputs).join("\n").contains("passes with kube-proxy"));
        inputs.clusters.retain(Cluster::is_sheave);
        assert!(faults::of(&inputs).join("\n").contains("nothing shows that it cannot run"));
    }
}
