//! Names: modules say what they own, tests say what they hold.

use std::path::Path;

use syn::visit::{self, Visit};

use super::Complaint;
use super::sources::Source;
use super::syntax::{self, Spanned as _};

/// Names under which everything could be put, and sooner or later is.
const DRAWERS: [&str; 7] = ["common", "helper", "helpers", "misc", "shared", "util", "utils"];

/// Complains about drawers for modules, about test names with a prefix and about tests that never run.
pub(crate) fn check(source: &Source) -> Vec<Complaint> {
    let mut finder = Finder { source, complaints: drawer(source).into_iter().collect() };
    finder.visit_file(&source.syntax);
    finder.complaints
}

fn drawer(source: &Source) -> Option<Complaint> {
    let path = Path::new(&source.path);
    let name = if path.file_name()? == "mod.rs" { path.parent()?.file_name()? } else { path.file_stem()? };
    let text = format!("a module called {} owns nothing: name what it owns", name.display());
    DRAWERS.iter().any(|drawer| name == *drawer).then(|| Complaint::new(&source.path, 0, text))
}

struct Finder<'a> {
    source: &'a Source,
    complaints: Vec<Complaint>,
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        let mut complain = |text: &str| {
            let text = format!("test {}: {text}", function.sig.ident);
            self.complaints.push(Complaint::new(&self.source.path, function.sig.first_line(), text));
        };
        if syntax::is_test_function(&function.attrs) {
            if function.sig.ident.to_string().starts_with("test_") {
                complain("a test's name is a sentence of behaviour, without a prefix");
            }
            if never_runs(&function.attrs) {
                complain("ignored for another reason than \"needs root: ...\" it never runs");
            }
        }
        visit::visit_item_fn(self, function);
    }
}

/// `cargo xtask test maps` runs the ignored tests that only need root; no class runs another.
fn never_runs(attributes: &[syn::Attribute]) -> bool {
    let ignored = attributes.iter().find(|attribute| attribute.path().is_ident("ignore"));
    ignored.is_some_and(|it| !syntax::text_value(it).is_some_and(|reason| reason.starts_with("needs root")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &str, text: &str) -> Vec<String> {
        check(&Source::sample(path, text)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_module_named_like_a_drawer_is_refused() {
        assert_eq!(texts("cni/src/utils.rs", "").len(), 1);
        assert_eq!(texts("cni/src/helpers/mod.rs", "").len(), 1);
        assert!(texts("proxy-common/src/lib.rs", "").is_empty());
    }

    #[test]
    fn a_prefixed_test_and_an_ignored_test_are_refused() {
        assert_eq!(texts("a.rs", "#[test]\nfn test_it() {}").len(), 1);
        assert_eq!(texts("a.rs", "mod tests { #[tokio::test]\nasync fn test_it() {} }").len(), 1);
        assert_eq!(texts("a.rs", "#[test]\n#[ignore = \"slow\"]\nfn it_holds() {}").len(), 1);
        assert_eq!(texts("a.rs", "#[test]\n#[ignore]\nfn it_holds() {}").len(), 1);
        assert!(
            texts("a.rs", "#[test]\n#[ignore = \"needs root: makes maps\"]\nfn it_holds() {}").is_empty()
        );
        assert!(texts("a.rs", "#[test]\nfn it_holds() {}\nfn test_targets() {}").is_empty());
    }
}
