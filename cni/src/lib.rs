//! THE POD WIRING: what the short-lived plugin `sheave-cni` does, and what the agent must know of it to repair it.
//!
//! Every call of the plugin works with the agent down. Must not know Services, the API server, nor how an agent works.

pub mod agent;
pub mod config;
pub mod facts;
pub mod record;
pub mod spec;
pub mod store;
pub mod verbs;
pub mod wire;
