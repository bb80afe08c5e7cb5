//! `sheave monitor`: a line for each decision.
//!
//! Must not know how decisions are told.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use super::{CliError, Format, View};
use crate::control::{Client, EventView, Reply, Request};

pub(super) fn run(view: &View) -> Result<ExitCode, CliError> {
    let mut client = Client::ask(&view.paths.socket(), &Request::Monitor)?;
    let mut out = io::stdout().lock();
    while let Some(reply) = client.reply()? {
        match reply {
            Reply::Event(event) => writeln!(out, "{}", line(&event, view.output.format)?)?,
            Reply::Monitoring => {
                client.wait_for_ever()?;
                eprintln!("watching; stop with Ctrl-C");
            }
            _ => {}
        }
        out.flush()?;
    }
    Err(CliError::Refused("the agent ended the connection".to_owned()))
}

fn line(event: &EventView, format: Format) -> Result<String, CliError> {
    if format == Format::Json {
        return Ok(serde_json::to_string(event)?);
    }
    let backend = event.backend.as_deref().unwrap_or("-");
    let service = event.service.as_deref().unwrap_or("-");
    let EventView { timestamp_ns, hook, verdict, protocol, frontend, pid, command, .. } = event;
    let (seconds, micros) = (timestamp_ns / 1_000_000_000, timestamp_ns / 1_000 % 1_000_000);
    Ok(format!(
        "{seconds}.{micros:06} {hook} {protocol} {frontend} -> {backend} {verdict} {service} {command}[{pid}]"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_who_went_where_and_what_became_of_it() {
        let event = EventView {
            timestamp_ns: 12_000_345_678,
            hook: "connect".into(),
            verdict: "translated".into(),
            protocol: "TCP".into(),
            frontend: "10.96.0.1:80".into(),
            backend: Some("10.244.0.2:8080".into()),
            service: Some("shop/cart".into()),
            pid: 7,
            command: "curl".into(),
            netns_cookie: 1,
        };
        let text = "12.000345 connect TCP 10.96.0.1:80 -> 10.244.0.2:8080 translated shop/cart curl[7]";
        assert_eq!(line(&event, Format::Text).unwrap(), text);
        let json: serde_json::Value = serde_json::from_str(&line(&event, Format::Json).unwrap()).unwrap();
        assert_eq!(json["pid"], 7);
    }
}
