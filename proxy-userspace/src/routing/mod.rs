//! The ways to the pods of other nodes, and what the plugin is told of this node.
//!
//! Level-triggered: every change leads to a complete reading, a plan ([`proxy_core::nodes`]) and the steps from one to
//! the other (`steps`). Only routes with [`PROTOCOL`] and the device [`DEVICE`] are touched, and of the routes only
//! those that have a gateway or lead nowhere: those without one are the plugin's, to pods of this node.
//! Must not know Services.

mod apply;
mod facts;
mod netconf;
mod read;
mod router;
mod state;
mod steps;
mod sysctl;

pub use facts::FactsFile;
pub use router::{Router, RoutingError, cleanup};

/// `rtm_protocol` of every route that Sheave makes.
pub const PROTOCOL: u8 = cni::wire::SHEAVE_PROTOCOL;
/// The tunnel's device.
pub const DEVICE: &str = "sheave.vxlan";
