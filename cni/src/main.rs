//! `sheave-cni`: reads the variables and standard input, has the library answer, and writes the answer.
//!
//! The only place that writes to standard output, so that there is exactly one JSON document there, whatever happens.

use std::{
    env,
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use cni::{
    spec::{Call, Code, Error, Version},
    verbs::{Machine, Outcome, answer, guarded},
};

fn main() -> ExitCode {
    let Some(outcome) = guarded(outcome) else { return about() };
    let written = outcome.document.map_or(Ok(()), |document| writeln!(io::stdout(), "{document}"));
    if outcome.success && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `None`: a person called.
fn outcome() -> Option<Outcome> {
    let variable = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let call = Call::read(variable).transpose()?;
    let mut stdin = Vec::new();
    if let Err(error) = io::stdin().read_to_end(&mut stdin) {
        let error = Error::new(Code::Io, format!("cannot read the network configuration: {error}"));
        return Some(Outcome::failed(&error, Version::NEWEST));
    }
    Some(answer(call, &stdin, Machine::new))
}

fn about() -> ExitCode {
    let versions = Version::texts().join(", ");
    let about = format!(
        "sheave-cni {}, a CNI plugin that wires pods. A container runtime calls it, with CNI_COMMAND set.\n\
         CNI protocol versions supported: {versions}\n",
        env!("CARGO_PKG_VERSION")
    );
    match io::stderr().write_all(about.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
