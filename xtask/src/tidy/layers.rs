//! Who may know whom inside a crate: Kubernetes types in one folder, aya in one folder, and no input, output,
//! clock or chance in the decisions.
//!
//! Dependencies between crates are the business of `dependencies`.

use syn::UseTree;
use syn::visit::{self, Visit};

use super::Complaint;
use super::sources::Source;
use super::syntax::{self, Spanned as _, Token};

/// In files below `scope` no path may begin with `path`, except below `home`.
struct Rule {
    scope: &'static str,
    path: &'static str,
    home: Option<&'static str>,
    reason: &'static str,
}

impl Rule {
    fn concerns(&self, file: &str) -> bool {
        file.starts_with(self.scope) && self.home.is_none_or(|home| !file.starts_with(home))
    }
}

const WATCH: Option<&str> = Some("proxy-userspace/src/watch");
const DATAPLANE: Option<&str> = Some("proxy-userspace/src/dataplane");
const ONLY_WATCH: &str = "only watch knows Kubernetes types";
const ONLY_DATAPLANE: &str = "only dataplane knows aya";
const ONLY_MAIN: &str = "errors have a type of their own module; only main may blur them";
const PURE: &str = "proxy-core has no I/O, no clock, no randomness";

const fn agent(path: &'static str, home: Option<&'static str>, reason: &'static str) -> Rule {
    Rule { scope: "proxy-userspace/src/", path, home, reason }
}

const fn core(path: &'static str) -> Rule {
    Rule { scope: "proxy-core/src/", path, home: None, reason: PURE }
}

const RULES: &[Rule] = &[
    agent("anyhow", Some("proxy-userspace/src/main.rs"), ONLY_MAIN),
    agent("kube", WATCH, ONLY_WATCH),
    agent("k8s_openapi", WATCH, ONLY_WATCH),
    agent("aya", DATAPLANE, ONLY_DATAPLANE),
    core("std::env"),
    core("std::fs"),
    core("std::io"),
    core("std::process"),
    core("std::thread"),
    core("std::time::Instant"),
    core("std::time::SystemTime"),
    core("std::net::TcpListener"),
    core("std::net::TcpStream"),
    core("std::net::UdpSocket"),
    core("std::collections::hash_map::RandomState"),
];

/// Complains about every path that a file of its place must not name.
pub(crate) fn check(source: &Source) -> Vec<Complaint> {
    let rules: Vec<&Rule> = RULES.iter().filter(|rule| rule.concerns(&source.path)).collect();
    if rules.is_empty() || source.is_test {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (path, line) in paths(source) {
        let broken = rules.iter().find(|rule| begins_with(&path, rule.path));
        if let Some(rule) = broken.filter(|_| !source.is_test_line(line)) {
            complaints.push(Complaint::new(&source.path, line, format!("`{path}`: {}", rule.reason)));
        }
    }
    complaints.sort();
    complaints.dedup();
    complaints
}

fn begins_with(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Every path with at least two segments or in a `use`, with its line.
fn paths(source: &Source) -> Vec<(String, usize)> {
    let mut uses = Uses(Vec::new());
    uses.visit_file(&source.syntax);
    uses.0.extend(written_out(&syntax::tokens(&source.text)));
    uses.0
}

/// The paths of `use` declarations, groups taken apart.
struct Uses(Vec<(String, usize)>);

impl<'ast> Visit<'ast> for Uses {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.expand("", &item.tree);
        visit::visit_item_use(self, item);
    }
}

impl Uses {
    fn expand(&mut self, prefix: &str, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => self.expand(&join(prefix, &path.ident.to_string()), &path.tree),
            UseTree::Name(name) => self.0.push((join(prefix, &name.ident.to_string()), name.first_line())),
            UseTree::Rename(name) => self.0.push((join(prefix, &name.ident.to_string()), name.first_line())),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.expand(prefix, tree)),
            UseTree::Glob(glob) => self.0.push((prefix.to_owned(), glob.first_line())),
        }
    }
}

fn join(prefix: &str, segment: &str) -> String {
    if prefix.is_empty() { segment.to_owned() } else { format!("{prefix}::{segment}") }
}

/// Paths of at least two segments anywhere in the code, macro calls included. A leading `::` or a preceding
/// segment that is no name (`<T>::`) does not hide one: only whole paths are taken.
fn written_out(tokens: &[Token]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut rest = tokens;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if !first.is_ident {
            continue;
        }
        let mut path = first.text.clone();
        while let [a, b, next, after @ ..] = rest
            && (a.text.as_str(), b.text.as_str(), next.is_ident) == (":", ":", true)
        {
            path = join(&path, &next.text);
            rest = after;
        }
        if path.contains("::") {
            found.push((path, first.line));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Source::sample(path, text)).iter().map(|complaint| complaint.line).collect()
    }

    #[test]
    fn kubernetes_types_are_refused_outside_watch_in_every_spelling() {
        for text in [
            "use kube::Client;",
            "use kube;",
            "use kube as k;",
            "use {kube::Client, std::fmt};",
            "use ::kube::*;",
            "fn f() { kube::go(); }",
            "fn f() { println!(\"{}\", k8s_openapi::V); }",
            "type A = Vec<k8s_openapi::api::core::v1::Pod>;",
        ] {
            assert_eq!(lines("proxy-userspace/src/reconcile/mod.rs", text), [1], "{text}");
            assert!(lines("proxy-userspace/src/watch/services.rs", text).is_empty(), "{text}");
        }
    }

    #[test]
    fn aya_is_refused_outside_dataplane() {
        assert_eq!(lines("proxy-userspace/src/main.rs", "\nuse aya::Ebpf;"), [2]);
        assert!(lines("proxy-userspace/src/dataplane/loader.rs", "use aya::Ebpf;").is_empty());
    }

    #[test]
    fn only_main_may_blur_errors() {
        assert_eq!(lines("proxy-userspace/src/config/mod.rs", "use anyhow::Result;"), [1]);
        assert!(lines("proxy-userspace/src/main.rs", "use anyhow::Result;").is_empty());
    }

    #[test]
    fn a_module_of_our_own_with_the_same_name_is_not_the_crate() {
        assert!(
            lines(
                "proxy-userspace/src/main.rs",
                "use crate::watch::kube::Source; fn f() { watch::kube::go() }"
            )
            .is_empty()
        );
        assert!(lines("proxy-userspace/src/main.rs", "use kubelet::X;").is_empty());
    }

    #[test]
    fn the_decisions_may_not_look_at_clock_files_or_environment() {
        for text in [
            "use std::time::{Duration, Instant};",
            "fn f() { std::env::var(\"A\"); }",
            "use std::{fmt, fs};",
            "use std::thread;",
        ] {
            assert_eq!(lines("proxy-core/src/ids.rs", text), [1], "{text}");
        }
        assert!(lines("proxy-core/src/ids.rs", "use std::time::Duration; use std::net::IpAddr;").is_empty());
        assert!(lines("proxy-userspace/src/ids.rs", "use std::fs;").is_empty());
    }

    #[test]
    fn tests_of_the_decisions_may_read_their_samples() {
        assert!(lines("proxy-core/src/ids.rs", "#[cfg(test)]\nmod tests {\nuse std::fs;\n}").is_empty());
    }
}
