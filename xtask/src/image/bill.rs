//! The bill of materials (CycloneDX 1.6): which crates, of which version and licence, are in the programs.
//!
//! Must not know images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use serde_json::{Value, json};

use super::Origin;
use super::archive::hex_digest;
use super::programs::{PACKAGES, Programs};
use crate::ebpf;
use crate::workspace::Workspace;

/// The crate that the eBPF object is compiled from.
const EBPF_PACKAGE: &str = "proxy-ebpf";

/// The bill as JSON.
///
/// # Errors
/// cargo cannot read a manifest, or the object cannot be read.
pub(super) fn of(
    workspace: &Workspace,
    programs: &Programs,
    object: &Path,
    origin: &Origin,
) -> Result<Vec<u8>> {
    let userspace = resolved(&workspace.join("Cargo.toml"), &programs.target)?;
    // A target of cargo's own list: what it selects is the same.
    let kernel = resolved(&workspace.join("proxy-ebpf/Cargo.toml"), ebpf::TARGET)?;
    let object = std::fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let mut files: Vec<Value> = programs.files.iter().map(|(name, bytes)| file(name, bytes)).collect();
    files.push(file("sheave-ebpf.o", &object));
    let mut crates = BTreeMap::new();
    for (metadata, roots) in [(&userspace, PACKAGES.as_slice()), (&kernel, &[EBPF_PACKAGE])] {
        for package in linked(metadata, roots)? {
            crates.insert(purl(package), component(package));
        }
    }
    let components: Vec<Value> = files.into_iter().chain(crates.into_values()).collect();
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": origin.written_time(),
            "component": { "type": "container", "name": "sheave", "version": origin.version },
        },
        "components": components,
    });
    Ok(format!("{bill:#}\n").into_bytes())
}

fn resolved(manifest: &Path, target: &str) -> Result<Metadata> {
    let options = ["--locked", "--filter-platform", target].map(str::to_owned);
    MetadataCommand::new()
        .manifest_path(manifest)
        .other_options(options)
        .exec()
        .with_context(|| format!("cargo metadata of {}", manifest.display()))
}

/// What the packages called `roots` are compiled from: their dependencies and those of these, without what only tests or
/// build scripts need.
fn linked<'a>(metadata: &'a Metadata, roots: &[&str]) -> Result<Vec<&'a Package>> {
    let resolve = metadata.resolve.as_ref().context("cargo metadata resolved nothing")?;
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let is_root = |package: &&Package| roots.contains(&package.name.as_str());
    let mut queue: Vec<&PackageId> = metadata.packages.iter().filter(is_root).map(|it| &it.id).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = queue.pop() {
        if !seen.insert(id) {
            continue;
        }
        let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        let normal =
            dependencies.filter(|it| it.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
        queue.extend(normal.map(|it| &it.pkg));
    }
    Ok(metadata.packages.iter().filter(|package| seen.contains(&package.id)).collect())
}

fn component(package: &Package) -> Value {
    let licence = package.license.as_deref().unwrap_or("NOASSERTION");
    json!({
        "type": "library",
        "bom-ref": purl(package),
        "name": package.name.as_str(),
        "version": package.version.to_string(),
        "purl": purl(package),
        // What older crates write for OR is no expression of SPDX.
        "licenses": [{ "expression": licence.replace('/', " OR ") }],
    })
}

/// <https://github.com/package-url/purl-spec>
fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

fn file(name: &str, bytes: &[u8]) -> Value {
    json!({
        "type": "file",
        "bom-ref": format!("file:{name}"),
        "name": name,
        "hashes": [{ "alg": "SHA-256", "content": hex_digest(bytes) }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        let workspace = Workspace::locate().unwrap();
        let files = vec![("sheave".to_owned(), b"agent".to_vec())];
        let programs = Programs { target: "x86_64-unknown-linux-gnu".to_owned(), files };
        let origin = Origin { version: "1.2.3".into(), revision: String::new(), time: 0 };
        let object = workspace.join("proxy-ebpf/Cargo.toml");
        serde_json::from_slice(&of(&workspace, &programs, &object, &origin).unwrap()).unwrap()
    }

    #[test]
    fn the_bill_has_the_crates_of_both_sides_of_the_kernel_s_border_and_none_of_the_tests_alone() {
        let bill = sample();
        let components = bill["components"].as_array().unwrap();
        let names: BTreeSet<&str> = components.iter().map(|it| it["name"].as_str().unwrap()).collect();
        for wanted in ["sheave", "sheave-ebpf.o", "kube", "aya", "aya-ebpf", "proxy-packet", "cni"] {
            assert!(names.contains(wanted), "{wanted}");
        }
        for foreign in ["proptest", "tempfile", "sheave-tests", "xtask", "windows-sys"] {
            assert!(!names.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn each_crate_is_there_once_and_has_a_licence() {
        let bill = sample();
        let components = bill["components"].as_array().unwrap();
        let references: BTreeSet<&str> =
            components.iter().map(|it| it["bom-ref"].as_str().unwrap()).collect();
        assert_eq!(references.len(), components.len());
        let unlicensed = components.iter().filter(|it| it["licenses"][0]["expression"] == "NOASSERTION");
        assert_eq!(unlicensed.count(), 0);
    }
}
