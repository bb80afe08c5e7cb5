//! The control socket: a unix socket on which the command line asks a running agent.
//!
//! One JSON object a line each way: a [`Request`], then one [`Reply`] (or, for `monitor`, one after another until either
//! side closes). The socket is for root alone. Must not know how an answer is shown.

mod client;
mod device_view;
mod monitor;
mod protocol;
mod server;
mod state;
mod views;

pub use client::{Client, ClientError};
pub use device_view::{DeviceStates, DeviceView, devices_left};
pub use protocol::{Reply, Request, StatusView, Subsystem, drops};
pub use server::{ServerError, serve};
pub use state::AgentState;
pub use views::{BackendView, EventView, MapView, ServiceView, Views};
