//! `sheave cleanup`: nothing of ours stays in the kernel.
//!
//! Must not know what that is.

use std::{
    fs,
    io::{self, Write as _},
    process::ExitCode,
};

use super::{CliError, Paths, accept_local::AcceptLocal, with_causes};
use crate::{
    dataplane::{self, LockError},
    routing,
};

pub(super) fn run(paths: &Paths) -> Result<ExitCode, CliError> {
    if let Some(pid) = dataplane::lock_holder(&paths.lock())? {
        return Err(CliError::Refused(format!("the agent (process {pid}) is running; stop it first")));
    }
    let report = dataplane::cleanup(&paths.pin_dir).map_err(|error| match error {
        LockError::Held { path, holder } => CliError::Refused(format!(
            "an agent ({holder}) runs with --pin-dir {}; stop it first",
            path.display()
        )),
        error @ (LockError::Occupied { .. } | LockError::File { .. }) => error.into(),
    })?;
    let mut out = io::stdout().lock();
    for removed in &report.removed {
        writeln!(out, "removed {}", removed.display())?;
    }
    for filter in &report.filters {
        writeln!(out, "removed the filter on {filter}")?;
    }
    let mut errors = report.errors;
    match AcceptLocal::new(&paths.run_dir).restore() {
        Ok(true) => writeln!(out, "restored net.ipv4.conf.lo.accept_local")?,
        Ok(false) => {}
        Err(error) => errors.push(format!("net.ipv4.conf.lo.accept_local: {error}")),
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(routing::cleanup(&paths.run_dir)) {
        Ok(removed) => removed.iter().try_for_each(|step| writeln!(out, "{step}"))?,
        Err(error) => errors.push(with_causes(&error)),
    }
    for path in [paths.socket(), paths.lock()] {
        match fs::remove_file(&path) {
            Ok(()) => writeln!(out, "removed {}", path.display())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => errors.push(format!("{}: {error}", path.display())),
        }
    }
    if errors.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(CliError::Refused(errors.join("; "))) }
}
