//! The length of functions: a limit for each, and a median for all.

use std::fmt;
use std::ops::RangeInclusive;

use syn::visit::{self, Visit};
use syn::{Block, Signature};

use super::Complaint;
use super::sources::Source;
use super::syntax::Spanned as _;

/// Lines from `fn` to the closing brace: one screen.
const LIMIT: usize = 70;
/// In the packet path a reader also keeps the verifier in mind.
const PACKET_PATH_LIMIT: usize = 40;
const MEDIAN_LIMIT: usize = 10;

/// One function with a body.
#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    lines: RangeInclusive<usize>,
}

impl Function {
    fn length(&self) -> usize {
        self.lines.end() - self.lines.start() + 1
    }
}

/// No function is longer than its limit, tests included.
pub(crate) fn lengths(source: &Source) -> Vec<Complaint> {
    let limit = if source.path.starts_with("proxy-ebpf/") { PACKET_PATH_LIMIT } else { LIMIT };
    let long = functions(source).into_iter().filter(|function| function.length() > limit);
    long.map(|function| {
        let text = format!("fn {} has {} lines; the limit is {limit}", function.name, function.length());
        Complaint::new(&source.path, *function.lines.start(), text)
    })
    .collect()
}

/// The lengths of all functions outside tests.
#[derive(Debug)]
pub(crate) struct Figures {
    sorted: Vec<usize>,
}

impl Figures {
    pub(crate) fn of<'a>(sources: impl Iterator<Item = &'a Source>) -> Self {
        let mut sorted: Vec<usize> = sources
            .flat_map(|source| {
                let all = functions(source).into_iter();
                all.filter(|function| !source.is_test_line(*function.lines.start()))
                    .map(|function| function.length())
            })
            .collect();
        sorted.sort_unstable();
        Self { sorted }
    }

    pub(crate) fn complaint(&self) -> Option<Complaint> {
        let median = self.percentile(50);
        let text = format!("the median function has {median} lines; the limit is {MEDIAN_LIMIT}");
        (median > MEDIAN_LIMIT).then(|| Complaint::new("the whole repository", 0, text))
    }

    fn percentile(&self, percent: usize) -> usize {
        let last = self.sorted.len().saturating_sub(1);
        self.sorted.get(last * percent / 100).copied().unwrap_or(0)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, p90, longest] = [50, 90, 100].map(|percent| self.percentile(percent));
        write!(f, "{} functions: median {median}, p90 {p90}, longest {longest} lines", self.sorted.len())
    }
}

fn functions(source: &Source) -> Vec<Function> {
    struct Finder(Vec<Function>);
    impl Finder {
        fn add(&mut self, signature: &Signature, block: &Block) {
            let lines = signature.first_line()..=block.last_line();
            self.0.push(Function { name: signature.ident.to_string(), lines });
        }
    }
    impl<'ast> Visit<'ast> for Finder {
        fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
            self.add(&function.sig, &function.block);
            visit::visit_item_fn(self, function);
        }

        fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
            self.add(&function.sig, &function.block);
            visit::visit_impl_item_fn(self, function);
        }

        fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
            if let Some(block) = &function.default {
                self.add(&function.sig, block);
            }
            visit::visit_trait_item_fn(self, function);
        }
    }
    let mut finder = Finder(Vec::new());
    finder.visit_file(&source.syntax);
    finder.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    fn complaints(path: &str, text: &str) -> Vec<String> {
        lengths(&Source::sample(path, text)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_function_longer_than_the_limit_is_named() {
        assert!(complaints("cni/src/a.rs", &function(70)).is_empty());
        assert_eq!(
            complaints("cni/src/a.rs", &function(71)),
            ["cni/src/a.rs:1: fn f has 71 lines; the limit is 70"]
        );
    }

    #[test]
    fn the_packet_path_has_a_limit_of_its_own() {
        assert!(complaints("proxy-ebpf/src/a.rs", &function(40)).is_empty());
        assert_eq!(complaints("proxy-ebpf/src/a.rs", &function(41)).len(), 1);
    }

    #[test]
    fn methods_and_functions_of_traits_count_too() {
        let long = function(71);
        assert_eq!(complaints("a.rs", &format!("impl A {{\n{long}}}")).len(), 1);
        assert_eq!(complaints("a.rs", &format!("trait A {{\n{long}}}")).len(), 1);
        assert_eq!(complaints("a.rs", &format!("mod m {{\n{long}}}")).len(), 1);
    }

    #[test]
    fn a_median_over_the_limit_is_a_complaint_and_tests_do_not_count() {
        let of = |text: &str| Figures::of(std::iter::once(&Source::sample("a.rs", text)));
        assert_eq!(of(&function(10)).complaint(), None);
        assert!(of(&function(11)).complaint().is_some());
        let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}}}", function(3), function(60));
        assert_eq!(of(&tested).to_string(), "1 functions: median 3, p90 3, longest 3 lines");
    }
}
