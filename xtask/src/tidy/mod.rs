//! The rules of STYLE.md that no compiler checks, as checks with file and line.
//!
//! Every check is a pure function of text or of cargo's metadata and has a test with a bad sample: a check that
//! cannot fail checks nothing.

mod byte_order;
mod dependencies;
mod functions;
mod layers;
mod maps;
mod names;
mod sources;
mod syntax;
mod text;
mod unsafety;

use std::fmt;

use anyhow::{Result, bail};

use crate::chart;
use crate::workspace::Workspace;
use sources::{Source, Sources};

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Complaint {
    /// Relative to the repository.
    file: String,
    /// From 1; 0 where the complaint is about the file as a whole.
    line: usize,
    text: String,
}

impl Complaint {
    fn new(file: &str, line: usize, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, text: text.into() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.text),
            line => write!(f, "{}:{line}: {}", self.file, self.text),
        }
    }
}

/// The checks that look at one Rust file at a time.
const FILE_CHECKS: [fn(&Source) -> Vec<Complaint>; 8] = [
    text::opens_with_module_doc,
    text::file_length,
    byte_order::check,
    functions::lengths,
    layers::check,
    maps::check,
    names::check,
    unsafety::check,
];

/// Runs every check and prints what is wrong, and the figures of the functions.
///
/// # Errors
/// When a rule is broken or a file cannot be read.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let metadata = [workspace.metadata()?, workspace.ebpf_metadata()?];
    let sources = Sources::read(workspace, &metadata)?;
    let mut complaints = dependencies::check(&metadata);
    complaints.extend(sources.orphans());
    for source in sources.reachable() {
        complaints.extend(FILE_CHECKS.iter().flat_map(|check| check(source)));
    }
    for (file, content) in sources::text_files(workspace)? {
        complaints.extend(text::forbidden_words(&file, &content, &text::places(workspace)));
    }
    complaints
        .extend(chart::staleness(workspace.root())?.map(|text| Complaint::new(chart::MANIFEST, 0, text)));
    let figures = functions::Figures::of(sources.reachable());
    complaints.extend(figures.complaint());
    eprintln!("tidy: {} Rust files, {figures}", sources.reachable().count());
    judge(complaints)
}

fn judge(mut complaints: Vec<Complaint>) -> Result<()> {
    complaints.sort();
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if complaints.is_empty() { Ok(()) } else { bail!("tidy: {} complaints", complaints.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_complaint_makes_tidy_fail() {
        assert!(judge(vec![]).is_ok());
        assert!(judge(vec![Complaint::new("a.rs", 3, "wrong")]).is_err());
    }

    #[test]
    fn a_complaint_reads_file_line_text() {
        assert_eq!(Complaint::new("a.rs", 3, "wrong").to_string(), "a.rs:3: wrong");
        assert_eq!(Complaint::new("a.rs", 0, "wrong").to_string(), "a.rs: wrong");
    }
}
