//! Writing a setting below `/proc/sys/net` from a container.
//!
//! Must not know which settings there are.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The file systems as the first process sees them: with the host's process ids, those of the host.
const FIRST: &str = "/proc/1/root";

/// Writes `value` to `path`, which is absolute. Container runtimes mount `/proc/sys` read-only unless the container is
/// privileged; then the host's own mount serves, for which `CAP_SYS_PTRACE` and the host's process ids are needed. A
/// setting below `/proc/sys/net` is that of the calling thread's network namespace by either way (net/sysctl_net.c).
///
/// # Errors
/// Those of the first way, if the second does not work either.
pub fn write_setting(path: &Path, value: &str) -> io::Result<()> {
    write_by(path, &seen_by_first(path), value)
}

fn write_by(path: &Path, other: &Path, value: &str) -> io::Result<()> {
    match fs::write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            fs::write(other, value).map_err(|_| error)
        }
        result => result,
    }
}

fn seen_by_first(path: &Path) -> PathBuf {
    Path::new(FIRST).join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_way_is_taken_only_where_the_file_system_is_read_only() {
        let folder = tempfile::tempdir().unwrap();
        let (other, missing) = (folder.path().join("other"), folder.path().join("no/setting"));
        assert_eq!(write_by(&missing, &other, "1").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!other.exists(), "a setting that is not there is none elsewhere");
        write_by(&folder.path().join("setting"), &other, "1").unwrap();
        assert!(!other.exists());
    }

    #[test]
    fn the_host_s_setting_has_the_same_path_below_the_first_process_s_root() {
        let seen = seen_by_first(Path::new("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(seen, Path::new(FIRST).join("proc/sys/net/ipv4/ip_forward"));
    }
}
