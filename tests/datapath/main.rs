//! Real traffic through the real programs and maps: sockets in namespaces, one node with its pods.
//!
//! Each test has a node of its own; the tests take turns, because a process can be in one cgroup at a time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod affinity;
mod agent;
mod agent_commands;
mod annotation;
mod bpffs;
mod churn;
mod devices;
mod host_ports;
mod keeper;
mod leaving;
mod locality;
mod monitor;
mod node;
mod node_port;
mod refusal;
mod restart;
mod tcp;
mod udp;
mod world;
