//! `sheave socket-lb`: in which network namespaces sockets are translated, and in which packets are.
//!
//! Must not know how either is done.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use super::{CliError, Format, Paths, View, table::table};
use crate::{dataplane::PacketOnly, sockets};

#[derive(Debug, Subcommand)]
pub(super) enum SocketLbCommand {
    /// Show the network namespaces in which sockets are not translated
    List(View),
    /// Translate the sockets of a network namespace (on), or their packets (off), from the next connect or send on
    Set {
        /// Path of the network namespace, such as /run/netns/NAME or /proc/PID/ns/net
        namespace: PathBuf,
        /// Whether sockets are translated
        mode: Mode,
        #[command(flatten)]
        paths: Paths,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// Sockets are translated
    On,
    /// Packets are translated
    Off,
}

/// A network namespace in which sockets are not translated.
#[derive(Debug, Serialize)]
struct NamespaceView {
    /// The kernel's number for it, never used again while the machine runs.
    cookie: u64,
    /// Where it can be found; empty if it is gone or nothing leads to it.
    path: Option<PathBuf>,
}

pub(super) fn run(command: &SocketLbCommand) -> Result<ExitCode, CliError> {
    match command {
        SocketLbCommand::List(view) => list(view)?,
        SocketLbCommand::Set { namespace, mode, paths } => {
            let cookie = sockets::netns_cookie_of(namespace)
                .map_err(|error| CliError::Refused(format!("{}: {error}", namespace.display())))?;
            PacketOnly::open(&paths.pin_dir)?.translate_sockets(cookie, *mode == Mode::On)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(view: &View) -> Result<(), CliError> {
    let cookies = PacketOnly::open(&view.paths.pin_dir)?.list()?;
    let mut known = sockets::netns_paths(&cookies);
    let views: Vec<NamespaceView> =
        cookies.into_iter().map(|cookie| NamespaceView { cookie, path: known.remove(&cookie) }).collect();
    let text = match view.output.format {
        Format::Json => serde_json::to_string_pretty(&views)? + "\n",
        Format::Text => text(&views),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn text(views: &[NamespaceView]) -> String {
    let path = |view: &NamespaceView| {
        view.path.as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string())
    };
    table(["COOKIE", "NAMESPACE"], views.iter().map(|view| [view.cookie.to_string(), path(view)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_is_gone_is_shown_by_its_number() {
        let views = [
            NamespaceView { cookie: 7, path: Some("/run/netns/pod".into()) },
            NamespaceView { cookie: 12, path: None },
        ];
        assert_eq!(text(&views), "COOKIE  NAMESPACE\n7       /run/netns/pod\n12      -\n");
    }
}
