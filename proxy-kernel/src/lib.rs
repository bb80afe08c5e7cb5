//! THE KERNEL CALLS that no library offers: what the agent and the plugin both need of bpf(2) and of
//! network namespaces, and the host's settings from inside a container.
//!
//! Thin: one function a call, errors as the kernel gives them. Must not know Services, pods, or why anything is called.

pub mod bpf;
pub mod clsact;
mod detached;
pub mod element;
mod netns;
mod sysctl;

pub use detached::Detached;
pub use netns::{netns_cookie, netns_cookie_of};
pub use sysctl::write_setting;
