//! What the packet path does with one packet: parse, look up, select, translate, refuse. Pure: packets and tables are
//! behind two traits, so that the same code runs in the kernel programs and, over bytes in memory, in tests.
//!
//! Written for the verifier as well as for people: whatever exists only in some cases is written through `&mut` into
//! [`Work`], results are enums of one word, and every function is inlined into its program. Must not know aya, a map,
//! or Kubernetes.
#![no_std]
#![warn(missing_docs)]

#[cfg(any(test, feature = "simulation"))]
extern crate std;

mod answer;
pub mod checksum;
pub mod crc32c;
mod entry;
mod env;
mod errors;
mod flow;
mod forward;
mod fragment;
mod lookup;
mod masquerade;
mod onward;
mod parse;
mod refuse;
mod reply;
mod select;
mod shortcut;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod source_port;
pub mod state;
mod translate;
mod wire;
mod work;

pub use entry::{Place, egress, ingress};
pub use env::{Env, LONGEST_SUM, Packet, Reached, Read, Step, Sum, Tables};
pub use parse::{Fragment, Headers, Parsed, network, parse};
pub use refuse::{IcmpError, icmp_error, reset};
pub use translate::{Ends, rewrite_destination, rewrite_quoted, rewrite_source};
pub use wire::Wire;
pub use work::{Route, Verdict, Work};
