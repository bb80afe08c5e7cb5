//! The Helm chart: building helm, checking the chart with it, and the plain manifest that is rendered from it.
//!
//! Must not know what the chart deploys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

use crate::go;
use crate::image::hex;
use crate::process;
use crate::workspace::Workspace;

const PACKAGE: &str = "helm.sh/helm/v4/cmd/helm";
/// Below the repository.
const CHART: &str = "deploy/helm/sheave";
pub(crate) const MANIFEST: &str = "deploy/sheave.yaml";
/// What stands in the manifest before the chart's digest.
const MARK: &str = "# Chart: sha256:";

/// Builds helm, checks the chart and renders the manifest from it.
///
/// # Errors
/// No Go, a chart that helm finds fault with, or a file cannot be written.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    build_helm(workspace.root())?;
    process::run(helm(workspace).args(["lint", "--strict", CHART]))?;
    let release = ["template", "sheave", CHART, "--namespace", "kube-system"];
    let rendered = process::output(helm(workspace).args(release))?;
    let path = workspace.join(MANIFEST);
    let text = format!("{}{rendered}", head(&digest(workspace.root())?));
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("rendered {}", path.display());
    Ok(())
}

/// Builds it into `root/target/helm/`. Go's own cache makes that quick when nothing changed.
///
/// # Errors
/// No Go that can compile it (the message says what to install), or a failed build.
pub(crate) fn build_helm(root: &Path) -> Result<()> {
    let sources = root.join("tests/helm");
    let go = go::find(&sources)?;
    let mut build = process::compiler_neutral(&go.program);
    build.args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w", "-o"]);
    build.arg(root.join("target/helm/helm")).arg(PACKAGE);
    process::run(build.current_dir(sources).env("CGO_ENABLED", "0").env_remove("GOFLAGS"))
}

/// helm with no settings of whoever calls.
fn helm(workspace: &Workspace) -> Command {
    let mut helm = Command::new(workspace.join("target/helm/helm"));
    let home = workspace.join("target/helm/home");
    helm.current_dir(workspace.root()).env("HELM_CONFIG_HOME", &home).env("HELM_CACHE_HOME", &home);
    helm.env("HELM_DATA_HOME", &home).env_remove("KUBECONFIG");
    helm
}

fn head(digest: &str) -> String {
    format!(
        "# Rendered from {CHART} with its own values by `cargo xtask chart`: change the chart, not this file.\n\
         {MARK}{digest}\n"
    )
}

/// What is wrong with the manifest, looked at without helm: it must name the digest of the chart as it is.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn staleness(root: &Path) -> Result<Option<String>> {
    let text = go::read(&root.join(MANIFEST))?;
    let rendered_from = text.lines().find_map(|line| line.strip_prefix(MARK));
    let is_current = rendered_from == Some(digest(root)?.as_str());
    Ok((!is_current).then(|| format!("not rendered from {CHART} as it is: run `cargo xtask chart`")))
}

/// One digest of all files of the chart, their names and their contents.
fn digest(root: &Path) -> Result<String> {
    let chart = root.join(CHART);
    let mut hasher = Sha256::new();
    for path in files(&chart)? {
        let name = path.strip_prefix(&chart).unwrap_or(&path).display().to_string();
        let contents = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        hasher.update(format!("{name} {}\n", contents.len()));
        hasher.update(contents);
    }
    Ok(hex(&hasher.finalize()))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = WalkDir::new(folder).sort_by_file_name().into_iter();
    let files = entries.filter(|entry| entry.as_ref().map_or(true, |entry| entry.file_type().is_file()));
    files.map(|entry| Ok(entry?.into_path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_stale_as_soon_as_a_file_of_the_chart_is_another_one() {
        let root = std::env::temp_dir().join(format!("xtask-chart-{}", std::process::id()));
        let template = root.join(CHART).join("templates/a.yaml");
        fs::create_dir_all(template.parent().unwrap()).unwrap();
        fs::write(&template, "one").unwrap();
        let manifest = format!("{}kind: List\n", head(&digest(&root).unwrap()));
        fs::write(root.join(MANIFEST), manifest).unwrap();
        assert_eq!(staleness(&root).unwrap(), None);
        fs::write(&template, "two").unwrap();
        assert!(staleness(&root).unwrap().unwrap().contains("cargo xtask chart"));
        fs::remove_dir_all(&root).unwrap();
    }
}
