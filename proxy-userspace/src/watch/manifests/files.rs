//! Which files of a folder are manifests, what is in them, and whether they changed.
//!
//! Must not know when to look.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Content, Problem, parse};

/// What distinguishes one state of a file from the next. Follows symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
    /// Likewise, of the inode.
    changed: (i64, i64),
}

/// The manifests of a folder, and the stamp of each; `None` for one that cannot be examined.
pub(super) type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// The manifests in `path`, sorted by name: itself if it is no folder, else its files named `*.yaml`, `*.yml` or
/// `*.json`. Names that begin with a dot are left out: editors and ConfigMap volumes keep their own things there.
///
/// # Errors
/// The system's, if `path` does not exist or is a folder that cannot be read.
pub(super) fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        // A link that leads nowhere is listed, so that reading it says so.
        if is_manifest(&file) && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// The stamps of the manifests in `path`.
///
/// # Errors
/// As [`list`].
pub(super) fn stamps(path: &Path) -> io::Result<Stamps> {
    let stamp = |file: PathBuf| {
        let stamp = fs::metadata(&file).ok().map(|metadata| Stamp::of(&metadata));
        (file, stamp)
    };
    Ok(list(path)?.into_iter().map(stamp).collect())
}

/// What is in the file.
pub(super) fn read(file: &Path) -> Content {
    let name = file.display().to_string();
    match fs::read(file) {
        Ok(bytes) => parse::content(&name, &bytes),
        Err(error) => {
            let message = format!("cannot read the file: {error}");
            let problem = Problem { file: name, line: 0, broken: true, message };
            Content { problems: vec![problem], ..Content::default() }
        }
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// There is nothing in the file.
    pub(super) fn is_empty(&self) -> bool {
        self.size == 0
    }
}

fn is_manifest(file: &Path) -> bool {
    let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden
        && file
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_listed_by_name_without_hidden_files_other_files_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", "c.yml", "x.txt", ".hidden.yaml", "y.yaml~", "z.yaml.swp"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("sub.yaml")).unwrap();
        let names: Vec<_> =
            list(folder.path()).unwrap().iter().map(|file| file.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.json", "b.yaml", "c.yml"]);
    }

    #[test]
    fn a_single_file_is_read_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("notes.txt");
        fs::write(&file, "").unwrap();
        assert_eq!(list(&file).unwrap(), [file]);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_a_problem_of_that_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::os::unix::fs::symlink("/nonexistent/target", &file).unwrap();
        assert_eq!(list(folder.path()).unwrap(), std::slice::from_ref(&file));
        let content = read(&file);
        assert!(content.is_broken());
        assert!(content.problems[0].to_string().contains("a.yaml: cannot read the file"), "{content:?}");
    }

    #[test]
    fn the_stamp_changes_when_a_file_of_the_same_size_replaces_another() {
        let folder = tempfile::tempdir().unwrap();
        let (file, new) = (folder.path().join("a.yaml"), folder.path().join("a.new"));
        fs::write(&file, "1").unwrap();
        fs::write(&new, "2").unwrap();
        let before = stamps(folder.path()).unwrap();
        fs::rename(&new, &file).unwrap();
        assert_ne!(stamps(folder.path()).unwrap(), before);
    }
}
