//! Single fields, and how a bad one is reported.
//!
//! Must not know what a field decides.

use proxy_common::Protocol;

use super::types::{Warning, WarningReason};
use crate::model::ObjectName;

/// Collects the warnings about one object.
pub(super) struct Report<'a> {
    kind: &'static str,
    object: &'a ObjectName,
    warnings: &'a mut Vec<Warning>,
}

impl<'a> Report<'a> {
    /// For a Service, an EndpointSlice or a Node, as `kind` says.
    pub(super) fn new(kind: &'static str, object: &'a ObjectName, warnings: &'a mut Vec<Warning>) -> Self {
        Self { kind, object, warnings }
    }

    /// `field` is not what the API allows.
    pub(super) fn invalid(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.warn(WarningReason::InvalidField, field, message);
    }

    /// Something else is wrong with `field`.
    pub(super) fn warn(
        &mut self,
        reason: WarningReason,
        field: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.warnings.push(Warning {
            kind: self.kind,
            object: self.object.clone(),
            field: field.into(),
            reason,
            message: message.into(),
        });
    }
}

/// A port number, 1..=65535.
pub(super) fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// A protocol; empty means TCP.
pub(super) fn protocol(
    text: &str,
    field: impl FnOnce() -> String,
    report: &mut Report<'_>,
) -> Option<Protocol> {
    match text {
        "" | "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => {
            report.invalid(
                field(),
                format!("unknown protocol `{text}`; this port is ignored: use TCP, UDP or SCTP"),
            );
            None
        }
    }
}

/// The message for a port number outside 1..=65535.
pub(super) fn port_message(number: i32, consequence: &str) -> String {
    format!("{number} is not a port number; {consequence}: use 1 to 65535")
}
