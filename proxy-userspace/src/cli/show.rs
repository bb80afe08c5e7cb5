//! `status`, `service`, `backend`, `map`, `version`: from a running agent, or else from the pinned maps.
//!
//! Must not know how an answer is computed.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use serde::Serialize;

use super::{
    CliError, Format, Output, View,
    table::{bytes, table},
};
use crate::{
    control::{
        BackendView, Client, ClientError, DeviceView, MapView, Reply, Request, ServiceView, StatusView,
        Subsystem, Views, devices_left, drops,
    },
    dataplane::{self, LinkStatus},
    reconcile::FrontendNames,
};

/// What a question got.
enum Answer {
    /// From the agent.
    Live(Reply),
    /// There is no agent, says the error.
    Dead(ClientError),
}

fn ask(view: &View, request: &Request) -> Result<Answer, CliError> {
    let mut client = match Client::ask(&view.paths.socket(), request) {
        Err(error @ ClientError::NoAgent { .. }) => return Ok(Answer::Dead(error)),
        client => client?,
    };
    let reply = client.reply()?;
    reply.map(Answer::Live).ok_or_else(|| CliError::Refused("the agent ended the connection".to_owned()))
}

fn unexpected() -> CliError {
    CliError::Refused("the agent's answer is not to the question; is it of another version?".to_owned())
}

/// JSON for programs; `text` for people.
fn print<T: Serialize + ?Sized>(
    output: Output,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), CliError> {
    let text = match output.format {
        Format::Json => serde_json::to_string_pretty(value)? + "\n",
        Format::Text => text(value),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// What the pinned maps of a dead agent hold.
fn pinned(view: &View, error: &ClientError) -> Result<Views, CliError> {
    eprintln!("sheave: {error}; showing the pinned maps, which do not have the Services' names");
    let inspection = dataplane::inspect(&view.paths.pin_dir)?;
    Ok(Views::new(&inspection.dump()?, &FrontendNames::new()))
}

pub(super) fn status(view: &View) -> Result<ExitCode, CliError> {
    let status = match ask(view, &Request::Status)? {
        Answer::Live(Reply::Status(status)) => *status,
        Answer::Live(_) => return Err(unexpected()),
        Answer::Dead(error) => dead_status(view, &error),
    };
    print(view.output, &status, status_text)?;
    Ok(if status.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn dead_status(view: &View, error: &ClientError) -> StatusView {
    let mut obstacles = vec![error.to_string()];
    let (mut subsystems, mut devices, mut counters) = (Vec::new(), Vec::new(), Vec::new());
    match dataplane::inspect(&view.paths.pin_dir) {
        Ok(inspection) => {
            subsystems.push(programs(inspection.links()));
            devices = devices_left(inspection.devices(), device_name);
            counters = inspection.counters().unwrap_or_default();
            let services =
                inspection.dump().map(|dump| Views::new(&dump, &FrontendNames::new()).services.len());
            let state =
                services.map_or_else(|error| error.to_string(), |number| format!("{number} frontends"));
            subsystems.push(Subsystem { name: "maps".to_owned(), state });
        }
        Err(error) => obstacles.push(error.to_string()),
    }
    StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        obstacles,
        subsystems,
        devices,
        drops: drops(&counters),
        ..StatusView::default()
    }
}

/// `None` if the device is gone, or in another network namespace than this command.
fn device_name(index: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(index).ok()?.into_string().ok();
    // nix 0.31 does not see that the call failed.
    name.filter(|name| !name.is_empty())
}

fn programs(links: &[LinkStatus]) -> Subsystem {
    let attached = links.iter().filter(|link| link.attached).count();
    let state = format!("{attached} of {} attached; they go on serving", links.len());
    Subsystem { name: "programs".to_owned(), state }
}

fn status_text(status: &StatusView) -> String {
    let running = if status.agent_running { "running" } else { "not running" };
    let ready = if status.ready { "ready" } else { "not ready" };
    let mut rows = vec![
        ["agent".to_owned(), format!("{running}, {ready}, version {}", status.version)],
        ["node".to_owned(), if status.node.is_empty() { "-".to_owned() } else { status.node.clone() }],
    ];
    rows.extend(status.subsystems.iter().map(|part| [part.name.clone(), part.state.clone()]));
    let mut text = table(["PART", "STATE"], rows);
    if !status.devices.is_empty() {
        text.push('\n');
        text.push_str(&devices_text(&status.devices));
    }
    if !status.drops.is_empty() {
        let rows = status.drops.iter().map(|(reason, count)| [reason.clone(), count.to_string()]);
        text.push('\n');
        text.push_str(&table(["REFUSED OR DROPPED", "TIMES"], rows));
    }
    for (title, lines) in
        [("Not ready", &status.obstacles), ("Refused", &status.refused), ("Warnings", &status.warnings)]
    {
        if !lines.is_empty() {
            text.push_str(&["\n", title, ":\n  ", &lines.join("\n  "), "\n"].concat());
        }
    }
    text
}

fn devices_text(devices: &[DeviceView]) -> String {
    let rows = devices.iter().map(|device| {
        let state = device.error.clone().unwrap_or_else(|| format!("attached ({})", device.hook));
        [dash(Some(&device.name)), device.index.to_string(), device.role.to_string(), state]
    });
    table(["DEVICE", "INDEX", "ROLE", "STATE"], rows)
}

fn service_views(view: &View) -> Result<Vec<ServiceView>, CliError> {
    match ask(view, &Request::Services)? {
        Answer::Live(Reply::Services(services)) => Ok(services),
        Answer::Live(_) => Err(unexpected()),
        Answer::Dead(error) => Ok(pinned(view, &error)?.services),
    }
}

pub(super) fn services(view: &View) -> Result<ExitCode, CliError> {
    print(view.output, &service_views(view)?, |services| services_text(services))?;
    Ok(ExitCode::SUCCESS)
}

fn services_text(services: &[ServiceView]) -> String {
    let rows = services.iter().map(|service| {
        [
            service.service.clone().unwrap_or_else(|| format!("#{}", service.id)),
            dash(service.port_name.as_deref()),
            dash(service.kind.as_deref()),
            service.frontend.clone(),
            service.protocol.clone(),
            service.scope.clone(),
            if service.backends.is_empty() {
                service.when_empty.clone()
            } else {
                service.backends.len().to_string()
            },
        ]
    });
    table(["SERVICE", "PORT", "KIND", "FRONTEND", "PROTOCOL", "SCOPE", "BACKENDS"], rows)
}

fn dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

pub(super) fn service(name: &str, view: &View) -> Result<ExitCode, CliError> {
    let mut services = service_views(view)?;
    // Without an agent to ask, the id that `service list` shows stands for the name.
    services.retain(|service| match &service.service {
        Some(known) => known == name,
        None => format!("#{}", service.id) == name,
    });
    if services.is_empty() {
        return Err(CliError::Refused(format!("no Service {name} in the maps; see `sheave service list`")));
    }
    print(view.output, &services, |services| service_text(services))?;
    Ok(ExitCode::SUCCESS)
}

fn service_text(services: &[ServiceView]) -> String {
    let mut text = services_text(services);
    for service in services {
        text.push_str(&["\n", &service.frontend, " ", &service.protocol, " ", &service.scope, "\n"].concat());
        text += &field("backends", &service.backends);
        text += &field("draining", &service.draining);
        text += &field("clients", &service.source_ranges);
        if service.affinity_seconds > 0 {
            text += &field("affinity", &[format!("{} s", service.affinity_seconds)]);
        }
    }
    text
}

fn field(name: &str, values: &[String]) -> String {
    if values.is_empty() { String::new() } else { format!("  {name}  {}\n", values.join(" ")) }
}

pub(super) fn backends(view: &View) -> Result<ExitCode, CliError> {
    let backends = match ask(view, &Request::Backends)? {
        Answer::Live(Reply::Backends(backends)) => backends,
        Answer::Live(_) => return Err(unexpected()),
        Answer::Dead(error) => pinned(view, &error)?.backends,
    };
    print(view.output, &backends, |backends| backends_text(backends))?;
    Ok(ExitCode::SUCCESS)
}

fn backends_text(backends: &[BackendView]) -> String {
    let rows = backends.iter().map(|backend| {
        let services = backend.services.join(" ");
        [backend.id.to_string(), backend.address.clone(), backend.protocol.clone(), dash(Some(&services))]
    });
    table(["ID", "ADDRESS", "PROTOCOL", "SERVICES"], rows)
}

pub(super) fn maps(view: &View) -> Result<ExitCode, CliError> {
    let maps: Vec<MapView> = match ask(view, &Request::Maps)? {
        Answer::Live(Reply::Maps(maps)) => maps,
        Answer::Live(_) => return Err(unexpected()),
        Answer::Dead(_) => {
            dataplane::inspect(&view.paths.pin_dir)?.usage()?.into_iter().map(Into::into).collect()
        }
    };
    print(view.output, &maps, |maps| maps_text(maps))?;
    Ok(ExitCode::SUCCESS)
}

fn maps_text(maps: &[MapView]) -> String {
    let rows = maps.iter().map(|map| {
        let used = map.used.map_or_else(|| "-".to_owned(), |used| used.to_string());
        let size = map.bytes.map_or_else(|| "-".to_owned(), bytes);
        let capacity = if map.capacity == 0 { "-".to_owned() } else { map.capacity.to_string() };
        [map.name.clone(), map.kind.clone(), used, capacity, size]
    });
    table(["MAP", "KIND", "USED", "CAPACITY", "MEMORY"], rows)
}

/// Versions of this command and of what it can read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
    abi: u32,
    map_schema: String,
}

pub(super) fn version(output: Output) -> Result<ExitCode, CliError> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        abi: proxy_common::ABI_VERSION,
        map_schema: format!("{:08x}", proxy_common::SCHEMA_HASH),
    };
    print(output, &version, |version| {
        format!("sheave {} (maps: ABI {}, schema {})\n", version.version, version.abi, version.map_schema)
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{DeviceHook, DeviceRole};

    fn service() -> ServiceView {
        ServiceView {
            service: Some("shop/cart".into()),
            port_name: Some(String::new()),
            kind: Some("ClusterIP".into()),
            frontend: "10.96.0.1:80".into(),
            protocol: "TCP".into(),
            scope: "internal".into(),
            id: 7,
            backends: vec!["10.244.0.2:80".into(), "10.244.0.3:80".into()],
            draining: Vec::new(),
            when_empty: "reject".into(),
            affinity_seconds: 0,
            source_ranges: Vec::new(),
        }
    }

    #[test]
    fn a_service_table_shows_the_number_of_backends_or_what_a_client_gets_without() {
        let empty =
            ServiceView { service: None, port_name: None, kind: None, backends: Vec::new(), ..service() };
        let text = services_text(&[service(), empty]);
        let expected = "\
SERVICE    PORT  KIND       FRONTEND      PROTOCOL  SCOPE     BACKENDS
shop/cart  -     ClusterIP  10.96.0.1:80  TCP       internal  2
#7         -     -          10.96.0.1:80  TCP       internal  reject
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_single_service_shows_its_backends() {
        let text = service_text(&[service()]);
        assert!(
            text.ends_with("\n10.96.0.1:80 TCP internal\n  backends  10.244.0.2:80 10.244.0.3:80\n"),
            "{text}"
        );
    }

    #[test]
    fn a_map_table_shows_a_dash_for_what_the_kernel_does_not_tell_or_limit() {
        let map = |used, capacity| MapView {
            name: "ring".into(),
            kind: "array".into(),
            used,
            capacity,
            bytes: Some(2048),
        };
        let expected = "\
MAP   KIND   USED  CAPACITY  MEMORY
ring  array  3     8         2.0 KiB
ring  array  -     -         2.0 KiB
";
        assert_eq!(maps_text(&[map(Some(3), 8), map(None, 0)]), expected);
    }

    #[test]
    fn status_shows_each_device_and_why_it_has_no_programs() {
        let device = |name: &str, index, error: Option<&str>| DeviceView {
            name: name.into(),
            index,
            role: DeviceRole::Node,
            hook: DeviceHook::Tcx,
            error: error.map(str::to_owned),
        };
        let devices = vec![device("eth0", 2, None), device("eth1", 13, Some("no room"))];
        let expected = "\
DEVICE  INDEX  ROLE  STATE
eth0    2      node  attached (tcx)
eth1    13     node  no room
";
        let text = status_text(&StatusView { devices, ..StatusView::default() });
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn status_of_a_dead_agent_says_so_and_why() {
        let status =
            StatusView { version: "1".into(), obstacles: vec!["nobody".into()], ..StatusView::default() };
        let text = status_text(&status);
        assert!(
            text.contains("not running, not ready") && text.ends_with("Not ready:\n  nobody\n"),
            "{text}"
        );
    }
}
