//! The words of the CNI specification (<https://github.com/containernetworking/cni>, `SPEC.md`): what a call is, what an
//! answer is.
//!
//! Must not know what is done with a call.

mod call;
mod error;
mod keys;
mod outcome;
mod version;

pub(crate) use call::is_identifier;
pub use call::{Call, CallError, Verb};
pub use error::{Code, Error};
pub use keys::lookup;
pub use outcome::{Added, Dns, interface_in, version_answer};
pub use version::Version;
