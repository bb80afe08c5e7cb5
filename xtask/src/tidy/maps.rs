//! Kernel maps of the packet path: all in one file, each with its documentation.

use syn::visit::Visit;

use super::Complaint;
use super::sources::Source;
use super::syntax::{self, Spanned as _};

const HOME: &str = "proxy-ebpf/src/maps.rs";
const ATTRIBUTES: [&str; 2] = ["map", "btf_map"];

/// Complains about a map elsewhere and about a map without a doc comment.
pub(crate) fn check(source: &Source) -> Vec<Complaint> {
    let mut finder = Finder { source, complaints: Vec::new() };
    if source.path.starts_with("proxy-ebpf/") {
        finder.visit_file(&source.syntax);
    }
    finder.complaints
}

struct Finder<'a> {
    source: &'a Source,
    complaints: Vec<Complaint>,
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        if !ATTRIBUTES.iter().any(|name| syntax::has_attribute(&item.attrs, name)) {
            return;
        }
        let line = item.ident.first_line();
        if self.source.path != HOME {
            let text = format!("map {}: all maps are declared in {HOME}", item.ident);
            self.complaints.push(Complaint::new(&self.source.path, line, text));
        }
        if !syntax::has_attribute(&item.attrs, "doc") {
            let text = format!(
                "map {}: document key, value, writer, reader, capacity and what happens when full",
                item.ident
            );
            self.complaints.push(Complaint::new(&self.source.path, line, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = "/// Key: a. Value: b.\n#[map]\nstatic A: Array<u32> = Array::new();\n";
    const BARE: &str = "#[aya_ebpf::macros::map(name = \"a\")]\nstatic A: Array<u32> = Array::new();\n";

    #[test]
    fn a_map_without_documentation_is_named() {
        assert!(check(&Source::sample(HOME, DOCUMENTED)).is_empty());
        let complaints = check(&Source::sample(HOME, BARE));
        assert_eq!(complaints.iter().map(|it| it.line).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_map_in_another_file_of_the_packet_path_is_refused() {
        assert_eq!(check(&Source::sample("proxy-ebpf/src/main.rs", DOCUMENTED)).len(), 1);
    }

    #[test]
    fn an_ordinary_static_is_no_map() {
        assert!(
            check(&Source::sample("proxy-ebpf/src/main.rs", "static LICENSE: [u8; 4] = *b\"GPL\\0\";"))
                .is_empty()
        );
    }
}
