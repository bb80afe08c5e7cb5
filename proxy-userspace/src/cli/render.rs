//! `sheave render`: what a node would do with a set of manifests, without a kernel, an agent or root.
//!
//! Must not know how manifests are written, nor decide anything.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use proxy_core::{
    desired::{DesiredService, Engine, FrontendRow, Settings},
    entries::text,
    model::ObjectName,
};
use serde::Serialize;

use super::{CliError, Format, Output};
use crate::watch::{WatchError, manifests::Manifests};

#[derive(Debug, Args)]
pub(super) struct RenderArgs {
    /// File, folder or - (the standard input) with Services, EndpointSlices, Nodes and Lists, in YAML or JSON
    #[arg(long, value_name = "PATH")]
    manifests: PathBuf,
    /// The node to compute for; its Node object, if there is one, gives its zone and addresses
    #[arg(long, value_name = "NAME")]
    node_name: String,
    #[command(flatten)]
    output: Output,
}

/// Everything a node would do. The JSON that `-o json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rendered {
    node: String,
    frontends: Vec<RenderedFrontend>,
    health_check_node_ports: Vec<RenderedHealthCheck>,
    warnings: Vec<String>,
}

/// One frontend in one scope.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RenderedFrontend {
    service: String,
    port_name: String,
    kind: &'static str,
    /// `*`: every address of the node, whose Node object was not given.
    address: String,
    port: u16,
    protocol: &'static str,
    scope: &'static str,
    /// Sorted as text.
    backends: Vec<String>,
    when_empty: &'static str,
    affinity_seconds: u32,
    source_ranges: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RenderedHealthCheck {
    service: String,
    port: u16,
    local_ready: usize,
}

/// Prints it. Fails if the manifests cannot be opened or nothing in them can be used.
pub(super) fn run(args: &RenderArgs) -> Result<ExitCode, CliError> {
    let manifests = Manifests::read(&args.manifests)
        .map_err(|source| WatchError::Manifests { path: args.manifests.clone(), source })?;
    refuse_rubble(&manifests)?;
    let text = match args.output.format {
        Format::Text => text_of(&manifests, &args.node_name),
        Format::Json => {
            let (desired, warnings) = decide(&manifests, &args.node_name);
            format!("{}\n", serde_json::to_string_pretty(&rendered(&args.node_name, &desired, warnings))?)
        }
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// An error if there was something to read and nothing of it can be used.
fn refuse_rubble(manifests: &Manifests) -> Result<(), CliError> {
    let objects = manifests.services.len() + manifests.slices.len() + manifests.nodes.len();
    let broken: Vec<_> = manifests.problems.iter().filter(|problem| problem.broken).collect();
    if objects > 0 || broken.is_empty() {
        return Ok(());
    }
    let reasons: Vec<_> = broken.iter().map(ToString::to_string).collect();
    Err(CliError::Refused(format!("nothing in the manifests can be used:\n  {}", reasons.join("\n  "))))
}

/// The desired state of every Service, and all warnings.
fn decide(manifests: &Manifests, node_name: &str) -> (BTreeMap<ObjectName, DesiredService>, Vec<String>) {
    let mut engine = Engine::new(Settings { node_name: node_name.to_owned(), ..Settings::default() });
    for event in manifests.events(node_name) {
        engine.handle(event);
    }
    let desired: BTreeMap<_, _> =
        engine.refresh().into_iter().filter_map(|(name, desired)| Some((name, desired?))).collect();
    let mut warnings: Vec<_> = manifests.problems.iter().map(ToString::to_string).collect();
    if desired.values().any(|service| service.ports.iter().any(|port| !port.unbound.is_empty())) {
        warnings.push(format!("Node {node_name} is not in the manifests: \"*\" stands for its addresses"));
    }
    warnings.extend(engine.warnings().map(ToString::to_string));
    (desired, warnings)
}

fn rendered(
    node_name: &str,
    desired: &BTreeMap<ObjectName, DesiredService>,
    warnings: Vec<String>,
) -> Rendered {
    let mut rows: Vec<_> = desired.values().flat_map(DesiredService::rows).collect();
    rows.sort_by_key(|row| (row.name, row.kind, row.address, row.port, row.scope));
    Rendered {
        node: node_name.to_owned(),
        frontends: one_star_each(rows.iter().map(frontend)),
        health_check_node_ports: health_checks(desired).collect(),
        warnings,
    }
}

/// A dual-stack NodePort has a star for each family: one entry, as every other frontend and scope has one. Its
/// backends are those of both families, and a client of one family gets those of that family.
fn one_star_each(frontends: impl Iterator<Item = RenderedFrontend>) -> Vec<RenderedFrontend> {
    let mut merged: Vec<RenderedFrontend> = Vec::new();
    for frontend in frontends {
        match merged.last_mut().filter(|last| last.is_same_star(&frontend)) {
            Some(last) => {
                last.backends.extend(frontend.backends);
                last.backends.sort();
            }
            None => merged.push(frontend),
        }
    }
    merged
}

impl RenderedFrontend {
    fn is_same_star(&self, other: &Self) -> bool {
        let identity = |frontend: &Self| {
            (
                frontend.service.clone(),
                frontend.port_name.clone(),
                frontend.port,
                frontend.protocol,
                frontend.scope,
            )
        };
        self.address == "*" && other.address == "*" && identity(self) == identity(other)
    }
}

fn frontend(row: &FrontendRow<'_>) -> RenderedFrontend {
    let mut backends: Vec<_> = row.backends.iter().map(ToString::to_string).collect();
    backends.sort();
    RenderedFrontend {
        service: row.name.service.to_string(),
        port_name: row.name.port_name.clone(),
        kind: row.kind.as_str(),
        address: row.address.map_or_else(|| "*".to_owned(), |address| address.to_string()),
        port: row.port,
        protocol: row.protocol.as_str(),
        scope: row.scope.as_str(),
        backends,
        when_empty: row.when_empty.as_str(),
        affinity_seconds: row.affinity_seconds,
        source_ranges: row.source_ranges.iter().map(ToString::to_string).collect(),
    }
}

fn health_checks(
    desired: &BTreeMap<ObjectName, DesiredService>,
) -> impl Iterator<Item = RenderedHealthCheck> {
    desired.iter().filter_map(|(name, service)| {
        let check = service.health_check.as_ref()?;
        Some(RenderedHealthCheck {
            service: name.to_string(),
            port: check.port,
            local_ready: check.local_ready,
        })
    })
}

/// The frontends in the one text format of frontends; the rest as comments.
fn text_of(manifests: &Manifests, node_name: &str) -> String {
    let (desired, warnings) = decide(manifests, node_name);
    let unbound: Vec<_> = desired.values().map(unbound).collect();
    let mut lines: Vec<String> = text::of_desired(desired.values()).iter().map(ToString::to_string).collect();
    lines.extend(text::of_desired(&unbound).iter().map(|line| starred(&line.to_string())));
    lines.extend(health_checks(&desired).map(|check| {
        let RenderedHealthCheck { service, port, local_ready } = check;
        format!("# health check of {service} on port {port}: {local_ready} ready here")
    }));
    lines.extend(warnings.iter().map(|warning| format!("# warning: {warning}")));
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

/// The line with a star for the unspecified address, which stands for any.
fn starred(line: &str) -> String {
    let rest = line.strip_prefix("0.0.0.0").or_else(|| line.strip_prefix("[::]")).unwrap_or(line);
    format!("*{rest}")
}

/// The Service with those frontends whose address nobody has told.
fn unbound(service: &DesiredService) -> DesiredService {
    let mut service = service.clone();
    for port in &mut service.ports {
        port.frontends = std::mem::take(&mut port.unbound);
    }
    service
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
