//! What the control socket answers from.
//!
//! Must not know the socket.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use cni::{record::AttachmentId, store::Room};
use proxy_common::SocketLb;
use tokio::{
    sync::{mpsc, oneshot},
    task,
};

use super::{
    device_view::DeviceStates,
    protocol::{StatusView, Subsystem, drops},
    views::Views,
};
use crate::{
    dataplane::{DataPlane, Observer},
    health::{Attachment, Readiness},
    pods::{
        host_ports::{HostPorts, PodCounts},
        room,
    },
    reconcile::{Event, FrontendNames, HostPortsError, ProgressReport, Question},
    watch::SourceStatus,
};

/// Handles on the parts of a running agent.
pub struct AgentState {
    /// This node's name.
    pub node_name: String,
    /// How the agent is.
    pub readiness: Arc<Readiness>,
    /// The maps, for reading.
    pub observer: Arc<Observer>,
    /// The programs.
    pub data_plane: Arc<Mutex<DataPlane>>,
    /// The devices.
    pub devices: Arc<DeviceStates>,
    /// Whose sockets are translated.
    pub socket_lb: SocketLb,
    /// The loop.
    pub questions: mpsc::Sender<Event>,
    /// Host ports of this node's pods; `None`: pods are not ours.
    pub pods: Option<Arc<HostPorts>>,
    /// Where the plugin keeps addresses.
    pub run_dir: PathBuf,
}

impl AgentState {
    pub(super) fn status(&self) -> StatusView {
        let obstacles = self.readiness.obstacles();
        let progress = self.readiness.progress().report();
        StatusView {
            agent_running: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node_name.clone(),
            ready: obstacles.is_empty(),
            obstacles,
            subsystems: self.subsystems(&progress),
            devices: self.devices.get(),
            drops: drops(&self.observer.counters().unwrap_or_default()),
            refused: progress.refused,
            warnings: progress.warnings,
        }
    }

    fn subsystems(&self, progress: &ProgressReport) -> Vec<Subsystem> {
        let subsystem = |name: &str, state: String| Subsystem { name: name.to_owned(), state };
        let attached = match self.readiness.attachment() {
            Attachment::Waiting if self.readiness.succeeds_another() => {
                "not attached yet; those of an earlier agent go on serving".to_owned()
            }
            Attachment::Waiting => "not attached yet".to_owned(),
            Attachment::Working { cgroup } if self.socket_lb == SocketLb::Off => {
                format!("attached to {cgroup}")
            }
            Attachment::Working { cgroup } => format!("attached to {cgroup}, probe translated"),
            Attachment::Failed { reason } => reason,
        };
        let sources = self.readiness.sources().sources().into_iter();
        let sources = sources
            .map(|source| subsystem(&format!("{:?}", source.source).to_lowercase(), describe(&source)));
        let own = [
            subsystem("programs", attached),
            subsystem("sockets", translated(self.socket_lb).to_owned()),
            subsystem("maps", written(progress)),
        ];
        let pods = self.pods.iter().flat_map(|pods| {
            let addresses = room::of_node(&self.run_dir).map_err(|error| error.to_string());
            [
                subsystem("pods", attached_pods(pods.counts())),
                subsystem("addresses of pods", given(addresses)),
            ]
        });
        own.into_iter().chain(pods).chain(sources).collect()
    }

    /// Returns when the attachment's host ports are in the maps.
    pub(super) async fn serve_ports(&self, id: AttachmentId) -> Result<(), HostPortsError> {
        let none =
            || HostPortsError::NotYet("the agent wires no pods: start it with --pod-network=true".into());
        self.pods.as_ref().ok_or_else(none)?.serve(&id).await
    }

    /// What the kernel has, under the names the loop knows. `None` if it cannot be read.
    pub(super) async fn views(&self) -> Result<Views, String> {
        let names = self.names().await;
        let observer = Arc::clone(&self.observer);
        let views = task::spawn_blocking(move || observer.dump().map(|dump| Views::new(&dump, &names)));
        views.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Whose the frontends are; empty if the loop is gone.
    pub(super) async fn names(&self) -> FrontendNames {
        let (answer, names) = oneshot::channel();
        if self.questions.send(Event::Ask(Question::FrontendNames(answer))).await.is_err() {
            return FrontendNames::new();
        }
        names.await.unwrap_or_default()
    }
}

/// Whose sockets are translated, and what of the others.
fn translated(socket_lb: SocketLb) -> &'static str {
    match socket_lb {
        SocketLb::All => "all are translated (--socket-lb=all)",
        SocketLb::Host => "the host's are translated, the others' packets are (--socket-lb=host)",
        SocketLb::Off => "none is translated, packets are (--socket-lb=off)",
    }
}

/// How many pods there are.
fn attached_pods(counts: Result<PodCounts, String>) -> String {
    match counts {
        Err(error) => format!("unknown: {error}"),
        Ok(PodCounts { wired, reserved, host_ports }) => {
            let being = if reserved > 0 { format!(", {reserved} being attached") } else { String::new() };
            format!("{wired} attached{being}, {host_ports} host ports")
        }
    }
}

/// How full the node's ranges are.
fn given(ranges: Result<Vec<Room>, String>) -> String {
    let ranges = match ranges {
        Err(error) => return format!("unknown: {error}"),
        Ok(ranges) if ranges.is_empty() => return "the node has no range yet".to_owned(),
        Ok(ranges) => ranges,
    };
    let text = |Room { range, capacity, used }: &Room| {
        let full = if u128::from(*used) >= *capacity { " (none is free)" } else { "" };
        format!("{used} of {capacity} of {range}{full}")
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// What is in the maps, and what is not.
fn written(progress: &ProgressReport) -> String {
    let ProgressReport { services, frontends, error, refused, synced, .. } = progress;
    let state = match error.as_deref() {
        Some(error) => error,
        None if *synced => "as wanted",
        None => return "nothing written yet: not everything is listed; what was there stays".to_owned(),
    };
    let but = match refused.len() {
        0 => String::new(),
        number => format!("; {number} more refused, as they do not fit"),
    };
    format!("{services} Services, {frontends} frontends: {state}{but}")
}

fn describe(source: &SourceStatus) -> String {
    let listed = if source.listed { "listed" } else { "not listed yet" };
    let age = source.age.map_or_else(String::new, |age| format!(", heard of {:.1} s ago", age.as_secs_f64()));
    let error = source.error.as_ref().map_or_else(String::new, |error| format!(", error: {error}"));
    format!("{listed}{age}, {} restarts{error}", source.restarts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_counted_by_how_far_they_got() {
        let counts = PodCounts { wired: 3, reserved: 0, host_ports: 1 };
        assert_eq!(attached_pods(Ok(counts)), "3 attached, 1 host ports");
        let counts = PodCounts { reserved: 2, ..counts };
        assert_eq!(attached_pods(Ok(counts)), "3 attached, 2 being attached, 1 host ports");
        assert_eq!(attached_pods(Err("no disk".to_owned())), "unknown: no disk");
    }

    #[test]
    fn how_many_addresses_are_given_is_told_by_range() {
        let room = |range: &str, capacity, used| Room { range: range.parse().unwrap(), capacity, used };
        let ranges = vec![room("10.1.0.0/24", 253, 3), room("fd00::/126", 2, 2)];
        assert_eq!(given(Ok(ranges)), "3 of 253 of 10.1.0.0/24, 2 of 2 of fd00::/126 (none is free)");
        assert_eq!(given(Ok(Vec::new())), "the node has no range yet");
        assert_eq!(given(Err("no disk".to_owned())), "unknown: no disk");
    }

    #[test]
    fn services_that_do_not_fit_are_not_counted_as_served() {
        let progress = ProgressReport {
            synced: true,
            services: 3,
            frontends: 8,
            error: None,
            refused: vec!["shop/cart".to_owned()],
            warnings: Vec::new(),
        };
        assert_eq!(
            written(&progress),
            "3 Services, 8 frontends: as wanted; 1 more refused, as they do not fit"
        );
        let full = ProgressReport { refused: Vec::new(), ..progress };
        assert_eq!(written(&full), "3 Services, 8 frontends: as wanted");
    }
}
