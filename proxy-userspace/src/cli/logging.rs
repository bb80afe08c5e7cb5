//! The agent's log on standard error.
//!
//! Must not know what is logged.

use std::io::{self, IsTerminal as _};

use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::config::{Loaded, LogFormat};

/// Starts logging as configured and tells every setting.
pub(super) fn start(loaded: &Loaded) {
    // Checked when the configuration was read.
    let filter = EnvFilter::builder().parse_lossy(&loaded.config.log_level);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match loaded.config.log_format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    for entry in &loaded.resolved {
        let value = entry.value.as_deref().unwrap_or("not set");
        info!(name = entry.setting.name, value, origin = %entry.origin, "setting");
    }
}
