//! Services, EndpointSlices and Nodes from YAML and JSON files.
//!
//! [`Manifests::read`] reads them once, `run` watches them. `split` cuts a text into documents, `tree` parses one, `parse`
//! makes objects of it, `files` knows folders, `bell` their changes, `live` time.
//! Must not know an API server.

mod bell;
mod files;
mod live;
mod parse;
mod split;
mod tree;

use std::{collections::BTreeMap, fmt, io, path::Path};

use proxy_core::model::{Event, NodeObject, ObjectName, ServiceObject, SliceObject};

pub(crate) use bell::Bell;
pub(super) use live::{Listeners, run};

/// All objects of a set of manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifests {
    /// The Services.
    pub services: BTreeMap<ObjectName, ServiceObject>,
    /// The EndpointSlices.
    pub slices: BTreeMap<ObjectName, SliceObject>,
    /// The Nodes, by name.
    pub nodes: BTreeMap<String, NodeObject>,
    /// What was wrong, in the order of the files and lines.
    pub problems: Vec<Problem>,
    /// How many objects were of kinds that do not matter here.
    pub ignored: usize,
}

/// Something wrong in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file as the user would name it; `<stdin>` for the standard input.
    pub file: String,
    /// Line, counted from 1; 0 where the whole file is meant.
    pub line: usize,
    /// An object could not be used; otherwise it is a remark.
    pub broken: bool,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}

/// What one file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    objects: Vec<Located>,
    problems: Vec<Problem>,
    ignored: usize,
}

impl Content {
    /// Something in the file could not be used.
    fn is_broken(&self) -> bool {
        self.problems.iter().any(|problem| problem.broken)
    }
}

/// An object and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Located {
    object: Object,
    line: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Object {
    Service(ServiceObject),
    Slice(SliceObject),
    Node(NodeObject),
}

impl Manifests {
    /// Reads a file, every `.yaml`, `.yml` and `.json` file of a folder (not of its sub-folders), or `-`, the standard
    /// input.
    ///
    /// Whatever is wrong inside a file ends up in [`Manifests::problems`] and does not spoil the other documents.
    ///
    /// # Errors
    /// The system's, if the file or folder cannot be opened.
    pub fn read(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::stdin().lock(), &mut bytes)?;
            let content = parse::content("<stdin>", &bytes);
            return Ok(Self::merge([("<stdin>", &content)]));
        }
        let mut contents = Vec::new();
        for file in files::list(path)? {
            let name = file.display().to_string();
            let content = files::read(&file);
            contents.push((name, content));
        }
        Ok(Self::merge(contents.iter().map(|(name, content)| (name.as_str(), content))))
    }

    /// The events that tell all of it to the core of the node `node_name`.
    pub fn events(&self, node_name: &str) -> [Event; 3] {
        [
            Event::Node(self.nodes.get(node_name).cloned()),
            Event::SlicesListed(self.slices.values().cloned().collect()),
            Event::ServicesListed(self.services.values().cloned().collect()),
        ]
    }

    /// One set of the contents of files, in their order: of two objects with one name the later one wins.
    fn merge<'a>(contents: impl IntoIterator<Item = (&'a str, &'a Content)>) -> Self {
        let mut merged = Self::default();
        let mut seen = BTreeMap::new();
        for (file, content) in contents {
            merged.ignored += content.ignored;
            merged.problems.extend(content.problems.iter().cloned());
            for located in &content.objects {
                merged.add(file, located, &mut seen);
            }
        }
        merged
    }

    fn add<'a>(
        &mut self,
        file: &'a str,
        located: &Located,
        seen: &mut BTreeMap<(&'static str, ObjectName), (&'a str, usize)>,
    ) {
        let identity = located.object.identity();
        if let Some((first, line)) = seen.insert(identity.clone(), (file, located.line)) {
            let (kind, name) = identity;
            let message = format!("{kind} {name} replaces the one at {first}:{line}");
            self.problems.push(Problem { file: file.to_owned(), line: located.line, broken: false, message });
        }
        match located.object.clone() {
            Object::Service(service) => drop(self.services.insert(service.name.clone(), service)),
            Object::Slice(slice) => drop(self.slices.insert(slice.name.clone(), slice)),
            Object::Node(node) => drop(self.nodes.insert(node.name.clone(), node)),
        }
    }
}

impl Object {
    fn identity(&self) -> (&'static str, ObjectName) {
        match self {
            Self::Service(service) => ("Service", service.name.clone()),
            Self::Slice(slice) => ("EndpointSlice", slice.name.clone()),
            Self::Node(node) => ("Node", ObjectName::new("", node.name.clone())),
        }
    }
}

#[cfg(test)]
mod tests;
