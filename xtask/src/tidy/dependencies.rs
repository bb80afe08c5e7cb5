//! Which crate may depend on which, from cargo's metadata.

use std::collections::BTreeSet;

use cargo_metadata::{DependencyKind, Metadata, Package};

use super::Complaint;

/// What a crate's manifest may name. Dependencies for tests alone are free.
enum Allowed {
    /// Nothing else.
    Only(&'static [&'static str]),
    /// Everything else.
    AllBut(&'static [&'static str]),
}

const ASYNC_AND_KERNEL: &[&str] =
    &["aya", "aya-ebpf", "k8s-openapi", "kube", "nix", "rtnetlink", "tokio", "tracing"];

/// The table of ARCHITECTURE.md.
const TABLE: &[(&str, Allowed)] = &[
    // Both sides of the kernel's border compile it: aya only behind the feature `user`.
    ("proxy-common", Allowed::Only(&["aya"])),
    ("proxy-packet", Allowed::Only(&["proxy-common"])),
    ("proxy-ebpf", Allowed::Only(&["aya-ebpf", "proxy-common", "proxy-packet"])),
    ("proxy-core", Allowed::Only(&["ipnetwork", "proxy-common", "thiserror"])),
    // The plugin and the agent make the same filters: their messages are there once.
    ("proxy-kernel", Allowed::Only(&["aya-obj", "libc", "netlink-packet-route", "nix"])),
    ("proxy-userspace", Allowed::AllBut(&["aya-ebpf", "proxy-ebpf", "sheave-tests", "xtask"])),
    (
        "cni",
        Allowed::AllBut(&[
            "aya",
            "aya-ebpf",
            "k8s-openapi",
            "kube",
            "proxy-ebpf",
            "proxy-userspace",
            "sheave-tests",
            "xtask",
        ]),
    ),
    (
        "xtask",
        Allowed::AllBut(&[
            "cni",
            "proxy-common",
            "proxy-core",
            "proxy-ebpf",
            "proxy-userspace",
            "sheave-tests",
        ]),
    ),
    ("sheave-tests", Allowed::AllBut(&["xtask"])),
];

/// One line of a manifest.
#[derive(Debug, Clone, Copy)]
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    optional: bool,
}

/// Complains about every dependency that the table does not allow, and about a crate that it does not know.
pub(crate) fn check(metadata: &[Metadata]) -> Vec<Complaint> {
    let packages: Vec<&Package> = metadata.iter().flat_map(Metadata::workspace_packages).collect();
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut complaints: Vec<Complaint> = names.into_iter().filter_map(unknown_crate).collect();
    complaints.extend(packages.into_iter().flat_map(edges).filter_map(forbidden));
    complaints
}

fn edges(package: &Package) -> impl Iterator<Item = Edge<'_>> {
    let dependencies = package.dependencies.iter().filter(|it| it.kind != DependencyKind::Development);
    dependencies.map(|it| Edge { from: &package.name, to: &it.name, optional: it.optional })
}

fn unknown_crate(name: &str) -> Option<Complaint> {
    let known = TABLE.iter().any(|(known, _)| *known == name);
    (!known).then(|| {
        Complaint::new("xtask/src/tidy/dependencies.rs", 0, format!("the table does not know {name}"))
    })
}

fn forbidden(edge: Edge<'_>) -> Option<Complaint> {
    let (_, allowed) = TABLE.iter().find(|(name, _)| *name == edge.from)?;
    let breaks = match allowed {
        Allowed::Only(list) => !list.contains(&edge.to),
        Allowed::AllBut(list) => list.contains(&edge.to),
    };
    // What both sides share must compile for the kernel, where nothing of user space exists.
    let leaks = edge.from == "proxy-common" && ASYNC_AND_KERNEL.contains(&edge.to) && !edge.optional;
    let text = match (breaks, leaks) {
        (true, _) => format!("{} may not depend on {}", edge.from, edge.to),
        (false, true) => format!("{} may depend on {} only behind a feature", edge.from, edge.to),
        (false, false) => return None,
    };
    Some(Complaint::new(&format!("{}/Cargo.toml", folder(edge.from)), 0, text))
}

fn folder(package: &str) -> &str {
    if package == "sheave-tests" { "tests" } else { package }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(from: &str, to: &str, optional: bool) -> Option<String> {
        forbidden(Edge { from, to, optional }).map(|complaint| complaint.to_string())
    }

    #[test]
    fn the_decisions_may_use_three_crates_and_no_other() {
        for allowed in ["proxy-common", "ipnetwork", "thiserror"] {
            assert_eq!(verdict("proxy-core", allowed, false), None);
        }
        for refused in ["tokio", "kube", "aya", "serde", "proxy-packet", "proxy-userspace"] {
            let text = format!("proxy-core/Cargo.toml: proxy-core may not depend on {refused}");
            assert_eq!(verdict("proxy-core", refused, false), Some(text));
        }
    }

    #[test]
    fn the_shared_crate_may_use_aya_only_behind_a_feature() {
        assert_eq!(verdict("proxy-common", "aya", true), None);
        assert!(verdict("proxy-common", "aya", false).is_some());
        assert!(verdict("proxy-common", "bytemuck", true).is_some());
    }

    #[test]
    fn the_packet_path_uses_only_the_contract_and_the_kernels_side_of_aya() {
        assert_eq!(verdict("proxy-ebpf", "aya-ebpf", false), None);
        assert_eq!(verdict("proxy-ebpf", "proxy-packet", false), None);
        assert_eq!(verdict("proxy-packet", "proxy-common", false), None);
        assert!(verdict("proxy-packet", "aya-ebpf", false).is_some());
        assert!(verdict("proxy-ebpf", "aya-log-ebpf", false).is_some());
    }

    #[test]
    fn pod_wiring_knows_neither_kubernetes_nor_ebpf_and_nobody_depends_on_the_tests() {
        for refused in ["kube", "aya", "proxy-userspace"] {
            assert!(verdict("cni", refused, false).is_some(), "{refused}");
        }
        assert!(verdict("proxy-userspace", "sheave-tests", false).is_some());
        assert!(verdict("xtask", "proxy-common", false).is_some());
        assert_eq!(verdict("sheave-tests", "proxy-userspace", false), None);
    }

    #[test]
    fn a_new_crate_must_be_entered_in_the_table() {
        assert!(unknown_crate("proxy-magic").is_some());
        assert!(unknown_crate("cni").is_none());
    }
}
