//! Removes everything that the agent left in the kernel, with the agent gone.
//!
//! Must not stop at the first failure.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    bpffs::is_on_bpffs,
    clsact,
    devices::Place,
    lock::{Lock, LockError},
};

/// What was removed and what could not be.
#[derive(Debug, Default)]
pub struct CleanupReport {
    /// Pins and directories that are gone now.
    pub removed: Vec<PathBuf>,
    /// Filters that are gone now, by side and the kernel's index of the device.
    pub filters: Vec<String>,
    /// What is still there, and why.
    pub errors: Vec<String>,
}

/// Removes every link, map and directory under `pin_dir`, links first: a removed link detaches its program at once; and
/// the filters of this network namespace. Finding nothing is success. No agent can start there meanwhile.
///
/// # Errors
/// An agent runs with these pins, wherever its run folder is; nothing was removed.
pub fn cleanup(pin_dir: &Path) -> Result<CleanupReport, LockError> {
    let mut report = remove_pins(pin_dir)?;
    match clsact::remove_all() {
        Ok(places) => {
            let shown = |place: &Place| format!("{} of device {}", place.side.name(), place.index);
            report.filters = places.iter().map(shown).collect();
        }
        Err(error) => report.errors.push(error.to_string()),
    }
    Ok(report)
}

fn remove_pins(pin_dir: &Path) -> Result<CleanupReport, LockError> {
    let mut report = CleanupReport::default();
    // Not `exists`: what may not be looked at is not gone.
    match fs::metadata(pin_dir).map(drop) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(report),
        Err(error) => {
            report.failed(pin_dir, &error);
            return Ok(report);
        }
        Ok(()) => {}
    }
    match is_on_bpffs(pin_dir) {
        Ok(true) => {
            let _lock = Lock::take_directory(pin_dir)?;
            report.remove_tree(&pin_dir.join("links"));
            report.remove_tree(pin_dir);
        }
        Ok(false) => {
            report.errors.push(format!("{} is not on a bpffs: nothing there is ours", pin_dir.display()));
        }
        Err(error) => report.errors.push(error.to_string()),
    }
    Ok(report)
}

impl CleanupReport {
    /// Children before parents. bpffs holds pins and directories, two levels deep.
    fn remove_tree(&mut self, directory: &Path) {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.failed(directory, &error),
            Ok(entries) => entries,
        };
        for entry in entries {
            match entry.and_then(|entry| Ok((entry.path(), entry.file_type()?.is_dir()))) {
                Ok((path, true)) => self.remove_tree(&path),
                Ok((path, false)) => self.record(&path, fs::remove_file(&path)),
                Err(error) => self.failed(directory, &error),
            }
        }
        self.record(directory, fs::remove_dir(directory));
    }

    fn record(&mut self, path: &Path, result: io::Result<()>) {
        match result {
            Ok(()) => self.removed.push(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.failed(path, &error),
        }
    }

    fn failed(&mut self, path: &Path, error: &io::Error) {
        self.errors.push(format!("{}: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_directory_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("precious"), "x").unwrap();
        let report = cleanup(directory.path()).unwrap();
        assert!(report.removed.is_empty());
        assert_eq!(report.errors.len(), 1);
        assert!(directory.path().join("precious").exists());
    }

    #[test]
    fn nothing_to_remove_is_success() {
        let report = cleanup(Path::new("/sys/fs/bpf/sheave-that-never-was")).unwrap();
        assert!(report.removed.is_empty() && report.errors.is_empty());
    }

    #[test]
    fn a_tree_is_removed_children_first() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("sheave");
        fs::create_dir_all(root.join("maps")).unwrap();
        fs::write(root.join("maps/services4-1"), "").unwrap();
        let mut report = CleanupReport::default();
        report.remove_tree(&root);
        assert_eq!(report.removed, [root.join("maps/services4-1"), root.join("maps"), root.clone()]);
        assert!(!root.exists());
    }
}
