//! What is measured, under names that dashboards may rely on, and its text form.
//!
//! Counts that others keep (the kernel, the sources) are read at scrape time. Must not know how a number comes about.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, text},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

/// One label with its value.
pub type Label = [(&'static str, &'static str); 1];

/// Everything the agent counts itself. Cheap to clone; clones count into the same metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// From the beginning of a computation of changes to the last write, in seconds.
    pub sync_duration: Histogram,
    /// When a change was taken in last, and when all changes were written last, in seconds since 1970.
    pub last_change: Timestamp,
    /// See [`Metrics::last_change`].
    pub last_sync: Timestamp,
    /// From the receipt of a change to the write that makes it visible, in seconds.
    pub programming_latency: Histogram,
    /// Writes to the maps by kind.
    pub map_writes: Family<Label, Counter>,
    /// Writes or readings that failed.
    pub sync_errors: Counter,
    /// Services that do not fit into the maps or could not be written.
    pub refused_services: Gauge,
    /// Writes that audits needed to repair what somebody else had changed.
    pub drift_repaired: Counter,
    /// Audits that were carried out.
    pub audits: Counter,
    /// UDP sockets of local clients that were closed because their backend had left.
    pub sockets_destroyed: Counter,
    /// Leftovers of pods that were removed, by kind.
    pub pod_repairs: Family<Label, Counter>,
    /// Flows that were removed because a pod gave its address back.
    pub released_flows: Counter,
    /// Services that are served.
    pub services: Gauge,
    /// Frontends of these Services.
    pub frontends: Gauge,
    /// Distinct backends of these Services.
    pub backends: Gauge,
}

/// A moment in seconds since 1970; 0: never.
pub type Timestamp = Gauge<f64, AtomicU64>;

/// Now, for a [`Timestamp`].
pub fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// Upper bounds of the buckets of [`Metrics::programming_latency`]: 0.1 ms to 10 s.
const LATENCY_BUCKETS: [f64; 16] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

impl Default for Metrics {
    fn default() -> Self {
        Self {
            sync_duration: Histogram::new(LATENCY_BUCKETS),
            last_change: Timestamp::default(),
            last_sync: Timestamp::default(),
            programming_latency: Histogram::new(LATENCY_BUCKETS),
            map_writes: Family::default(),
            sync_errors: Counter::default(),
            refused_services: Gauge::default(),
            drift_repaired: Counter::default(),
            audits: Counter::default(),
            sockets_destroyed: Counter::default(),
            pod_repairs: Family::default(),
            released_flows: Counter::default(),
            services: Gauge::default(),
            frontends: Gauge::default(),
            backends: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Puts every metric into `registry` under its public name.
    pub fn register(&self, registry: &mut Registry) {
        self.register_as_kube_proxy(registry.sub_registry_with_prefix("kubeproxy"));
        let sheave = registry.sub_registry_with_prefix("sheave");
        register_process(sheave);
        sheave.register(
            "sync_duration_seconds",
            "Time to compute and write one batch of changes",
            self.sync_duration.clone(),
        );
        let help = "Time from the receipt of a change to the write that makes it visible";
        sheave.register("programming_latency_seconds", help, self.programming_latency.clone());
        sheave.register("map_writes", "Writes to the kernel maps by kind", self.map_writes.clone());
        sheave.register(
            "sync_errors",
            "Writes or readings of kernel maps that failed",
            self.sync_errors.clone(),
        );
        sheave.register(
            "refused_services",
            "Services that are not served as they should be",
            self.refused_services.clone(),
        );
        sheave.register(
            "drift_repaired",
            "Writes and attachings that audits needed to repair what had drifted",
            self.drift_repaired.clone(),
        );
        sheave.register("audits", "Audits carried out", self.audits.clone());
        let help = "UDP sockets closed because their backend had left";
        sheave.register("sockets_destroyed", help, self.sockets_destroyed.clone());
        sheave.register(
            "pod_repairs",
            "Leftovers of pods that were removed by kind",
            self.pod_repairs.clone(),
        );
        let help = "Flows removed because a pod gave its address back";
        sheave.register("released_flows", help, self.released_flows.clone());
        sheave.register("services", "Services that are served", self.services.clone());
        sheave.register("frontends", "Frontends that are served", self.frontends.clone());
        sheave.register("backends", "Distinct backends of all Services", self.backends.clone());
    }
}

impl Metrics {
    /// Under the names of kube-proxy (`pkg/proxy/metrics` of Kubernetes), for its dashboards: those that mean the same here.
    fn register_as_kube_proxy(&self, kubeproxy: &mut Registry) {
        let help = "Time to compute and write one batch of changes";
        kubeproxy.register("sync_proxy_rules_duration_seconds", help, self.sync_duration.clone());
        let help = "When all changes were written last, seconds since 1970";
        kubeproxy.register("sync_proxy_rules_last_timestamp_seconds", help, self.last_sync.clone());
        let help = "When a change was taken in last, seconds since 1970";
        kubeproxy.register("sync_proxy_rules_last_queued_timestamp_seconds", help, self.last_change.clone());
    }
}

fn register_process(registry: &mut Registry) {
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "Version of the agent", version);
    let start: Gauge = Gauge::default();
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    start.set(i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX));
    registry.register("start_time_seconds", "When the agent started, in seconds since 1970", start);
}

/// One metric that somebody else counts, with all its labelled values.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Name without the prefix; a counter's without `_total`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Whether it only ever grows.
    pub is_counter: bool,
    /// Values by labels.
    pub values: Vec<(Vec<(&'static str, String)>, f64)>,
}

/// Reads metrics that somebody else counts.
pub type ReadAtScrape = Arc<dyn Fn() -> Vec<Reading> + Send + Sync>;

/// Calls a [`ReadAtScrape`] at each scrape.
struct AtScrape(ReadAtScrape);

impl fmt::Debug for AtScrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtScrape")
    }
}

impl Collector for AtScrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        (self.0)().iter().try_for_each(|reading| encode_reading(&mut encoder, reading))
    }
}

fn encode_reading(encoder: &mut DescriptorEncoder<'_>, reading: &Reading) -> Result<(), fmt::Error> {
    let kind = if reading.is_counter { MetricType::Counter } else { MetricType::Gauge };
    let mut metric = encoder.encode_descriptor(reading.name, reading.help, None, kind)?;
    for (labels, value) in &reading.values {
        if labels.is_empty() {
            encode_value(&mut metric, reading.is_counter, *value)?;
        } else {
            encode_value(&mut metric.encode_family(labels)?, reading.is_counter, *value)?;
        }
    }
    Ok(())
}

fn encode_value(metric: &mut MetricEncoder<'_>, is_counter: bool, value: f64) -> Result<(), fmt::Error> {
    if is_counter {
        metric.encode_counter::<[(&str, &str); 0], _, f64>(&value, None)
    } else {
        metric.encode_gauge(&value)
    }
}

/// All metrics of a process, ready to be printed.
#[derive(Debug)]
pub struct Exposition(Registry);

impl Exposition {
    /// The agent's own metrics and those read at scrape time.
    pub fn new(metrics: &Metrics, read_at_scrape: ReadAtScrape) -> Self {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        registry.sub_registry_with_prefix("sheave").register_collector(Box::new(AtScrape(read_at_scrape)));
        Self(registry)
    }

    /// The content type of [`Exposition::text`].
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// OpenMetrics text.
    ///
    /// # Errors
    /// A metric refuses to be formatted.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.0)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposition(metrics: &Metrics) -> String {
        let read: ReadAtScrape = Arc::new(|| {
            vec![
                Reading {
                    name: "map_entries",
                    help: "Entries",
                    is_counter: false,
                    values: vec![(vec![("map", "ring".to_owned())], 7.0)],
                },
                Reading {
                    name: "datapath",
                    help: "Decisions",
                    is_counter: true,
                    values: vec![(vec![("outcome", "connect_tcp".to_owned())], 3.0)],
                },
            ]
        });
        Exposition::new(metrics, read).text().unwrap()
    }

    #[test]
    fn own_counts_and_counts_read_at_scrape_time_appear_under_their_names() {
        let metrics = Metrics::default();
        metrics.map_writes.get_or_create(&[("op", "service")]).inc_by(2);
        metrics.drift_repaired.inc();
        metrics.refused_services.set(4);
        metrics.sync_duration.observe(0.1);
        metrics.last_change.set(5.5);
        let text = exposition(&metrics);
        let expected = [
            "sheave_map_writes_total{op=\"service\"} 2\n",
            "sheave_drift_repaired_total 1\n",
            "sheave_refused_services 4\n",
            "sheave_map_entries{map=\"ring\"} 7.0\n",
            "sheave_datapath_total{outcome=\"connect_tcp\"} 3.0\n",
            "sheave_build_info{version=\"",
            "kubeproxy_sync_proxy_rules_duration_seconds_count 1\n",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds 0.0\n",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds 5.5\n",
            "# EOF\n",
        ];
        for line in expected {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn the_programming_latency_resolves_a_tenth_of_a_millisecond() {
        let metrics = Metrics::default();
        metrics.programming_latency.observe(0.00009);
        assert!(
            exposition(&metrics).contains("sheave_programming_latency_seconds_bucket{le=\"0.0001\"} 1\n")
        );
    }
}
