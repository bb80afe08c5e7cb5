//! The cgroups in which everything of the cluster runs, in every hierarchy; ending what is in them.
//!
//! A process cannot leave its group by itself, nor can its children: so the groups know, also after a crash, what has
//! to be ended. Must not know: what runs in them.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sheave_tests::wait::wait_for;

use crate::layout::CGROUP;

const END_LIMIT: Duration = Duration::from_secs(30);

/// The controllers that the host's root gave on before; on a file system that a restart empties, as it does the groups.
const GIVEN_BEFORE: &str = "/run/sheave-cluster.controllers";

/// The hierarchies of this machine: version 1, version 2, or both beside each other.
#[derive(Debug)]
pub(crate) struct Cgroups {
    unified: PathBuf,
    controllers: Vec<PathBuf>,
}

impl Cgroups {
    /// # Errors
    /// No cgroup2 is mounted.
    pub(crate) fn locate() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let of = |kind: &str| {
            let words = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let paths = words.filter_map(|words| match words.as_slice() {
                [_, path, found, ..] if *found == kind => Some(PathBuf::from(path)),
                _ => None,
            });
            paths.collect::<Vec<_>>()
        };
        let unified = of("cgroup2").into_iter().next().context(
            "no cgroup2 is mounted: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified",
        )?;
        Ok(Self { unified, controllers: of("cgroup") })
    }

    /// The group of one place, as kubelet names it.
    pub(crate) fn name(place: &str) -> String {
        format!("/{CGROUP}/{place}")
    }

    /// The cgroup2 folder of one place: its programs and its pods.
    pub(crate) fn unified(&self, place: &str) -> PathBuf {
        self.unified.join(CGROUP).join(place)
    }

    /// Whether there are groups of a cluster.
    pub(crate) fn exist(&self) -> bool {
        self.hierarchies().any(|hierarchy| hierarchy.join(CGROUP).exists())
    }

    /// Makes the groups of a place, and one below for the programs that are no pods: where there is only version 2, a
    /// group with controllers for its children may have no processes of its own.
    ///
    /// # Errors
    /// Not root.
    pub(crate) fn make(&self, place: &str) -> Result<()> {
        for hierarchy in self.hierarchies() {
            let mut group = hierarchy.clone();
            note_root(&group)?;
            for part in [CGROUP, place, "programs"] {
                enable_controllers(&group);
                group.push(part);
                make_group(&group)?;
            }
        }
        Ok(())
    }

    /// The files through which a process joins the programs of a place.
    fn doors(&self, place: &str) -> Vec<PathBuf> {
        self.hierarchies()
            .map(|hierarchy| hierarchy.join(CGROUP).join(place).join("programs/cgroup.procs"))
            .collect()
    }

    /// Lets a program start in the group of a place.
    pub(crate) fn place(&self, place: &str, command: &mut Command) {
        let doors = self.doors(place);
        // SAFETY: between fork and exec only open, write and close are called; "0" stands for the writer itself.
        unsafe {
            command.pre_exec(move || doors.iter().try_for_each(|door| fs::write(door, "0")));
        }
    }

    /// Whether the process runs in the group of a place.
    pub(crate) fn holds(place: &str, pid: u32) -> bool {
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        own.lines().any(|line| line.ends_with(&format!(":{}/programs", Self::name(place))))
    }

    /// Ends every process in the groups and removes them. What is not there is no error.
    ///
    /// # Errors
    /// A process does not end, or a group cannot be removed.
    pub(crate) fn remove(&self) -> Result<()> {
        let all = self.unified.join(CGROUP);
        if all.exists() {
            fs::write(all.join("cgroup.kill"), "1").context("cannot end the processes of the cluster")?;
            wait_for("the processes of the cluster end", END_LIMIT, || {
                let events = fs::read_to_string(all.join("cgroup.events"))?;
                Ok(events.contains("populated 0").then_some(()))
            })?;
        }
        self.hierarchies().try_for_each(|hierarchy| remove_tree(&hierarchy.join(CGROUP)))?;
        restore_root(&self.unified)
    }

    fn hierarchies(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.unified).chain(&self.controllers)
    }
}

/// Version 1's cpuset starts without processors and memory, and takes no process so.
fn make_group(group: &Path) -> Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.with_context(|| format!("cannot make {}", group.display()))?,
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let above = group.parent().map(|above| above.join(file)).filter(|above| above.exists());
        if let Some(above) = above.filter(|_| !group.join("cgroup.events").exists()) {
            fs::write(group.join(file), fs::read(above)?)?;
        }
    }
    Ok(())
}

/// Version 2 only: whatever may be given to groups below. Beside version 1 that is nothing.
fn enable_controllers(group: &Path) {
    let names = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for name in names.split_whitespace() {
        // Some cannot be given on, which kubelet will say if it needs them.
        let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{name}"));
    }
}

/// Keeps what the host's root gave on before the first cluster, until the last is gone.
fn note_root(root: &Path) -> Result<()> {
    let given = root.join("cgroup.subtree_control");
    if given.exists() && !Path::new(GIVEN_BEFORE).exists() {
        fs::copy(given, GIVEN_BEFORE)?;
    }
    Ok(())
}

/// Takes back what [`enable_controllers`] switched on for everybody.
fn restore_root(root: &Path) -> Result<()> {
    let Ok(before) = fs::read_to_string(GIVEN_BEFORE) else { return Ok(()) };
    let file = root.join("cgroup.subtree_control");
    let now = fs::read_to_string(&file)?;
    for name in now.split_whitespace().filter(|name| before.split_whitespace().all(|it| it != *name)) {
        // Somebody else may use it meanwhile.
        let _ = fs::write(&file, format!("-{name}"));
    }
    fs::remove_file(GIVEN_BEFORE).context("cannot remove the note of the root's controllers")
}

fn remove_tree(group: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(group) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    // A group is busy for a moment after its last process has ended.
    wait_for(format!("{} can be removed", group.display()), END_LIMIT, || {
        Ok((fs::remove_dir(group).is_ok() || !group.exists()).then_some(()))
    })
}
