//! What is said on the control socket.
//!
//! Must not know how it is computed or shown.

use std::collections::BTreeMap;

use proxy_common::Counter;
use serde::{Deserialize, Serialize};

use super::{
    device_view::DeviceView,
    views::{BackendView, EventView, MapView, ServiceView},
};

/// A question, one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Request {
    /// How the agent is.
    Status,
    /// What the kernel serves.
    Services,
    /// What the kernel's backends are.
    Backends,
    /// How full the maps are.
    Maps,
    /// Every decision at a socket from now on.
    Monitor,
    /// The plugin's: that the host ports of an attachment be served; answered when they are.
    #[serde(rename_all = "camelCase")]
    PodPorts {
        /// `CNI_CONTAINERID`.
        container_id: String,
        /// `CNI_IFNAME`.
        ifname: String,
    },
}

/// An answer, one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<StatusView>),
    /// To [`Request::Services`].
    Services(Vec<ServiceView>),
    /// To [`Request::Backends`].
    Backends(Vec<BackendView>),
    /// To [`Request::Maps`].
    Maps(Vec<MapView>),
    /// To [`Request::Monitor`], when events begin to flow.
    Monitoring,
    /// To [`Request::Monitor`], one for each decision.
    Event(Box<EventView>),
    /// To [`Request::PodPorts`].
    Done,
    /// To [`Request::PodPorts`]: they cannot be served as they are asked for.
    Refused(String),
    /// There is no answer.
    Error(String),
}

/// How the agent is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    /// Whether an agent runs and answers.
    pub agent_running: bool,
    /// Version of the agent, or of the command line if no agent runs.
    pub version: String,
    /// The node's name; empty if no agent runs.
    pub node: String,
    /// Whether everything is in force.
    pub ready: bool,
    /// Why not.
    pub obstacles: Vec<String>,
    /// The parts.
    pub subsystems: Vec<Subsystem>,
    /// The devices that have or should have programs.
    pub devices: Vec<DeviceView>,
    /// What was refused and dropped since the maps were made, by reason; only what occurred.
    pub drops: BTreeMap<String, u64>,
    /// Services that do not fit into the maps, with the remedy.
    pub refused: Vec<String>,
    /// What is wrong with objects.
    pub warnings: Vec<String>,
}

/// The reasons for refusals and drops that occurred.
pub fn drops(counters: &[(Counter, u64)]) -> BTreeMap<String, u64> {
    let is_drop = |label: &str| label.starts_with("refused_") || label.starts_with("dropped_");
    let occurred = counters.iter().filter(|(counter, count)| *count > 0 && is_drop(counter.label()));
    occurred.map(|(counter, count)| (counter.label().to_owned(), *count)).collect()
}

/// One part of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subsystem {
    /// Its name.
    pub name: String,
    /// How it is, in a few words.
    pub state: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_and_the_agent_mean_the_same_words() {
        let line = r#"{"ask":"pod-ports","containerId":"c1","ifname":"eth0"}"#;
        let wanted = Request::PodPorts { container_id: "c1".to_owned(), ifname: "eth0".to_owned() };
        assert_eq!(serde_json::from_str::<Request>(line).unwrap(), wanted);
        assert_eq!(serde_json::to_string(&Reply::Done).unwrap(), r#""done""#);
        assert_eq!(serde_json::to_string(&Reply::Error("x".to_owned())).unwrap(), r#"{"error":"x"}"#);
        assert_eq!(serde_json::to_string(&Reply::Refused("x".to_owned())).unwrap(), r#"{"refused":"x"}"#);
    }

    #[test]
    fn only_reasons_for_refusals_and_drops_that_occurred_are_told() {
        let counters = [
            (Counter::ConnectTcp, 4),
            (Counter::DroppedLoop, 2),
            (Counter::RefusedNoEndpoint, 1),
            (Counter::DroppedNoRoute, 0),
        ];
        let told: Vec<_> = drops(&counters).into_iter().collect();
        assert_eq!(told, [("dropped_routing_loop".to_owned(), 2), ("refused_no_endpoint".to_owned(), 1)]);
    }
}
