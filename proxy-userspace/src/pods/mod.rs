//! The agent's side of pods: what the plugin remembers of them, what has to be repaired, and how the plugin gets onto the
//! node.
//!
//! Must not know how a pod is wired, nor what a host port becomes in the kernel.

pub mod addresses;
pub mod host_ports;
pub mod install;
pub mod repair;
pub mod room;
#[cfg(test)]
pub(crate) mod sample;
