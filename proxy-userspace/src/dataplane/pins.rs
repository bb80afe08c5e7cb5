//! The bpffs directory: what is pinned where, and whether what is found there may be taken over.
//!
//! ```text
//! <pin directory>/maps/<map>-<schema hash><hash of the shapes>
//! <pin directory>/links/<program>
//! <pin directory>/programs/<program of the guard, or of the packet path for pods>
//! ```
//!
//! aya 0.14 opens a pinned map without comparing it with the program's definition, so every pin is compared here
//! before aya sees it. Must not know what the maps hold.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use aya::maps::{MapData, MapInfo};
use thiserror::Error;
use tracing::{info, warn};

use super::{
    bpffs::{self, BPFFS, is_on_bpffs},
    definition::{Group, MapDefinition, Shape},
    sys::{self, Access},
};

/// Why the pin directory cannot be used.
#[derive(Debug, Error)]
pub enum PinsError {
    /// It is on another file system.
    #[error(
        "{directory} is not on a bpffs: mount one there (mount -t bpf bpf DIR) or name a directory on one with --pin-dir"
    )]
    NotBpffs {
        /// The directory.
        directory: PathBuf,
    },
    /// There is none, and mounting one where we are would not be seen outside.
    #[error(
        "no bpffs is mounted on {BPFFS} where this process is, and it has other mounts than process 1: mount one on the \
         node (`sheave mount-bpffs`), give the container the node's {BPFFS}, then start the agent again"
    )]
    Unmounted,
    /// Mounting failed.
    #[error(
        "cannot mount a bpffs on {BPFFS}: mount it on the host (mount -t bpf bpf {BPFFS}) and pass it to the agent"
    )]
    Mount(#[source] io::Error),
    /// The first process's mounts cannot be entered.
    #[error(
        "cannot enter the mount namespace of process 1, which needs CAP_SYS_ADMIN, CAP_SYS_CHROOT and CAP_SYS_PTRACE"
    )]
    Enter(#[source] io::Error),
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Path {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The pin directory.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    directory: PathBuf,
}

/// What is pinned under a map's name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Same,
    /// Something that must not be handed to the programs.
    Foreign(String),
}

impl Pins {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.directory.join("maps")
    }

    pub(super) fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    fn programs(&self) -> PathBuf {
        self.directory.join("programs")
    }

    pub(super) fn program(&self, program: &str) -> PathBuf {
        self.programs().join(program)
    }

    pub(super) fn map(&self, definition: &MapDefinition) -> PathBuf {
        self.maps().join(definition.pin_name())
    }

    pub(super) fn link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// Makes the directory, and mounts a bpffs on /sys/fs/bpf if the directory is there and none is mounted, unless
    /// that would be seen by nobody else. Changes nothing of another agent's.
    pub(super) fn prepare(&self) -> Result<(), PinsError> {
        if !is_on_bpffs(&self.directory)? {
            if !self.directory.starts_with(BPFFS) {
                return Err(PinsError::NotBpffs { directory: self.directory.clone() });
            }
            bpffs::mount_for_good()?;
            info!(directory = BPFFS, "mounted a bpffs");
        }
        create(&self.directory)
    }

    /// Makes the directories below, for whoever has the lock.
    pub(super) fn make_folders(&self) -> Result<(), PinsError> {
        create(&self.maps())?;
        create(&self.programs())?;
        create(&self.links())
    }

    /// Whether an earlier agent's programs may still be on their hooks.
    pub(super) fn any_link(&self) -> Result<bool, PinsError> {
        Ok(!list(&self.links())?.is_empty())
    }

    /// Removes every pin that may not be taken over, so that the loader creates those maps anew. Returns whether the
    /// group of service maps was taken over; if a group is not, none of it is left.
    pub(super) fn admit(&self, definitions: &[MapDefinition]) -> Result<bool, PinsError> {
        let mut missing = Vec::new();
        for definition in definitions {
            let found = self.find(definition);
            if let Found::Foreign(why) = &found {
                warn!(
                    map = definition.name,
                    why, "a pinned map is not what its name says: replaced by a new one"
                );
                remove(&self.map(definition))?;
            }
            if found != Found::Same {
                missing.push(definition);
            }
        }
        let is_complete = |group: &Group| !missing.iter().any(|map| map.is_in(*group));
        for group in Group::ALL.into_iter().filter(|group| !is_complete(group)) {
            self.drop_group(group, definitions)?;
        }
        Ok(is_complete(&Group::Services))
    }

    fn drop_group(&self, group: Group, definitions: &[MapDefinition]) -> Result<(), PinsError> {
        for definition in definitions.iter().filter(|map| map.goes_with(group)) {
            if remove(&self.map(definition))? {
                info!(
                    map = definition.name,
                    "the maps it belongs to are not complete: this one is rebuilt with the rest"
                );
            }
        }
        Ok(())
    }

    fn find(&self, definition: &MapDefinition) -> Found {
        match open_map(&self.map(definition), Access::Full) {
            Ok((_, shape)) if shape == definition.shape => Found::Same,
            Ok((_, shape)) => Found::Foreign(format!("expected {:?}, found {shape:?}", definition.shape)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(error) => Found::Foreign(error.to_string()),
        }
    }

    /// Removes the pins of maps that these definitions do not name: those of other versions and other capacities.
    pub(super) fn remove_other_maps(&self, definitions: &[MapDefinition]) -> Result<Vec<String>, PinsError> {
        let current: BTreeSet<String> = definitions.iter().map(MapDefinition::pin_name).collect();
        let mut removed = Vec::new();
        for name in list(&self.maps())?.into_iter().filter(|name| !current.contains(name)) {
            remove(&self.maps().join(&name))?;
            removed.push(name);
        }
        Ok(removed)
    }
}

/// Opens a pinned map and says what the kernel knows of it.
pub(super) fn open_map(path: &Path, access: Access) -> io::Result<(OwnedFd, Shape)> {
    let map = sys::open_pin(path, access)?;
    let shape = Shape::of(&map_info(map.as_fd())?);
    Ok((map, shape))
}

/// The kernel's id of an open map.
pub(super) fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(map_info(map)?.id())
}

fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let data = MapData::from_fd(map.try_clone_to_owned()?).map_err(io::Error::other)?;
    data.info().map_err(io::Error::other)
}

/// Names in a directory, sorted; none if there is no directory.
pub(super) fn list(directory: &Path) -> Result<Vec<String>, PinsError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(failed("list", directory))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", directory))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// What the name of a pin ends in that is about to replace another.
pub(super) const REPLACEMENT: &str = "-new";

/// Pins a link or program in the place of whatever is pinned there: renaming drops the old one, which detaches it.
pub(super) fn pin_over(link: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    let mut name = pin.file_name().unwrap_or_default().to_owned();
    name.push(REPLACEMENT);
    let fresh = pin.with_file_name(name);
    // Left behind by a run that was killed between pinning and renaming.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    sys::pin(link, &fresh)?;
    fs::rename(&fresh, pin)
}

/// Pins a program in the place of whatever is pinned there, unless it is the one that is.
pub(super) fn keep_pinned(program: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    let is_same = |pinned: OwnedFd| {
        let ids = [pinned.as_fd(), program].map(|it| sys::program_info(it).ok().map(|info| info.id));
        ids[0].is_some() && ids[0] == ids[1]
    };
    if sys::open_pin(pin, Access::Full).is_ok_and(is_same) {
        return Ok(());
    }
    pin_over(program, pin)
}

fn create(directory: &Path) -> Result<(), PinsError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).map_err(failed("create directory", directory))
}

/// Removes a pin; `false` if there was none.
pub(super) fn remove(path: &Path) -> Result<bool, PinsError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> PinsError {
    move |source| PinsError::Path { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_elsewhere_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let error = Pins::new(&directory.path().join("sheave")).prepare().unwrap_err();
        assert!(error.to_string().contains("mount -t bpf bpf DIR"), "{error}");
        assert!(!directory.path().join("sheave").exists());
    }

    #[test]
    fn a_file_that_is_no_map_is_foreign() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(directory.path());
        let shape = Shape { kind: 1, key_size: 4, value_size: 4, max_entries: 1, flags: 0 };
        let definition = MapDefinition::alone("services4", shape);
        assert_eq!(pins.find(&definition), Found::Nothing);
        fs::create_dir_all(pins.maps()).unwrap();
        fs::write(pins.map(&definition), "").unwrap();
        assert!(matches!(pins.find(&definition), Found::Foreign(_)));
        assert!(!pins.admit(std::slice::from_ref(&definition)).unwrap());
        assert_eq!(pins.find(&definition), Found::Nothing);
    }

    #[test]
    fn only_maps_of_other_generations_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(directory.path());
        let shape = Shape { kind: 1, key_size: 4, value_size: 4, max_entries: 1, flags: 0 };
        let definition = MapDefinition::alone("services4", shape);
        assert!(pins.remove_other_maps(&[]).unwrap().is_empty(), "no directory is no error");
        fs::create_dir_all(pins.maps()).unwrap();
        fs::write(pins.map(&definition), "").unwrap();
        fs::write(pins.maps().join("services4-old"), "").unwrap();
        assert_eq!(pins.remove_other_maps(std::slice::from_ref(&definition)).unwrap(), ["services4-old"]);
        assert_eq!(list(&pins.maps()).unwrap(), [definition.pin_name()]);
    }
}
