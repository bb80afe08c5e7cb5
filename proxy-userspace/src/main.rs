//! The binary `sheave`: hands the command line to [`proxy_userspace::cli`].
//!
//! Must not know any command.

use std::process::ExitCode;

fn main() -> ExitCode {
    proxy_userspace::cli::run()
}
