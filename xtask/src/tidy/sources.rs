//! The Rust files of the repository: which there are, which the compiler reaches, and which are test code.
//!
//! A file that no `mod` names is never compiled, and nothing else would ever notice.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, Target, TargetKind};
use syn::Item;
use walkdir::{DirEntry, WalkDir};

use super::Complaint;
use super::syntax;
use crate::user_space::TESTS_PACKAGE;
use crate::workspace::Workspace;

/// Endings of the files that people read and write.
const TEXT: [&str; 14] =
    ["rs", "toml", "md", "sh", "go", "mod", "yaml", "yml", "json", "txt", "txtar", "tpl", "gitignore", "run"];

/// One Rust file.
pub(crate) struct Source {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
    /// Whether the whole file is test code: by `#[cfg(test)] mod name;`, or as part of a test target.
    pub(crate) is_test: bool,
    /// Lines of the items under `#[cfg(test)]`.
    tests: Vec<RangeInclusive<usize>>,
}

impl Source {
    fn new(path: String, text: String, is_test: bool) -> Result<Self> {
        let syntax = syn::parse_file(&text).with_context(|| format!("cannot parse {path}"))?;
        let tests = syntax::test_lines(&syntax);
        Ok(Self { path, text, syntax, is_test, tests })
    }

    /// A file for a check to be tried on.
    #[cfg(test)]
    pub(crate) fn sample(path: &str, text: &str) -> Self {
        Self::new(path.to_owned(), text.to_owned(), false).expect("a sample that parses")
    }

    /// The lines, numbered from 1, that are not test code.
    pub(crate) fn production_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines()).filter(|(number, _)| !self.is_test_line(*number))
    }

    /// Whether the line is test code.
    pub(crate) fn is_test_line(&self, line: usize) -> bool {
        self.is_test || self.tests.iter().any(|range| range.contains(&line))
    }
}

/// All Rust files.
pub(crate) struct Sources {
    /// What the compiler reaches, by path.
    reached: BTreeMap<PathBuf, Source>,
    /// Everything that lies there.
    present: Vec<PathBuf>,
    root: PathBuf,
}

impl Sources {
    /// Follows every target of the workspace and of the eBPF crate.
    ///
    /// # Errors
    /// When a file cannot be read or parsed.
    pub(crate) fn read(workspace: &Workspace, metadata: &[Metadata]) -> Result<Self> {
        let present =
            files(workspace.root()).filter(|path| path.extension().is_some_and(|ending| ending == "rs"));
        let mut sources = Self {
            reached: BTreeMap::new(),
            present: present.collect(),
            root: workspace.root().to_path_buf(),
        };
        for package in metadata.iter().flat_map(Metadata::workspace_packages) {
            for target in &package.targets {
                let is_test = package.name == TESTS_PACKAGE || is_test_target(target);
                sources.follow(target.src_path.as_std_path(), is_test, true)?;
            }
        }
        Ok(sources)
    }

    /// Takes in a file and the modules it declares. `owns_folder`: its modules lie beside it (a crate root or
    /// `mod.rs`), not in a folder of its name.
    fn follow(&mut self, file: &Path, is_test: bool, owns_folder: bool) -> Result<()> {
        if self.reached.get(file).is_some_and(|known| !known.is_test || is_test) {
            return Ok(());
        }
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let relative = file.strip_prefix(&self.root).unwrap_or(file).to_string_lossy().into_owned();
        let source = Source::new(relative, text, is_test)?;
        let folder = if owns_folder { file.with_file_name("") } else { file.with_extension("") };
        let declared = declared_modules(&source.syntax.items, &file.with_file_name(""), &folder, is_test);
        self.reached.insert(file.to_path_buf(), source);
        for module in declared {
            if let Some(found) = module.candidates.iter().find(|candidate| candidate.exists()) {
                let owns_folder = module.by_path || found.ends_with("mod.rs");
                self.follow(found, module.is_test, owns_folder)?;
            }
        }
        Ok(())
    }

    pub(crate) fn reachable(&self) -> impl Iterator<Item = &Source> + Clone {
        self.reached.values()
    }

    /// Files that no target reaches.
    pub(crate) fn orphans(&self) -> Vec<Complaint> {
        let lost = self.present.iter().filter(|path| !self.reached.contains_key(*path));
        lost.map(|path| {
            let path = path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy();
            Complaint::new(&path, 0, "no target and no `mod` reaches this file: it is never compiled")
        })
        .collect()
    }
}

fn is_test_target(target: &Target) -> bool {
    target.kind.iter().any(|kind| matches!(kind, TargetKind::Test | TargetKind::Bench | TargetKind::Example))
}

/// A `mod name;` and where its file may be.
struct Declared {
    candidates: Vec<PathBuf>,
    by_path: bool,
    is_test: bool,
}

/// The modules that items declare. `beside`: where `#[path]` starts, which is the file's own folder unless the
/// declaration stands in an inline module; `folder`: where the others lie.
fn declared_modules(items: &[Item], beside: &Path, folder: &Path, is_test: bool) -> Vec<Declared> {
    let modules =
        items.iter().filter_map(|item| if let Item::Mod(module) = item { Some(module) } else { None });
    modules
        .flat_map(|module| {
            let is_test = is_test || syntax::is_cfg_test(&module.attrs);
            let name = module.ident.to_string();
            match (&module.content, syntax::path_attribute(&module.attrs)) {
                (Some((_, items)), _) => {
                    let inner = folder.join(name);
                    declared_modules(items, &inner, &inner, is_test)
                }
                (None, Some(path)) => {
                    vec![Declared { candidates: vec![plain(&beside.join(path))], by_path: true, is_test }]
                }
                (None, None) => {
                    let candidates =
                        vec![folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
                    vec![Declared { candidates, by_path: false, is_test }]
                }
            }
        })
        .collect()
}

/// A path without `..`, so that a file has one name.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

/// Every text file of the repository with its path relative to it.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn text_files(workspace: &Workspace) -> Result<Vec<(String, String)>> {
    let is_text = |path: &Path| {
        let ending = path.extension().or_else(|| path.file_name()).unwrap_or_default();
        TEXT.iter().any(|known| ending == *known)
    };
    files(workspace.root())
        .filter(|path| is_text(path))
        .map(|path| {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((path.strip_prefix(workspace.root())?.to_string_lossy().into_owned(), text))
        })
        .collect()
}

/// Every file that belongs to the repository: not git's own, not what a build left.
fn files(root: &Path) -> impl Iterator<Item = PathBuf> {
    let foreign = |entry: &DirEntry| {
        entry.depth() > 0 && [".git", "target"].iter().any(|name| entry.file_name() == *name)
    };
    let entries =
        WalkDir::new(root).sort_by_file_name().into_iter().filter_entry(move |entry| !foreign(entry));
    entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_file()).map(DirEntry::into_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is removed with the value.
    struct Tree(PathBuf);

    impl Tree {
        fn with(files: &[(&str, &str)]) -> Self {
            static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let root = std::env::temp_dir().join(format!("xtask-tidy-{}-{number}", std::process::id()));
            for (path, text) in files {
                let file = root.join(path);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
            Self(root)
        }

        fn sources(&self) -> Sources {
            let present =
                files(&self.0).filter(|path| path.extension().is_some_and(|ending| ending == "rs")).collect();
            let mut sources = Sources { reached: BTreeMap::new(), present, root: self.0.clone() };
            sources.follow(&self.0.join("src/lib.rs"), false, true).unwrap();
            sources
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn orphans(files: &[(&str, &str)]) -> Vec<String> {
        Tree::with(files).sources().orphans().into_iter().map(|complaint| complaint.file).collect()
    }

    #[test]
    fn a_file_that_no_module_names_is_an_orphan() {
        let files = [("src/lib.rs", "mod used;"), ("src/used.rs", ""), ("src/lost.rs", "")];
        assert_eq!(orphans(&files), ["src/lost.rs"]);
    }

    #[test]
    fn modules_are_found_wherever_rust_allows_them() {
        let files = [
            ("src/lib.rs", "mod a; mod b; mod inner { mod c; } #[path = \"else/where.rs\"] mod d;"),
            ("src/a.rs", "mod deep; #[cfg(test)] #[path = \"a_tests.rs\"] mod tests;"),
            ("src/a/deep.rs", ""),
            ("src/a_tests.rs", ""),
            ("src/b/mod.rs", "mod beside;"),
            ("src/b/beside.rs", ""),
            ("src/inner/c.rs", ""),
            ("src/else/where.rs", ""),
        ];
        assert_eq!(orphans(&files), Vec::<String>::new());
    }

    #[test]
    fn a_file_in_another_folder_is_found_by_its_path() {
        let files = [
            ("src/lib.rs", "#[path = \"../else/where/mod.rs\"] mod a;"),
            ("else/where/mod.rs", "mod beside;"),
            ("else/where/beside.rs", ""),
        ];
        assert_eq!(orphans(&files), Vec::<String>::new());
    }

    #[test]
    fn the_file_of_a_test_module_is_test_code_and_its_neighbour_is_not() {
        let tree = Tree::with(&[
            ("src/lib.rs", "#[cfg(test)] mod tests; mod a;"),
            ("src/tests.rs", ""),
            ("src/a.rs", ""),
        ]);
        let sources = tree.sources();
        let tests: Vec<&str> =
            sources.reachable().filter(|source| source.is_test).map(|source| source.path.as_str()).collect();
        assert_eq!(tests, ["src/tests.rs"]);
    }

    #[test]
    fn what_a_build_left_is_not_looked_at() {
        assert_eq!(
            orphans(&[("src/lib.rs", ""), ("target/debug/build/x.rs", ""), (".git/x.rs", "")]),
            Vec::<String>::new()
        );
    }
}
