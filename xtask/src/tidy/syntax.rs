//! Small questions about parsed Rust that several checks ask.

use std::ops::RangeInclusive;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, Item, Lit, Meta};

/// Anything of which the first and last line are known.
pub(crate) trait Spanned {
    fn first_line(&self) -> usize;
    fn last_line(&self) -> usize;
}

impl<T: syn::spanned::Spanned> Spanned for T {
    fn first_line(&self) -> usize {
        self.span().start().line
    }

    fn last_line(&self) -> usize {
        self.span().end().line
    }
}

/// Whether the attributes contain `#[cfg(test)]`.
pub(crate) fn is_cfg_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

/// Whether the attributes make a function a test: `#[test]`, `#[tokio::test]`.
pub(crate) fn is_test_function(attributes: &[Attribute]) -> bool {
    attributes
        .iter()
        .any(|attribute| attribute.path().segments.last().is_some_and(|last| last.ident == "test"))
}

/// Whether one of the attributes has that name, in whatever path.
pub(crate) fn has_attribute(attributes: &[Attribute], name: &str) -> bool {
    attributes.iter().any(|attribute| attribute.path().segments.last().is_some_and(|last| last.ident == name))
}

/// The text of `#[path = "..."]`.
pub(crate) fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find(|attribute| attribute.path().is_ident("path")).and_then(text_value)
}

/// The text of an attribute of the form `#[name = "text"]`.
pub(crate) fn text_value(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else { return None };
    let Expr::Lit(literal) = &pair.value else { return None };
    let Lit::Str(text) = &literal.lit else { return None };
    Some(text.value())
}

/// The lines of every item under `#[cfg(test)]`.
pub(crate) fn test_lines(file: &syn::File) -> Vec<RangeInclusive<usize>> {
    struct Finder(Vec<RangeInclusive<usize>>);
    impl<'ast> Visit<'ast> for Finder {
        fn visit_item(&mut self, item: &'ast Item) {
            if is_cfg_test(attributes(item)) {
                self.0.push(item.first_line()..=item.last_line());
            } else {
                visit::visit_item(self, item);
            }
        }

        fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
            if is_cfg_test(&function.attrs) {
                self.0.push(function.first_line()..=function.last_line());
            }
        }
    }
    let mut finder = Finder(Vec::new());
    finder.visit_file(file);
    finder.0
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Macro(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => &[],
    }
}

/// A token with its line; a group's delimiters count as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
    pub(crate) is_ident: bool,
}

/// All tokens of a file in order, the insides of macro calls included.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut all = Vec::new();
    if let Ok(stream) = text.parse::<TokenStream>() {
        flatten(stream, &mut all);
    }
    all
}

fn flatten(stream: TokenStream, all: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = delimiters(group.delimiter());
                all.push(Token { text: open.to_owned(), line, is_ident: false });
                flatten(group.stream(), all);
                all.push(Token {
                    text: close.to_owned(),
                    line: group.span_close().start().line,
                    is_ident: false,
                });
            }
            TokenTree::Ident(ident) => all.push(Token { text: ident.to_string(), line, is_ident: true }),
            other => all.push(Token { text: other.to_string(), line, is_ident: false }),
        }
    }
}

fn delimiters(delimiter: Delimiter) -> (&'static str, &'static str) {
    match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::None => ("", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_under_cfg_test_is_found_in_modules_functions_and_methods() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n}\nimpl A {\n#[cfg(test)]\nfn b() {\n}\n}\n";
        let file = syn::parse_file(text).unwrap();
        assert_eq!(test_lines(&file), [2..=4, 6..=8]);
    }

    #[test]
    fn tokens_reach_into_macro_calls_and_carry_lines() {
        let found = tokens("fn a() {\n  println!(\"{}\",\n  b::c);\n}");
        let c = found.iter().find(|token| token.text == "c").unwrap();
        assert_eq!((c.line, c.is_ident), (3, true));
    }
}
