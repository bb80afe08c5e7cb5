//! From the text of one file to objects, document by document.
//!
//! Every document is first parsed to a plain tree and then judged by its kind, so that one malformed object costs
//! nothing but itself. Must not know folders.

use std::borrow::Cow;

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{
    Content, Located, Object, Problem,
    split::{Document, documents},
    tree::{SyntaxError, Tree},
};
use crate::watch::convert;

/// Lists in lists in lists: deeper is nobody's intention.
const LIST_DEPTH: usize = 4;

/// Everything in the file called `file`.
pub(super) fn content(file: &str, bytes: &[u8]) -> Content {
    let mut parser = Parser { file, base: 0, content: Content::default() };
    match std::str::from_utf8(bytes) {
        Ok(text) => parser.text(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.split(|byte| *byte == b'\n').count();
            parser.broken(line, "this is not UTF-8 text".to_owned());
        }
    }
    parser.content
}

/// A kind of object that matters.
trait Manifest: DeserializeOwned {
    const KIND: &'static str;
    const VERSION: &'static str;

    /// The model object, with the defaults that an API server would have filled in; and a remark for its author.
    fn finish(self) -> (Object, Option<&'static str>);
}

impl Manifest for Service {
    const KIND: &'static str = "Service";
    const VERSION: &'static str = "v1";

    fn finish(self) -> (Object, Option<&'static str>) {
        let mut service = convert::service(self);
        default_namespace(&mut service.name.namespace);
        let has_address = !service.cluster_ip.is_empty() || !service.cluster_ips.is_empty();
        let remark = (!has_address && service.service_type != "ExternalName").then_some(
            "no spec.clusterIP: only an API server allocates one, in a manifest it has to be written",
        );
        (Object::Service(service), remark)
    }
}

impl Manifest for EndpointSlice {
    const KIND: &'static str = "EndpointSlice";
    const VERSION: &'static str = "discovery.k8s.io/v1";

    fn finish(self) -> (Object, Option<&'static str>) {
        let mut slice = convert::slice(self);
        default_namespace(&mut slice.name.namespace);
        for port in &mut slice.ports {
            port.name.get_or_insert_default();
        }
        let remark = slice
            .service
            .is_none()
            .then_some("no label kubernetes.io/service-name: it belongs to no Service");
        (Object::Slice(slice), remark)
    }
}

impl Manifest for Node {
    const KIND: &'static str = "Node";
    const VERSION: &'static str = "v1";

    fn finish(self) -> (Object, Option<&'static str>) {
        (Object::Node(convert::node(self)), None)
    }
}

fn default_namespace(namespace: &mut String) {
    if namespace.is_empty() {
        "default".clone_into(namespace);
    }
}

struct Parser<'a> {
    file: &'a str,
    /// Lines of the file before the current document.
    base: usize,
    content: Content,
}

impl Parser<'_> {
    fn text(&mut self, text: &str) {
        for document in documents(text) {
            match json_values(document) {
                Some(values) => values.iter().for_each(|(line, text)| self.document(*line, text)),
                None => self.document(document.first_line, document.text),
            }
        }
    }

    fn document(&mut self, first_line: usize, text: &str) {
        self.base = first_line - 1;
        match Tree::parse(text) {
            Ok(tree) if tree.is_null() => {}
            Ok(tree) => self.value(&tree, None, 0),
            Err(SyntaxError { line, message }) => self.broken(line, message),
        }
    }

    /// One object or a list. `item` is version and kind of an item whose list says it in its place.
    fn value(&mut self, tree: &Tree, item: Option<(&str, &str)>, depth: usize) {
        let (mut version, mut kind) = (tree.text("apiVersion"), tree.text("kind"));
        if let (Some(of_list), "") = (item, kind) {
            (version, kind) = of_list;
        }
        let group = version.rsplit_once('/').map_or("", |(group, _)| group);
        match (group, kind) {
            (_, "") => self.broken(tree.line, "no Kubernetes object: it has no kind".to_owned()),
            ("", "List") => self.list(tree, None, depth),
            ("", "ServiceList") => self.list(tree, Some((version, Service::KIND)), depth),
            ("", "NodeList") => self.list(tree, Some((version, Node::KIND)), depth),
            ("discovery.k8s.io", "EndpointSliceList") => {
                self.list(tree, Some((version, EndpointSlice::KIND)), depth);
            }
            ("", Service::KIND) => self.object::<Service>(tree, version),
            ("", Node::KIND) => self.object::<Node>(tree, version),
            ("discovery.k8s.io", EndpointSlice::KIND) => self.object::<EndpointSlice>(tree, version),
            _ => self.content.ignored += 1,
        }
    }

    fn list(&mut self, tree: &Tree, item: Option<(&str, &str)>, depth: usize) {
        match tree.get("items") {
            _ if depth == LIST_DEPTH => self.broken(tree.line, "too many lists inside lists".to_owned()),
            None => {}
            Some(items) if items.is_null() => {}
            Some(items) => match items.items() {
                Some(items) => items.iter().for_each(|each| self.value(each, item, depth + 1)),
                None => self.broken(items.line, "items is not a list".to_owned()),
            },
        }
    }

    fn object<K: Manifest>(&mut self, tree: &Tree, version: &str) {
        let kind = K::KIND;
        let name = tree.get("metadata").map(|metadata| metadata.text("name")).unwrap_or_default();
        if version != K::VERSION {
            let message = format!("{kind} {name}: apiVersion {version:?} is not known, write {}", K::VERSION);
            return self.broken(tree.line, message);
        }
        if name.is_empty() {
            return self.broken(tree.line, format!("{kind} without a metadata.name that is text"));
        }
        match serde_path_to_error::deserialize::<_, K>(tree.value()) {
            Ok(object) => {
                let (object, remark) = object.finish();
                self.content.objects.push(Located { object, line: self.base + tree.line });
                if let Some(remark) = remark {
                    self.problem(tree.line, false, format!("{kind} {name}: {remark}"));
                }
            }
            Err(error) => {
                let message = format!("{kind} {name}: {}: {}", error.path(), error.inner());
                self.broken(tree.line_of(error.path()), message);
            }
        }
    }

    fn broken(&mut self, line: usize, message: String) {
        self.problem(line, true, message);
    }

    /// `line` counts from 1 in the current document.
    fn problem(&mut self, line: usize, broken: bool, message: String) {
        let problem = Problem { file: self.file.to_owned(), line: self.base + line, broken, message };
        self.content.problems.push(problem);
    }
}

/// The values of a text that is a sequence of JSON objects, as `kubectl` accepts it, each with its first line; `None`
/// if it is none. Tabs, which YAML does not allow for indentation, become blanks: no JSON text holds a tab as such.
fn json_values(document: Document<'_>) -> Option<Vec<(usize, Cow<'_, str>)>> {
    if !document.text.trim_start().starts_with('{') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(document.text).into_iter::<IgnoredAny>();
    let mut found = Vec::new();
    let mut start = 0;
    while let Some(value) = values.next() {
        value.ok()?;
        let end = values.byte_offset();
        let text = document.text.get(start..end)?;
        let text =
            if text.contains('\t') { Cow::Owned(text.replace('\t', " ")) } else { Cow::Borrowed(text) };
        let before = document.text.get(..start)?;
        found.push((document.first_line + before.matches('\n').count(), text));
        start = end;
    }
    Some(found)
}
