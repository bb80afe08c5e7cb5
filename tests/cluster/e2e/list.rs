//! Which of Kubernetes' tests there are to be, and the file that says of each whether it runs.
//!
//! Must not know: how tests are run.

use anyhow::{Context as _, Result, bail, ensure};

/// The file, from the root of the repository.
pub(crate) const FILE: &str = "tests/e2e/network.txt";

/// Groups of tests that are in scope as a whole; of others, what belongs to conformance is.
const GROUPS: [&str; 10] = [
    "Conntrack",
    "DNS",
    "EndpointSlice",
    "HostPort",
    "LoadBalancers",
    "Networking Granular Checks",
    "Proxy",
    "Services",
    "Traffic Distribution",
    "[Feature:IPv6DualStack]",
];

/// What the file says of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It runs always, and must pass.
    Run,
    /// It needs so many nodes, runs where there are as many, and must pass there.
    Nodes(u8),
    /// It runs with `--slow` alone, and must pass then: it is slow, or disturbs other tests.
    Slow,
    /// It does not run, for this reason.
    Skip(String),
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The whole name, as Ginkgo prints it.
    pub(crate) name: String,
    /// What becomes of it.
    pub(crate) verdict: Verdict,
}

/// Whether a test is among those that the file must mention.
pub(crate) fn is_in_scope(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("[sig-network] ") else { return false };
    rest.contains("[Conformance]") || GROUPS.iter().any(|group| rest.starts_with(group))
}

/// The file of this repository.
///
/// # Errors
/// It cannot be read.
pub(crate) fn of_repository() -> Result<Vec<Entry>> {
    parse(include_str!("../../e2e/network.txt"))
}

/// Reads the file: `run NAME`, `three NAME`, `six NAME`, `slow NAME`, or `skip NAME -- REASON` on each line; `#` begins a remark.
///
/// # Errors
/// A line says something else, a reason is missing, or a test is named twice.
pub(crate) fn parse(text: &str) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let entry = parse_line(line).with_context(|| format!("in the line {line:?} of {FILE}"))?;
        ensure!(entries.iter().all(|other| other.name != entry.name), "{FILE} names {:?} twice", entry.name);
        entries.push(entry);
    }
    Ok(entries)
}

fn parse_line(line: &str) -> Result<Entry> {
    let (word, rest) = line.split_once(' ').context("no name")?;
    let (name, verdict) = match word {
        "run" => (rest, Verdict::Run),
        "three" => (rest, Verdict::Nodes(3)),
        "six" => (rest, Verdict::Nodes(6)),
        "slow" => (rest, Verdict::Slow),
        "skip" => {
            let (name, reason) =
                rest.split_once(" -- ").context("a skip needs a reason: skip NAME -- REASON")?;
            ensure!(!reason.trim().is_empty(), "the reason is empty");
            (name, Verdict::Skip(reason.trim().to_owned()))
        }
        _ => bail!("neither run, three, six, slow nor skip"),
    };
    Ok(Entry { name: name.trim().to_owned(), verdict })
}

/// Compares the file with the tests that there are.
///
/// # Errors
/// A test in scope is not mentioned, or a mentioned one is not there.
pub(crate) fn check_complete(entries: &[Entry], names: &[String]) -> Result<()> {
    let is_listed = |name: &&String| entries.iter().any(|entry| entry.name == **name);
    let unlisted: Vec<&String> =
        names.iter().filter(|name| is_in_scope(name)).filter(|name| !is_listed(name)).collect();
    ensure!(unlisted.is_empty(), "{FILE} says nothing of:\n{}", lines(unlisted.into_iter()));
    let gone = entries.iter().map(|entry| &entry.name).filter(|name| !names.contains(name));
    let gone: Vec<&String> = gone.collect();
    ensure!(gone.is_empty(), "{FILE} names what is no test:\n{}", lines(gone.into_iter()));
    Ok(())
}

fn lines<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| format!("  {name}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whether_a_test_runs_and_a_skip_says_why() {
        let entries = parse("# remark\n\nrun a b\nslow c [Slow]\nskip d -- needs SCTP\n").unwrap();
        let verdicts: Vec<&Verdict> = entries.iter().map(|entry| &entry.verdict).collect();
        assert_eq!(verdicts, [&Verdict::Run, &Verdict::Slow, &Verdict::Skip("needs SCTP".into())]);
        assert_eq!(entries[0].name, "a b");
    }

    #[test]
    fn a_skip_without_a_reason_and_a_test_named_twice_are_refused() {
        for text in ["skip d", "skip d -- ", "perhaps d", "run", "run a\nslow a"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_test_in_scope_that_the_file_does_not_mention_is_an_error_and_so_is_one_that_is_gone() {
        let entries = parse("run [sig-network] DNS should answer").unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let there = "[sig-network] DNS should answer";
        assert!(
            check_complete(&entries, &names(&[there, "[sig-node] Pods", "[sig-network] Netpol x"])).is_ok()
        );
        let error = check_complete(&entries, &names(&[there, "[sig-network] Services new"])).unwrap_err();
        assert!(error.to_string().contains("Services new"), "{error}");
        let error =
            check_complete(&entries, &names(&[there, "[sig-network] Ingress x [Conformance]"])).unwrap_err();
        assert!(error.to_string().contains("Ingress x"), "{error}");
        assert!(check_complete(&entries, &[]).unwrap_err().to_string().contains("no test"));
    }

    #[test]
    fn the_file_of_the_repository_can_be_read() {
        let entries = of_repository().unwrap();
        assert!(entries.iter().filter(|entry| entry.verdict == Verdict::Run).count() > 100);
        assert!(entries.iter().all(|entry| is_in_scope(&entry.name)));
    }
}
