//! The metrics that the kernel and the sources count, read at each scrape.
//!
//! Must not know how metrics are printed.

use std::{path::PathBuf, sync::Arc};

use cni::store::Room;
use ipnetwork::IpNetwork;
use proxy_common::{Counter, FlowState};
use proxy_core::model::Source;

use crate::{
    dataplane::{FlowCounts, MapUsage, Observer, ProgramInfo},
    metrics::{ReadAtScrape, Reading},
    pods::room,
    watch::{SourceStatus, WatchStatus},
};

/// Labels and value.
type Value = (Vec<(&'static str, String)>, f64);

/// Everything that is read at scrape time.
/// `run_dir`: where the plugin keeps addresses, if pods are ours.
pub(super) fn read_at_scrape(
    observer: Arc<Observer>,
    sources: Arc<WatchStatus>,
    run_dir: Option<PathBuf>,
) -> ReadAtScrape {
    Arc::new(move || {
        let mut readings = of_sources(&sources.sources());
        readings.extend(of_maps(&observer.usage().unwrap_or_default()));
        readings.extend(of_programs(&observer.programs().unwrap_or_default()));
        readings.push(of_counters(&observer.counters().unwrap_or_default()));
        readings.push(of_flows(observer.flow_counts().unwrap_or_default()));
        if let Some(run_dir) = &run_dir {
            let room = room::of_node(run_dir).unwrap_or_default();
            readings.extend(of_room(&room, room::refused(run_dir).unwrap_or_default().count));
        }
        readings
    })
}

fn of_room(all: &[Room], refused: u64) -> Vec<Reading> {
    let of = |value: fn(&Room) -> f64| {
        let labels = |range: &IpNetwork| {
            let family = if range.is_ipv4() { "ipv4" } else { "ipv6" };
            vec![("family", family.to_owned()), ("range", range.to_string())]
        };
        all.iter().map(move |room| (labels(&room.range), value(room)))
    };
    vec![
        gauge("pod_addresses", "Addresses that pods of this node may have", of(|room| large(room.capacity))),
        gauge("pod_addresses_used", "Those of them that pods have", of(|room| number(room.used))),
        gauge(
            "pod_addresses_free",
            "Those of them that no pod has",
            of(|room| large(room.capacity.saturating_sub(room.used.into()))),
        ),
        Reading {
            name: "pod_addresses_exhausted",
            help: "Requests for a pod's address that were refused because none was free, since the node was started",
            is_counter: true,
            values: vec![(Vec::new(), number(refused))],
        },
    ]
}

fn of_counters(counters: &[(Counter, u64)]) -> Reading {
    let values = counters.iter().map(|(counter, count)| labelled("outcome", counter.label(), number(*count)));
    Reading {
        name: "datapath",
        help: "Decisions of the programs at sockets and about packets by outcome",
        is_counter: true,
        values: values.collect(),
    }
}

fn of_flows(counts: [FlowCounts; 2]) -> Reading {
    let of_family = |(family, counts): (&'static str, FlowCounts)| {
        let alive = FlowState::ALL.into_iter().filter(|state| *state != FlowState::Free);
        let alive = alive.map(move |state| (state.as_str(), counts.of(state)));
        alive.chain([("expired", counts.expired)]).map(move |(state, count)| {
            (vec![("family", family.to_owned()), ("state", state.to_owned())], number(count))
        })
    };
    let values = ["ipv4", "ipv6"].into_iter().zip(counts).flat_map(of_family);
    gauge("flows", "Flows of the packet path; expired ones keep their places until these are needed", values)
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

#[expect(clippy::cast_precision_loss, reason = "as below: an IPv6 range has 2^64 addresses")]
fn large(count: u128) -> f64 {
    count as f64
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
        Source::HostPorts => "host_ports",
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::metrics::{Exposition, Metrics};

    const PAGE: &str = include_str!("../../../docs/observing.md");

    /// By name: type and label.
    type Names = BTreeMap<String, (String, String)>;

    /// Everything the agent exposes, with a value for each label.
    fn exposed() -> String {
        let metrics = Metrics::default();
        metrics.map_writes.get_or_create(&[("op", "service")]).inc();
        metrics.pod_repairs.get_or_create(&[("kind", "device")]).inc();
        let read = Arc::new(|| {
            let source = Source::Services;
            let age = Some(Duration::ZERO);
            let map = MapUsage {
                name: "ring".to_owned(),
                kind: "array".to_owned(),
                used: Some(1),
                capacity: 2,
                bytes: Some(8),
            };
            let program = ProgramInfo {
                name: "connect4".to_owned(),
                id: 1,
                tag: String::new(),
                verified_instructions: Some(1),
                bytes: None,
                run_count: 0,
                run_time: Duration::ZERO,
            };
            let mut readings =
                of_sources(&[SourceStatus { source, listed: true, age, restarts: 0, error: None }]);
            readings.extend(of_maps(&[map]));
            readings.extend(of_programs(&[program]));
            readings.push(of_counters(&[(Counter::ConnectTcp, 1)]));
            readings.push(of_flows([FlowCounts::default(); 2]));
            let range = "10.1.0.0/24".parse().unwrap();
            readings.extend(of_room(&[Room { range, capacity: 253, used: 3 }], 1));
            readings
        });
        Exposition::new(&metrics, read).text().unwrap()
    }

    /// The names as a dashboard uses them, out of OpenMetrics text.
    fn names_exposed(text: &str) -> Names {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let named = types.map(|(family, kind)| {
            let name = match kind {
                "counter" => format!("{family}_total"),
                "info" => format!("{family}_info"),
                _ => family.to_owned(),
            };
            let labelled = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{{")));
            let label = labelled.and_then(|rest| rest.split('=').next()).unwrap_or("-");
            (name, (kind.to_owned(), label.to_owned()))
        });
        named.collect()
    }

    fn names_in_the_page() -> Names {
        let is_metric = |line: &&str| line.starts_with("| `sheave_") || line.starts_with("| `kubeproxy_");
        let rows = PAGE.lines().filter(is_metric);
        let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`')).collect());
        let named =
            cells.map(|cells: Vec<_>| (cells[1].to_owned(), (cells[2].to_owned(), cells[3].to_owned())));
        named.collect()
    }

    #[test]
    fn the_page_about_observing_has_every_metric_with_its_type_and_label_and_no_other() {
        assert_eq!(names_in_the_page(), names_exposed(&exposed()));
    }

    #[test]
    fn the_page_about_observing_explains_every_outcome() {
        let mut explained: Vec<_> = PAGE
            .lines()
            .skip_while(|line| !line.starts_with("| outcome"))
            .take_while(|line| line.starts_with('|'))
            .filter_map(|line| line.split('|').nth(1))
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .collect();
        let mut counted: Vec<_> = Counter::ALL.iter().map(|counter| counter.label()).collect();
        explained.sort_unstable();
        counted.sort_unstable();
        assert_eq!(explained, counted);
    }
}
