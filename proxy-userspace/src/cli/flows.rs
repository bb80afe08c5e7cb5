//! `sheave flow list`: the connection table of the packet path.
//!
//! Must not know how it is read.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use proxy_common::{FlowFlags, Protocol};
use serde::Serialize;

use super::{CliError, Format, View, table::table};
use crate::dataplane::{self, Flow};

/// One flow, for people and programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FlowView {
    /// `TCP`, `UDP`, `SCTP`, or the number of another protocol.
    protocol: String,
    client: String,
    frontend: String,
    backend: String,
    /// Whom the backend sees.
    source: String,
    /// Whether that is this node.
    source_is_node: bool,
    /// `expired` if its place may be given to another flow at any time.
    state: &'static str,
    /// Since the last packet. A flow stays in the table until its place is needed.
    idle_seconds: u64,
    /// The service record's id, as `sheave service list -o json` shows it.
    service_id: u32,
}

pub(super) fn list(view: &View) -> Result<ExitCode, CliError> {
    let mut flows = dataplane::inspect(&view.paths.pin_dir)?.flows()?;
    flows.sort_by_key(|flow| (flow.protocol, flow.frontend, flow.client));
    let flows: Vec<FlowView> = flows.iter().map(FlowView::new).collect();
    let text = match view.output.format {
        Format::Json => serde_json::to_string_pretty(&flows)? + "\n",
        Format::Text => text(&flows),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

impl FlowView {
    fn new(flow: &Flow) -> Self {
        let protocol = Protocol::from_number(flow.protocol);
        Self {
            protocol: protocol.map_or_else(|| flow.protocol.to_string(), |protocol| protocol.to_string()),
            client: flow.client.to_string(),
            frontend: flow.frontend.to_string(),
            backend: flow.backend.to_string(),
            source: flow.source.to_string(),
            source_is_node: flow.flags.has(FlowFlags::SOURCE_IS_NODE),
            state: if flow.is_expired { "expired" } else { flow.state.as_str() },
            idle_seconds: flow.idle.as_secs(),
            service_id: flow.service_id,
        }
    }
}

fn text(flows: &[FlowView]) -> String {
    let rows = flows.iter().map(|flow| {
        let FlowView { protocol, client, frontend, backend, source, state, idle_seconds, .. } = flow;
        // The usual case, in which the backend sees the client itself, is left empty for the eye.
        let source = if source == client { "-" } else { source };
        [
            protocol.clone(),
            client.clone(),
            frontend.clone(),
            backend.clone(),
            source.to_owned(),
            (*state).to_owned(),
            format!("{idle_seconds}s"),
        ]
    });
    table(["PROTOCOL", "CLIENT", "FRONTEND", "BACKEND", "SOURCE", "STATE", "IDLE"], rows)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proxy_common::FlowState;

    use super::*;

    fn flow() -> Flow {
        let end = |text: &str| text.parse().unwrap();
        Flow {
            protocol: 6,
            client: end("198.51.100.9:40000"),
            frontend: end("192.0.2.1:30080"),
            backend: end("10.244.1.5:8080"),
            source: end("192.0.2.1:1024"),
            state: FlowState::Established,
            is_expired: false,
            flags: FlowFlags(FlowFlags::SOURCE_IS_NODE),
            service_id: 7,
            idle: Duration::from_secs(3),
        }
    }

    #[test]
    fn a_flow_shows_both_ends_and_whom_the_backend_sees() {
        let plain = Flow { source: flow().client, state: FlowState::New, protocol: 17, ..flow() };
        let views = [FlowView::new(&flow()), FlowView::new(&plain)];
        let expected = "\
PROTOCOL  CLIENT              FRONTEND         BACKEND          SOURCE          STATE        IDLE
TCP       198.51.100.9:40000  192.0.2.1:30080  10.244.1.5:8080  192.0.2.1:1024  established  3s
UDP       198.51.100.9:40000  192.0.2.1:30080  10.244.1.5:8080  -               new          3s
";
        assert_eq!(text(&views), expected);
        let json = serde_json::to_value(&views[0]).unwrap();
        assert_eq!((&json["sourceIsNode"], &json["idleSeconds"]), (&true.into(), &3.into()));
    }
}
