//! Harness for the tests that need root.

pub mod agent;
pub mod bpffs;
pub mod cgroup;
pub mod client;
pub mod cluster;
pub mod cni;
pub mod controlplane;
pub mod deployment;
pub mod echo;
mod http;
pub mod kube_proxy;
pub mod lab;
pub mod netns;
pub mod objects;
pub mod offload;
pub mod plane;
pub mod probe;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod requests;
pub mod scenario;
pub mod server;
pub mod test_run;
pub mod topology;
pub mod wait;
