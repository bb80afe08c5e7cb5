//! CNI plugins as programs: calls, a node for them to work on, and a census of what they leave there.
//!
//! Must not know: what a plugin should do (`tests/cni`).

mod call;
mod census;
mod pins;
mod stage;
mod subject;

pub use call::{Answer, Call, Plugin, Refusal};
pub use census::{Census, ask};
pub use pins::Pins;
pub use stage::{IFNAME, Pod, Stage, exchange};
pub use subject::{Kind, Subject};
