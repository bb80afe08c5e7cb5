//! The effects: the agent and the command line `sheave`.
//!
//! The module order is the order of the data: [`config`] (what the user said) -> [`watch`] and [`devices`] (what the
//! cluster and the node say) -> [`reconcile`] (one loop around `proxy-core`'s decisions) -> [`dataplane`] and
//! [`sockets`] (the kernel), beside them [`routing`] (the ways to other nodes) and [`pods`] (what the CNI plugin did),
//! with [`metrics`], [`health`] and [`control`] to look at it and [`cli`] to drive it.
//! Only `watch` knows Kubernetes types, only `dataplane` knows aya.

pub mod config;

pub mod devices;
pub mod watch;

pub mod reconcile;
pub mod routing;

pub mod dataplane;
pub mod sockets;

pub mod pods;

pub mod control;
pub mod health;
pub mod metrics;

pub mod cli;
