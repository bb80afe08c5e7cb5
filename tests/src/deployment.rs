//! The files in `deploy`: what a user installs.
//!
//! Must not know: what is right about them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Something below the repository's root.
///
/// # Errors
/// There is no repository around this package.
pub fn path(relative: &str) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("this package has no parent folder")?;
    Ok(root.join(relative))
}

/// The objects of the plain manifest, in its order.
///
/// # Errors
/// It cannot be read.
pub fn manifest() -> Result<Vec<Value>> {
    objects(&fs::read_to_string(path("deploy/sheave.yaml")?)?)
}

/// Its first object of a kind.
///
/// # Errors
/// There is none.
pub fn object(kind: &str) -> Result<Value> {
    let mut all = manifest()?.into_iter();
    all.find(|object| object["kind"] == kind).with_context(|| format!("deploy/sheave.yaml has no {kind}"))
}

/// The objects of a text in YAML.
///
/// # Errors
/// It is none.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(all.into_iter().filter(|object| !object.is_null()).collect())
}
