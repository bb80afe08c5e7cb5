//! The network namespaces of this machine.
//!
//! Must not know what is done in them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Namespaces that processes are in.
const PROCESSES: &str = "/proc";
/// Namespaces with a name, which live without a process (`ip netns`, container runtimes).
const NAMED: &str = "/run/netns";

/// Opens each namespace once: our own, those of all processes that we see, and the named ones. A namespace that ends
/// while it is looked for is left out.
pub(super) fn all() -> Vec<File> {
    let mut candidates = vec![Path::new(PROCESSES).join("self/ns/net")];
    candidates.extend(processes());
    candidates.extend(entries(Path::new(NAMED)));
    distinct(candidates)
}

fn processes() -> Vec<PathBuf> {
    let mut paths = entries(Path::new(PROCESSES));
    let numeric = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    paths.retain(numeric);
    paths.into_iter().map(|path| path.join("ns/net")).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let listing = fs::read_dir(directory).into_iter().flatten();
    listing.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Opens only the first path to each file: a namespace is known by device and inode.
fn distinct(paths: Vec<PathBuf>) -> Vec<File> {
    let mut found = BTreeMap::new();
    for path in paths {
        let Ok(identity) = identify(&path) else { continue };
        if let std::collections::btree_map::Entry::Vacant(place) = found.entry(identity)
            && let Ok(file) = File::open(&path)
        {
            place.insert(file);
        }
    }
    found.into_values().collect()
}

fn identify(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_namespace_is_found_once() {
        let own = identify(Path::new("/proc/self/ns/net")).unwrap();
        let same =
            |file: &File| file.metadata().is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == own);
        assert_eq!(all().iter().filter(|file| same(file)).count(), 1);
    }

    #[test]
    fn a_path_that_is_gone_is_left_out() {
        assert!(distinct(vec!["/proc/self/ns/none".into()]).is_empty());
    }
}
