//! CNI: a conformance suite for any plugin, and what ours has to stand besides. `cargo xtask test cni`.
//!
//! The suite is put to the reference plugin `ptp` too: it must find there what is known to be missing and nothing else,
//! which shows that its questions are those of the specification.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod add;
mod capabilities;
mod chain;
mod check;
mod cnitool;
mod crash;
mod crowd;
mod delete;
mod node_wide;
mod reference;
mod refusals;
mod suite;
mod tracer;

use sheave_tests::cni::{Kind, Subject};

use crate::suite::{Candidate, Case};

/// The whole suite.
fn suite() -> Vec<Case> {
    let mut cases = refusals::cases();
    cases.extend(add::cases());
    cases.extend(delete::cases());
    cases.extend(check::cases());
    cases.extend(node_wide::cases());
    cases.extend(capabilities::cases());
    cases.extend(chain::cases());
    cases
}

#[test]
fn every_rule_has_a_name_of_its_own() {
    let mut rules: Vec<String> = suite().into_iter().map(|case| case.rule).collect();
    let count = rules.len();
    rules.sort();
    rules.dedup();
    assert_eq!(rules.len(), count);
}

#[test]
fn the_reference_plugin_keeps_every_rule_but_those_listed() {
    let candidate = Candidate::new(Subject::reference(Kind::Ptp).unwrap()).unwrap();
    candidate.must_keep(&suite(), &reference::missing());
}

#[test]
fn sheave_cni_keeps_every_rule() {
    Candidate::new(Subject::sheave().unwrap()).unwrap().must_keep(&suite(), &[]);
}
