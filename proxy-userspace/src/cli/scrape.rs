//! The metrics that the kernel and the sources count, read at each scrape.
//!
//! Must not know how metrics are printed.

use std::sync::Arc;

use proxy_core::model::Source;

use crate::{
    dataplane::{MapUsage, Observer, ProgramInfo},
    metrics::{ReadAtScrape, Reading},
    watch::{SourceStatus, WatchStatus},
};

/// Labels and value.
type Value = (Vec<(&'static str, String)>, f64);

/// Everything that is read at scrape time.
pub(super) fn read_at_scrape(observer: Arc<Observer>, sources: Arc<WatchStatus>) -> ReadAtScrape {
    Arc::new(move || {
        let mut readings = of_sources(&sources.sources());
        readings.extend(of_maps(&observer.usage().unwrap_or_default()));
        readings.extend(of_programs(&observer.programs().unwrap_or_default()));
        readings.push(of_counters(&observer));
        readings
    })
}

fn of_counters(observer: &Observer) -> Reading {
    let counters = observer.counters().unwrap_or_default().into_iter();
    let values = counters.map(|(counter, count)| labelled("outcome", counter.label(), number(count)));
    Reading {
        name: "socket_events",
        help: "Decisions of the programs at sockets by outcome",
        is_counter: true,
        values: values.collect(),
    }
}

fn of_sources(sources: &[SourceStatus]) -> Vec<Reading> {
    let ages = sources
        .iter()
        .filter_map(|source| Some(labelled("source", source_name(source.source), source.age?.as_secs_f64())));
    let restarts =
        sources.iter().map(|source| labelled("source", source_name(source.source), number(source.restarts)));
    vec![
        gauge(
            "watch_age_seconds",
            "Time since the last proof that what is known of a source is current",
            ages,
        ),
        Reading {
            name: "watch_restarts",
            help: "How often a source had to begin again after an error",
            is_counter: true,
            values: restarts.collect(),
        },
    ]
}

fn of_maps(maps: &[MapUsage]) -> Vec<Reading> {
    let of = |value: fn(&MapUsage) -> Option<u64>| {
        maps.iter().filter_map(move |map| Some(labelled("map", &map.name, number(value(map)?))))
    };
    vec![
        gauge("map_entries", "Entries in use, as the kernel sees it", of(|map| map.used)),
        gauge("map_capacity", "Entries there is room for", of(|map| Some(map.capacity))),
        gauge("map_bytes", "Memory of a map in bytes", of(|map| map.bytes)),
    ]
}

fn of_programs(programs: &[ProgramInfo]) -> Vec<Reading> {
    let verified = programs.iter().filter_map(|program| {
        Some(labelled("program", &program.name, f64::from(program.verified_instructions?)))
    });
    vec![gauge(
        "program_verified_instructions",
        "Instructions the verifier looked at when a program was loaded",
        verified,
    )]
}

fn gauge(name: &'static str, help: &'static str, values: impl Iterator<Item = Value>) -> Reading {
    Reading { name, help, is_counter: false, values: values.collect() }
}

fn labelled(label: &'static str, text: &str, value: f64) -> Value {
    (vec![(label, text.to_owned())], value)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floating-point: counts beyond 2^53 lose their last digits"
)]
fn number(count: u64) -> f64 {
    count as f64
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Services => "services",
        Source::Slices => "endpointslices",
        Source::Node => "node",
        Source::Addresses => "addresses",
    }
}
