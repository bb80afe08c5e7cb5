//! Harness for the tests that need root.

pub mod agent;
pub mod bpffs;
pub mod cgroup;
pub mod client;
pub mod cluster;
pub mod controlplane;
pub mod lab;
pub mod netns;
pub mod objects;
pub mod plane;
pub mod process;
pub mod proxy;
pub mod requests;
pub mod server;
pub mod wait;
