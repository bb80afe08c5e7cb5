//! From texts to the typed configuration.
//!
//! Must not know where a text comes from, but for naming it in an error.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use ipnetwork::IpNetwork;

use super::{Config, ConfigError, LogFormat, NodePortAddresses, Origin, Resolved, SourceConfig};
use crate::dataplane::Capacities;

/// Smallest and largest capacity of a map. The probe takes one place; 2^26 ring positions are 256 MiB.
const CAPACITY: RangeInclusive<u32> = 16..=67_108_864;

/// The default of `node-name`: what the kubelet registers when nothing else is configured.
pub(super) fn fill_in_node_name(resolved: &mut [Resolved]) {
    let host_name = || nix::unistd::gethostname().ok()?.into_string().ok();
    for entry in
        resolved.iter_mut().filter(|entry| entry.setting.name == "node-name" && entry.value.is_none())
    {
        entry.value = host_name().map(|name| name.to_lowercase());
    }
}

/// Reads settings by name.
pub(super) struct Reader<'a> {
    resolved: &'a [Resolved],
}

impl<'a> Reader<'a> {
    pub(super) fn new(resolved: &'a [Resolved]) -> Self {
        Self { resolved }
    }

    pub(super) fn config(&self) -> Result<Config, ConfigError> {
        let audit = self.number("audit-interval", 0..=604_800)?;
        Ok(Config {
            source: self.source()?,
            node_name: self.checked("node-name", node_name)?,
            cgroup: self.path("cgroup"),
            pin_dir: self.absolute("pin-dir")?,
            run_dir: self.absolute("run-dir")?,
            capacities: self.capacities()?,
            node_port_addresses: self.checked("node-port-addresses", node_port_addresses)?,
            packet: self.packet()?,
            pods: self.pods(self.checked("node-name", node_name)?)?,
            service_proxy_name: self.text("service-proxy-name").filter(|name| !name.is_empty()),
            watch_timeout: self.number("watch-timeout", 5..=290).map(seconds)?,
            min_sync_interval: self.number("min-sync-interval", 0..=10_000).map(milliseconds)?,
            audit_interval: (audit > 0).then(|| seconds(audit)),
            health_address: self.parsed::<SocketAddr>("health-address")?,
            metrics_address: self.parsed::<SocketAddr>("metrics-address")?,
            log_level: self.checked("log-level", log_filter)?,
            log_format: self.checked("log-format", log_format)?,
        })
    }

    fn source(&self) -> Result<SourceConfig, ConfigError> {
        let (kubeconfig, api_servers) = (self.path("kubeconfig"), self.api_servers());
        let Some(folder) = self.path("manifests") else {
            return Ok(SourceConfig::Kubernetes { kubeconfig, api_servers });
        };
        let conflict = |first| ConfigError::Conflict {
            first,
            first_origin: self.origin(first),
            second: "manifests",
            second_origin: self.origin("manifests"),
        };
        match kubeconfig {
            Some(_) => Err(conflict("kubeconfig")),
            None if !api_servers.is_empty() => Err(conflict("api-servers")),
            None => Ok(SourceConfig::Manifests(folder)),
        }
    }

    fn api_servers(&self) -> Vec<String> {
        let text = self.text("api-servers").unwrap_or_default();
        text.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect()
    }

    fn capacities(&self) -> Result<Capacities, ConfigError> {
        Ok(Capacities {
            services: self.number("services-max", CAPACITY)?,
            ring: self.number("ring-max", CAPACITY)?,
            backends: self.number("backends-max", CAPACITY)?,
            affinity: self.number("affinity-max", CAPACITY)?,
            source_ranges: self.number("source-ranges-max", CAPACITY)?,
            flows: self.number("flows-max", CAPACITY)?,
        })
    }

    fn entry(&self, name: &str) -> Option<&'a Resolved> {
        self.resolved.iter().find(|entry| entry.setting.name == name)
    }

    pub(super) fn origin(&self, name: &str) -> Origin {
        self.entry(name).map_or(Origin::Default, |entry| entry.origin)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.entry(name)?.value.clone()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    fn absolute(&self, name: &'static str) -> Result<PathBuf, ConfigError> {
        self.checked(name, |text| {
            let path = PathBuf::from(text);
            if path.is_absolute() { Ok(path) } else { Err("expected an absolute path") }
        })
    }

    pub(super) fn number(&self, name: &'static str, range: RangeInclusive<u32>) -> Result<u32, ConfigError> {
        self.checked(name, |text| {
            let number = text.trim().parse().ok().filter(|number| range.contains(number));
            number.ok_or_else(|| format!("expected a number from {} to {}", range.start(), range.end()))
        })
    }

    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, name: &'static str) -> Result<T, ConfigError> {
        self.checked(name, |text| text.trim().parse())
    }

    pub(super) fn checked<T, E: Display>(
        &self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        let value = self.text(name).unwrap_or_default();
        parse(&value).map_err(|error| ConfigError::Invalid {
            name,
            origin: self.origin(name),
            reason: error.to_string(),
            value,
        })
    }
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(number.into())
}

fn milliseconds(number: u32) -> Duration {
    Duration::from_millis(number.into())
}

fn node_name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        Err("there is no host name to take; set the node's name")
    } else {
        Ok(text.to_owned())
    }
}

fn node_port_addresses(text: &str) -> Result<NodePortAddresses, String> {
    match text.trim() {
        "all" => Ok(NodePortAddresses::All),
        "primary" => Ok(NodePortAddresses::Primary),
        list => list
            .split(',')
            .map(|part| prefix(part.trim()))
            .collect::<Result<_, _>>()
            .map(NodePortAddresses::Within),
    }
}

fn prefix(text: &str) -> Result<IpNetwork, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is neither `all`, `primary` nor a prefix such as 192.0.2.0/24"))
}

fn log_filter(text: &str) -> Result<String, String> {
    // The filter would take a misspelt level for the name of a module, and then nothing is logged at all.
    let is_level = |word: &str| word.parse::<tracing::level_filters::LevelFilter>().is_ok();
    if let Some(word) = text.split(',').map(str::trim).find(|part| !part.contains('=') && !is_level(part)) {
        return Err(format!(
            "`{word}` is no level: expected error, warn, info, debug or trace, or MODULE=LEVEL"
        ));
    }
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        Ok(_) => Err("expected error, warn, info, debug or trace".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn log_format(text: &str) -> Result<LogFormat, &'static str> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("expected `text` or `json`"),
    }
}
