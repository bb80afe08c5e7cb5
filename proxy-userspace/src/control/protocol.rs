//! What is said on the control socket.
//!
//! Must not know how it is computed or shown.

use serde::{Deserialize, Serialize};

use super::views::{BackendView, EventView, MapView, ServiceView};

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
    /// Services that do not fit into the maps, with the remedy.
    pub refused: Vec<String>,
    /// What is wrong with objects.
    pub warnings: Vec<String>,
}

/// One part of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subsystem {
    /// Its name.
    pub name: String,
    /// How it is, in a few words.
    pub state: String,
}
