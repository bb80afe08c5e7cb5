//! Builds `cnitool`, the CNI project's own caller of plugins, for the test class `cni`.
//!
//! Must not know: what is called with it (`tests/cni/cnitool.rs`).

use std::path::Path;

use anyhow::Result;

use crate::go;
use crate::process;

const PACKAGE: &str = "github.com/containernetworking/cni/cnitool";

/// Builds it into `root/target/cnitool/`. Go's own cache makes that quick when nothing changed.
///
/// # Errors
/// No Go that can compile it (the message says what to install), or a failed build.
pub(crate) fn build(root: &Path) -> Result<()> {
    let sources = root.join("tests/cnitool");
    let go = go::find(&sources)?;
    let mut build = process::compiler_neutral(&go.program);
    build.args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-o"]);
    build.arg(root.join("target/cnitool/cnitool")).arg(PACKAGE);
    process::run(build.current_dir(sources).env("CGO_ENABLED", "0").env_remove("GOFLAGS"))
}
