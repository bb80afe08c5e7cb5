//! The kernel form of desired state, its reading back, and its text.
//!
//! Must not know which ids are free or in which order records are written.

mod backend;
mod record;
pub mod text;

pub use backend::BackendKey;
pub use record::{RecordKey, RingSlice};
pub(crate) use record::{RecordKind, canonical, list, masked_ranges, record};
