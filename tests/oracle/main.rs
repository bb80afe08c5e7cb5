//! kube-proxy as an oracle: the same objects and questions for the real one, in its modes iptables and nftables, and for
//! Sheave, on the same network. `cargo xtask test oracle`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod differences;
mod questions;
mod report;
mod services;
mod stage;
mod survey;

use std::fs;
use std::path::Path;

use crate::differences::DIFFERENCES;
use crate::report::Report;
use crate::stage::{Stage, System};

/// What must be the same afterwards: kube-proxy would set them for the whole machine.
const HOST_SETTINGS: [&str; 2] =
    ["/proc/sys/net/netfilter/nf_conntrack_max", "/sys/module/nf_conntrack/parameters/hashsize"];

#[test]
fn sheave_does_what_kube_proxy_does_but_for_the_listed_differences() {
    let settings = || HOST_SETTINGS.map(|path| fs::read_to_string(path).ok());
    let before = settings();
    let stage = Stage::new();
    let surveys = System::ALL.iter().map(|system| stage.survey(*system)).collect();
    let report = Report::new(surveys, DIFFERENCES);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oracle.txt");
    fs::write(&path, report.table()).unwrap();
    eprintln!("the table is in {}", path.display());
    assert_eq!(settings(), before, "settings of the host were changed");
    let failures = report.failures();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_listed_difference_has_a_section_in_the_documentation() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs").join("differences.md");
    let text = fs::read_to_string(page).unwrap();
    let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let mut listed: Vec<&str> = DIFFERENCES.iter().map(|difference| difference.title).collect();
    listed.dedup();
    assert_eq!(sections, listed);
    // Lines are broken anywhere.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for difference in DIFFERENCES {
        assert!(text.contains(difference.reason), "`{}` is not argued as in the test", difference.title);
    }
}
