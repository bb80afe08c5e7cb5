//! A parsed YAML or JSON document that remembers on which line each of its parts is written.
//!
//! Must not know Kubernetes.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use serde_saphyr::{DefaultMessageFormatter, MessageFormatter, Spanned};

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Tree {
    /// Line, counted from 1 in the parsed text.
    pub(super) line: usize,
    node: Node,
}

#[derive(Debug)]
enum Node {
    Scalar(Value),
    Sequence(Vec<Tree>),
    Mapping(Vec<(String, Tree)>),
}

/// Why a text is no document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// Line, counted from 1 in the parsed text.
    pub(super) line: usize,
    /// What is wrong, without the line.
    pub(super) message: String,
}

impl Tree {
    /// Parses one document. JSON is read as the YAML that it is.
    pub(super) fn parse(text: &str) -> Result<Self, SyntaxError> {
        serde_saphyr::from_str_with_options::<Spanned<Node>>(text, options()).map(Self::from).map_err(
            |error| {
                let line = error.location().and_then(|location| usize::try_from(location.line()).ok());
                SyntaxError {
                    line: line.unwrap_or(1).max(1),
                    message: DefaultMessageFormatter.format_message(error.without_snippet()).into_owned(),
                }
            },
        )
    }

    /// Nothing is written here.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.node, Node::Scalar(Value::Null))
    }

    /// The field `key` of a mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.node {
            Node::Mapping(fields) => fields.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of the field `key` of a mapping; empty if there is none.
    pub(super) fn text(&self, key: &str) -> &str {
        match self.get(key).map(|field| &field.node) {
            Some(Node::Scalar(Value::String(text))) => text,
            _ => "",
        }
    }

    /// The items of a sequence.
    pub(super) fn items(&self) -> Option<&[Self]> {
        match &self.node {
            Node::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// The value without the lines.
    pub(super) fn value(&self) -> Value {
        match &self.node {
            Node::Scalar(value) => value.clone(),
            Node::Sequence(items) => items.iter().map(Self::value).collect(),
            Node::Mapping(fields) => fields.iter().map(|(key, field)| (key.clone(), field.value())).collect(),
        }
    }

    /// The line of what is at `path`, or of the nearest thing above it that is written at all.
    pub(super) fn line_of(&self, path: &Path) -> usize {
        let mut found = self;
        for segment in path {
            let child = match (segment, &found.node) {
                (Segment::Seq { index }, Node::Sequence(items)) => items.get(*index),
                (Segment::Map { key }, _) => found.get(key),
                _ => None,
            };
            let Some(child) = child else { break };
            found = child;
        }
        found.line
    }
}

impl From<Spanned<Node>> for Tree {
    fn from(spanned: Spanned<Node>) -> Self {
        let line = usize::try_from(spanned.referenced.line()).unwrap_or_default();
        Self { line, node: spanned.value }
    }
}

/// Limits of the parser: far above what a cluster needs, and yet limits. For aliases its own tight ones hold.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 100_000_000,
            max_nodes: 50_000_000,
            max_total_scalar_bytes: 1 << 30,
        },
        with_snippet: false,
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element::<Spanned<Node>>()? {
            items.push(item.into());
        }
        Ok(Node::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = access.next_key::<String>()? {
            fields.push((key, access.next_value::<Spanned<Node>>()?.into()));
        }
        Ok(Node::Mapping(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only its errors matter")]
    struct Outer {
        #[serde(default)]
        list: Vec<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only its errors matter")]
    struct Inner {
        number: u16,
    }

    fn error_line<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> usize {
        let tree = Tree::parse(text).unwrap();
        let error = serde_path_to_error::deserialize::<_, T>(tree.value()).unwrap_err();
        tree.line_of(error.path())
    }

    #[test]
    fn a_wrong_field_is_found_in_block_style_and_in_json() {
        assert_eq!(error_line::<Outer>("a: 1\nlist:\n- number: 1\n- x: y\n  number: no\n"), 5);
        assert_eq!(error_line::<Outer>("{\n \"list\": [\n  {\"number\":1},\n  {\"number\": -1}]}\n"), 4);
    }

    #[test]
    fn a_missing_field_is_found_where_the_thing_that_lacks_it_begins() {
        assert_eq!(error_line::<Outer>("list:\n- number: 1\n- x: y\n"), 3);
    }

    #[test]
    fn scalars_keep_the_types_that_kubernetes_gives_them() {
        let text = "{a: 1, b: -1, c: 1.5, d: true, e: null, f: 'true', g: fd00::1, h: 2026-01-01T00:00:00Z, i: '80', 8: x}";
        let expected = json!({"a": 1, "b": -1, "c": 1.5, "d": true, "e": null, "f": "true", "g": "fd00::1",
            "h": "2026-01-01T00:00:00Z", "i": "80", "8": "x"});
        assert_eq!(Tree::parse(text).unwrap().value(), expected);
    }

    #[test]
    fn a_syntax_error_has_a_line_and_a_message_that_does_not_repeat_it() {
        let error = Tree::parse("a: 1\nb: [1,\nc: 2\n").unwrap_err();
        assert!(error.line >= 2, "{error:?}");
        assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error:?}");
        assert!(!error.message.contains("line "), "{error:?}");
    }

    #[test]
    fn a_key_written_twice_is_an_error_on_its_line() {
        assert_eq!(Tree::parse("a: 1\nb: 2\na: 3\n").unwrap_err().line, 3);
    }

    #[test]
    fn aliases_and_merges_are_resolved_but_a_bomb_of_them_is_refused() {
        let tree = Tree::parse("a: &x {p: 1}\nb: *x\nc: {<<: *x, q: 2}\n").unwrap();
        assert_eq!(tree.value(), json!({"a": {"p": 1}, "b": {"p": 1}, "c": {"p": 1, "q": 2}}));
        let mut bomb = vec!["a0: &a0 [x, x, x, x, x, x, x, x, x, x]".to_owned()];
        for level in 1..12 {
            let items = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push(format!("a{level}: &a{level} [{items}]"));
        }
        assert!(Tree::parse(&bomb.join("\n")).is_err());
    }
}
