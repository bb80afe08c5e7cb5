//! The node's network devices: which there are, which get programs, and which addresses the node has on them.
//!
//! One reading of links, addresses and routes ([`Snapshot`]) is the only truth; [`choose()`] decides from it, purely.
//! Level-triggered: any notification leads to a complete new reading, so that a lost one costs nothing but time. Must
//! not know what programs do, nor what the addresses are used for.

mod choice;
mod inhabited;
pub(crate) mod netlink;
mod pattern;
mod primary;
mod queue;
mod snapshot;
mod watch;

pub use choice::{Choice, Chosen, Selection, choose};
pub use inhabited::{Pairs, pairs};
pub use netlink::{ReadError, read};
pub use pattern::{Pattern, PatternError};
pub use queue::pacing;
pub use snapshot::{DefaultRoute, DeviceAddress, Link, Snapshot};
pub use watch::{other_primary, tell_addresses, watch};
