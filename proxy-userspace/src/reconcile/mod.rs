//! One loop between the sources and the kernel: changes in, desired state out of `proxy-core`, writes one by one.
//!
//! [`Loop`] owns time (when to write, when to retry, when to audit), [`Reconciler`] owns state (what is wanted, what is
//! realised). Must not know where changes come from, nor that the maps are in the kernel.

mod event_loop;
#[cfg(test)]
mod host_port_tests;
mod ledger;
mod pace;
mod progress;
mod reconciler;
#[cfg(test)]
mod tests;
mod udp;

pub use event_loop::{Event, GraceWait, HostPortsError, Loop, Question, Settings};
pub use progress::{NodeState, Progress, ProgressReport};
pub use reconciler::{FrontendName, FrontendNames, HealthChecks, Reconciler, SyncError};
pub use udp::end_udp_sockets;
