//! Whether the agent lives, is ready and serves, and the HTTP servers that say so.
//!
//! The bodies are those of kube-proxy (`pkg/proxy/healthcheck` of Kubernetes), as load balancers and their controllers
//! read them. Must not know how anything is written.

mod body;
mod readiness;
mod server;
mod service_ports;

pub use readiness::{Attachment, Readiness};
pub use server::{health_router, metrics_router, serve};
pub use service_ports::serve_health_check_ports;
