//! The network namespaces of this machine.
//!
//! Must not know what is done in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};
use proxy_kernel::{netns_cookie, netns_cookie_of};

/// Namespaces that processes are in.
const PROCESSES: &str = "/proc";
/// Namespaces with a name, which live without a process (`ip netns`, container runtimes).
const NAMED: &str = "/run/netns";

/// Finds namespaces, each once: a namespace is known by device and inode. One that ends while it is looked for is left
/// out. What only a descriptor keeps alive cannot be found.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    seen: BTreeSet<(u64, u64)>,
}

impl Namespaces {
    /// Our own, those of all processes that we see, and the named ones.
    pub(super) fn of_processes(&mut self) -> Vec<File> {
        let mut candidates = vec![Path::new(PROCESSES).join("thread-self/ns/net")];
        candidates.extend(processes().into_iter().map(|process| process.join("ns/net")));
        candidates.extend(entries(Path::new(NAMED)));
        self.open_new(candidates)
    }

    /// Those of single threads: network agents enter the namespaces of others with one of theirs.
    pub(super) fn of_threads(&mut self) -> Vec<File> {
        let threads = processes().into_iter().flat_map(|process| entries(&process.join("task")));
        self.open_new(threads.map(|thread| thread.join("ns/net")))
    }

    fn open_new(&mut self, paths: impl IntoIterator<Item = PathBuf>) -> Vec<File> {
        let mut opened = Vec::new();
        for path in paths {
            let Ok(identity) = identify(&path) else { continue };
            if !self.seen.contains(&identity)
                && let Ok(file) = File::open(&path)
            {
                self.seen.insert(identity);
                opened.push(file);
            }
        }
        opened
    }
}

/// The network namespaces that processes are in, but for our own.
pub fn inhabited_namespaces() -> Vec<File> {
    let mut namespaces = Namespaces::default();
    namespaces.open_new(["/proc/thread-self/ns/net".into()]);
    namespaces.open_new(processes().into_iter().map(|process| process.join("ns/net")))
}

/// The cookies of all namespaces that can be found, by a thread that enters each.
///
/// # Errors
/// This process may not enter them.
pub fn netns_cookies() -> io::Result<BTreeSet<u64>> {
    let mut namespaces = Namespaces::default();
    let mut found = namespaces.of_processes();
    found.extend(namespaces.of_threads());
    let enter_each = move || {
        let cookie = |namespace: File| {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            netns_cookie()
        };
        found.into_iter().map(cookie).collect()
    };
    let broken = |_| io::Error::other("the thread that enters the namespaces broke down");
    thread::Builder::new().name("netns-cookies".to_owned()).spawn(enter_each)?.join().map_err(broken)?
}

/// A path to each of the namespaces with these cookies that can be found.
pub fn netns_paths(cookies: &[u64]) -> BTreeMap<u64, PathBuf> {
    let mut known = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let by_process = processes().into_iter().map(|process| process.join("ns/net"));
    for path in entries(Path::new(NAMED)).into_iter().chain(by_process) {
        if known.len() == cookies.len() {
            break;
        }
        if !identify(&path).is_ok_and(|identity| seen.insert(identity)) {
            continue;
        }
        if let Some(cookie) = netns_cookie_of(&path).ok().filter(|cookie| cookies.contains(cookie)) {
            known.insert(cookie, path);
        }
    }
    known
}

fn processes() -> Vec<PathBuf> {
    let is_number = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let mut paths = entries(Path::new(PROCESSES));
    paths.retain(|path| path.file_name().is_some_and(is_number));
    paths
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let listing = fs::read_dir(directory).into_iter().flatten();
    listing.filter_map(|entry| Some(entry.ok()?.path())).collect()
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
        let mut namespaces = Namespaces::default();
        assert_eq!(namespaces.of_processes().iter().filter(|file| same(file)).count(), 1);
        assert_eq!(namespaces.of_threads().iter().filter(|file| same(file)).count(), 0);
    }

    #[test]
    fn a_path_that_is_no_namespace_has_no_cookie() {
        assert!(netns_cookie_of(Path::new("/proc/self/ns/none")).is_err());
        assert!(netns_cookie_of(Path::new("/proc/self/status")).is_err());
        assert!(netns_paths(&[]).is_empty());
    }

    #[test]
    fn nobody_counts_as_living_in_our_own_namespace() {
        let own = identify(Path::new("/proc/self/ns/net")).unwrap();
        let same =
            |file: &File| file.metadata().is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == own);
        assert!(!inhabited_namespaces().iter().any(same));
    }

    #[test]
    #[ignore = "needs root: it enters the namespaces of others"]
    fn our_own_cookie_is_among_all() {
        assert!(netns_cookies().unwrap().contains(&netns_cookie().unwrap()));
    }

    #[test]
    fn a_path_that_is_gone_is_left_out() {
        assert!(Namespaces::default().open_new(["/proc/self/ns/none".into()]).is_empty());
    }
}
