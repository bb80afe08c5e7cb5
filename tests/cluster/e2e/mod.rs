//! Runs Kubernetes' own network tests against the cluster and holds the outcome against the list of tests.
//!
//! Owns: Ginkgo's flags and the verdict. Must not know: how the cluster was made.

mod installed;
pub(crate) mod list;
pub(crate) mod record;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice;

use anyhow::{Context as _, Result, bail, ensure};

use self::list::{Entry, Verdict};
use self::report::Outcome;
use crate::cgroups::Cgroups;
use crate::compatibility;
use crate::control::ADMIN;
use crate::layout::{CONTROL, Folders};
use crate::place::{Place, output};
use crate::spec::{Install, Spec};

/// Longer than any run: only a hanging test gets there.
const LIMIT: &str = "--timeout=3h";

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The slow and the disruptive tests instead of the others
    #[arg(long)]
    slow: bool,
    /// Only tests with this in their name
    #[arg(long)]
    focus: Option<String>,
    /// How many at once
    #[arg(long, default_value_t = 4)]
    procs: u8,
    /// Whatever the list skips, to see that the reason still holds
    #[arg(long)]
    skipped: bool,
    /// Keep the results in tests/e2e/results, and bring docs/compatibility.md up to date
    #[arg(long)]
    record: bool,
}

/// Runs the tests and judges them.
///
/// # Errors
/// No cluster is up, the list does not fit the tests that there are, or a test that should pass did not.
pub(crate) fn run(folders: &Folders, arguments: &Arguments) -> Result<()> {
    let entries = list::of_repository()?;
    list::check_complete(&entries, &all_names(folders)?)?;
    let spec = Spec::of_run(folders)?;
    let is_usual = spec.install == Install::Daemonset;
    ensure!(is_usual || !arguments.record, "only what users install is recorded");
    let chosen: Vec<&Entry> = entries.iter().filter(|entry| arguments.choose(entry, spec.nodes)).collect();
    ensure!(!chosen.is_empty(), "no test is chosen");
    installed::check(folders, &spec)?;
    let results = folders.results(&spec.title());
    fs::create_dir_all(&results).with_context(|| format!("cannot make {}", results.display()))?;
    // A run that does not come to its end must not be judged by the last one.
    let report = results.join("report.json");
    let _ = fs::remove_file(&report);
    let end = start(folders, &spec, arguments, &chosen, &results)?;
    let recorded = if arguments.record { record_all(folders, slice::from_ref(&results)) } else { Ok(()) };
    judge(&chosen, &report::read(&report)?, &results)?;
    recorded?;
    ensure!(end.success(), "the test run itself failed ({end}): {}", results.display());
    Ok(())
}

/// Keeps the results in these folders, however the tests ended, and writes the page that they are for.
///
/// # Errors
/// A folder's results cannot be kept, or the page cannot be written.
pub(crate) fn record_all(folders: &Folders, results: &[PathBuf]) -> Result<()> {
    results.iter().try_for_each(|results| record::keep(folders, results))?;
    compatibility::write(folders)
}

impl Arguments {
    fn choose(&self, entry: &Entry, nodes: u8) -> bool {
        let wanted = match entry.verdict {
            Verdict::Run => !self.slow && !self.skipped,
            Verdict::Nodes(needed) => !self.slow && !self.skipped && nodes >= needed,
            Verdict::Slow => self.slow,
            Verdict::Skip(_) => self.skipped,
        };
        wanted && self.focus.as_ref().is_none_or(|part| entry.name.contains(part))
    }
}

/// The names of all tests in the test program.
fn all_names(folders: &Folders) -> Result<Vec<String>> {
    let work = tempfile::tempdir()?;
    let report = work.path().join("report.json");
    let mut command = Command::new(folders.program("ginkgo"));
    command.args(["--dry-run", "--json-report"]).arg(&report).arg(folders.program("e2e.test"));
    output(command.args(["--", "--provider=local", "--kubeconfig=/nonexistent"]))?;
    Ok(report::read(&report)?.into_iter().map(|outcome| outcome.name).collect())
}

fn start(
    folders: &Folders,
    spec: &Spec,
    arguments: &Arguments,
    chosen: &[&Entry],
    results: &Path,
) -> Result<std::process::ExitStatus> {
    let cgroups = Cgroups::locate()?;
    let control = Place::find(folders, CONTROL)?;
    let mut command = control.command(folders.program("ginkgo"));
    command.args([&format!("--procs={}", arguments.procs), "--no-color", LIMIT]);
    command.arg(format!("--focus={}", focus(chosen))).arg("--output-dir").arg(results);
    command.args(["--json-report=report.json", "--junit-report=junit.xml"]);
    command.arg(folders.program("e2e.test")).args(["--", "--provider=local"]);
    command.arg(format!("--num-nodes={}", spec.nodes)).arg("--kubeconfig").arg(folders.kubeconfig(ADMIN));
    command.arg("--kubectl-path").arg(folders.program("kubectl")).arg("--report-dir").arg(results);
    cgroups.place(CONTROL, &mut command);
    eprintln!("running {} tests; results in {}", chosen.len(), results.display());
    command.status().context("cannot start ginkgo")
}

/// One expression for exactly these tests.
fn focus(chosen: &[&Entry]) -> String {
    let names: Vec<String> = chosen.iter().map(|entry| report::quoted(&entry.name)).collect();
    format!("({})$", names.join("|"))
}

/// Every chosen test must have passed: one that did not run, or ended itself as not applicable, has not.
fn judge(chosen: &[&Entry], outcomes: &[Outcome], results: &Path) -> Result<()> {
    let mut bad = Vec::new();
    for entry in chosen {
        let outcome = outcomes.iter().find(|outcome| outcome.name == entry.name);
        match outcome {
            Some(outcome) if outcome.state == "passed" => {}
            Some(Outcome { name, state, message, .. }) => {
                bad.push(format!("  {state}: {name}\n    {}", message.lines().next().unwrap_or_default()));
            }
            None => bad.push(format!("  did not run: {}", entry.name)),
        }
    }
    println!("{} of {} tests passed", chosen.len().saturating_sub(bad.len()), chosen.len());
    if bad.is_empty() {
        return Ok(());
    }
    bail!("these did not pass, see {}:\n{}", results.display(), bad.join("\n"))
}

impl Folders {
    /// The results of the tests on a cluster of this title.
    fn results(&self, title: &str) -> PathBuf {
        self.results_root().join(title)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, verdict: Verdict) -> Entry {
        Entry { name: name.to_owned(), verdict }
    }

    fn outcome(name: &str, state: &str) -> Outcome {
        let (name, state, message) = (name.to_owned(), state.to_owned(), "because".to_owned());
        Outcome { name, state, message, date: String::new(), is_chosen: true }
    }

    #[test]
    fn a_test_that_failed_was_skipped_or_never_ran_fails_the_class() {
        let (one, two) = (entry("one", Verdict::Run), entry("two", Verdict::Run));
        let both = [&one, &two];
        let place = Path::new("results");
        assert!(judge(&both, &[outcome("one", "passed"), outcome("two", "passed")], place).is_ok());
        for state in ["failed", "skipped", "timedout"] {
            let error = judge(&both, &[outcome("one", "passed"), outcome("two", state)], place).unwrap_err();
            assert!(error.to_string().contains(&format!("{state}: two")), "{error}");
        }
        let error = judge(&both, &[outcome("one", "passed")], place).unwrap_err();
        assert!(error.to_string().contains("did not run: two"), "{error}");
    }

    #[test]
    fn which_tests_run_depends_on_what_was_asked_for_and_on_the_number_of_nodes() {
        let all = [Verdict::Run, Verdict::Nodes(3), Verdict::Slow, Verdict::Skip("why".into())];
        let [run, three, slow, skip] = all.clone();
        let cases = [
            (false, false, 2, vec![run.clone()]),
            (false, false, 3, vec![run, three]),
            (true, false, 3, vec![slow]),
            (false, true, 3, vec![skip]),
        ];
        for (slow, skipped, nodes, expected) in cases {
            let arguments = Arguments { slow, focus: None, procs: 1, skipped, record: false };
            let is_chosen = |verdict: &Verdict| arguments.choose(&entry("x", verdict.clone()), nodes);
            let chosen: Vec<Verdict> = all.iter().filter(|verdict| is_chosen(verdict)).cloned().collect();
            assert_eq!(chosen, expected, "slow {slow} skipped {skipped} nodes {nodes}");
        }
    }

    #[test]
    fn the_expression_takes_names_with_brackets_as_they_are() {
        let entry = entry("[a] b", Verdict::Run);
        assert_eq!(focus(&[&entry]), r"(\Q[a] b\E)$");
    }
}
