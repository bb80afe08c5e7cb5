//! The table of all outcomes, and the judgement: whatever Sheave does otherwise than kube-proxy must be a listed
//! difference, and every listed difference must be there.
//!
//! Must not know: which differences are listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::differences::Difference;
use crate::questions::{Question, Row};
use crate::stage::System;
use crate::survey::{Outcomes, Survey};

/// The outcomes of all systems, in the order of [`System::ALL`].
pub(crate) struct Report<'a> {
    surveys: Vec<Survey>,
    listed: &'a [Difference],
}

/// A line of the table: outcomes of all systems, and the titles of differences that explain them.
type Line = (Vec<Outcomes>, Vec<&'static str>);

/// One of kube-proxy's columns and one of Sheave's.
#[derive(Clone, Copy)]
struct Pair<'a> {
    systems: [System; 2],
    surveys: [&'a Survey; 2],
}

impl<'a> Report<'a> {
    pub(crate) fn new(surveys: Vec<Survey>, listed: &'a [Difference]) -> Self {
        Self { surveys, listed }
    }

    fn pairs(&self) -> Vec<Pair<'_>> {
        let columns = || System::ALL.into_iter().zip(&self.surveys);
        let (kube_proxy, sheave): (Vec<_>, Vec<_>) = columns().partition(|(system, _)| !system.is_sheave());
        let pairs = kube_proxy.into_iter().flat_map(|theirs| sheave.iter().map(move |ours| (theirs, *ours)));
        pairs
            .map(|(theirs, ours)| Pair { systems: [theirs.0, ours.0], surveys: [theirs.1, ours.1] })
            .collect()
    }

    /// One line for each client and address; protocols and families that came out differently get their own.
    pub(crate) fn table(&self) -> String {
        let mut rows: BTreeMap<Row, BTreeMap<Line, Vec<&str>>> = BTreeMap::new();
        for question in self.surveys[0].keys() {
            let line = (self.outcomes(question), self.reasons(question));
            rows.entry(question.row).or_default().entry(line).or_default().push(question.way.name());
        }
        let columns = System::ALL.map(System::name).join(" | ");
        let mut text = format!("service client address ways | {columns} | difference\n");
        for (row, lines) in rows {
            for ((outcomes, titles), ways) in lines {
                let outcomes: Vec<String> = outcomes.iter().map(ToString::to_string).collect();
                let ways = if ways.len() == 4 { "all".to_owned() } else { ways.join("+") };
                let (outcomes, titles) = (outcomes.join(" | "), titles.join("; "));
                writeln!(text, "{row} {ways} | {outcomes} | {titles}").unwrap();
            }
        }
        text
    }

    fn outcomes(&self, question: &Question) -> Vec<Outcomes> {
        self.surveys.iter().map(|survey| survey[question].clone()).collect()
    }

    /// The titles of the differences that change something here.
    fn reasons(&self, question: &Question) -> Vec<&'static str> {
        let mut titles = BTreeSet::new();
        for pair in self.pairs() {
            titles.extend(self.expected(question, pair).1);
        }
        titles.into_iter().collect()
    }

    /// What the listed differences make of kube-proxy's outcome, one after the other, and those that changed something.
    fn expected(&self, question: &Question, pair: Pair<'_>) -> (Outcomes, Vec<&'static str>) {
        let mut outcomes = pair.surveys[0][question].clone();
        let mut titles = Vec::new();
        for difference in self.listed.iter().filter(|difference| difference.covers(question, pair.systems)) {
            let changed = difference.apply(question, &outcomes);
            if changed != outcomes {
                titles.push(difference.title);
            }
            outcomes = changed;
        }
        (outcomes, titles)
    }

    /// Every outcome that is not what the listed differences make of kube-proxy's, and every listed difference that
    /// changes nothing between two systems for which it is listed.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for pair in self.pairs() {
            let [theirs, ours] = pair.systems.map(System::name);
            let mut shown = BTreeSet::new();
            for (question, outcome) in pair.surveys[1] {
                let (expected, titles) = self.expected(question, pair);
                if *outcome != expected {
                    let (Question { row, way }, was) = (question, &pair.surveys[0][question]);
                    let way = way.name();
                    failures.push(format!(
                        "{row} {way}: {theirs} {was}, {ours} {outcome}, not {expected} {titles:?}"
                    ));
                }
                shown.extend(titles);
            }
            let listed = self.listed.iter().filter(|difference| difference.is_between(pair.systems));
            let unseen = listed.filter(|difference| !shown.contains(difference.title));
            failures
                .extend(unseen.map(|unseen| format!("{theirs}, {ours}: `{}` does not show", unseen.title)));
        }
        failures
    }
}
