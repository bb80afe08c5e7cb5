//! The one setting of the host that the agent changes, and only with `--socket-lb=off`: without it the kernel drops a
//! packet that comes from the loopback device with a source address of the host's, as a request of the host to itself
//! does after its destination was translated (net/ipv4/fib_frontend.c, `__fib_validate_source`).
//!
//! Must not know why the packet is there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use proxy_kernel::write_setting;

/// `net.ipv4.conf.lo.accept_local`.
const SETTING: &str = "/proc/sys/net/ipv4/conf/lo/accept_local";
/// In the run folder: what the setting was before.
const RECORD: &str = "lo-accept-local";
const ACCEPT: &str = "1";

/// The setting and what it was.
#[derive(Clone, Debug)]
pub(super) struct AcceptLocal {
    setting: PathBuf,
    record: PathBuf,
}

impl AcceptLocal {
    /// With the record in this folder.
    pub(super) fn new(run_dir: &Path) -> Self {
        Self { setting: SETTING.into(), record: run_dir.join(RECORD) }
    }

    /// Switches it on, and remembers what it was. Returns whether that was needed.
    pub(super) fn switch_on(&self) -> io::Result<bool> {
        let before = fs::read_to_string(&self.setting)?;
        if before.trim() == ACCEPT {
            return Ok(false);
        }
        // Remembered first: whoever is killed in between restores what is there.
        fs::write(&self.record, before)?;
        write_setting(&self.setting, ACCEPT)?;
        Ok(true)
    }

    /// Puts back what it was before we changed it. Returns whether we had.
    pub(super) fn restore(&self) -> io::Result<bool> {
        let before = match fs::read_to_string(&self.record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result?,
        };
        write_setting(&self.setting, before.trim())?;
        fs::remove_file(&self.record)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(before: &str) -> (tempfile::TempDir, AcceptLocal) {
        let folder = tempfile::tempdir().unwrap();
        let (setting, record) = (folder.path().join("setting"), folder.path().join("record"));
        fs::write(&setting, before).unwrap();
        (folder, AcceptLocal { setting, record })
    }

    #[test]
    fn what_we_changed_is_put_back_once() {
        let (_folder, accept) = with("0\n");
        assert!(accept.switch_on().unwrap());
        assert_eq!(fs::read_to_string(&accept.setting).unwrap(), "1");
        assert!(!accept.switch_on().unwrap(), "a restart finds it changed");
        assert!(accept.restore().unwrap());
        assert_eq!(fs::read_to_string(&accept.setting).unwrap(), "0");
        assert!(!accept.restore().unwrap());
    }

    #[test]
    fn what_somebody_else_had_switched_on_stays() {
        let (_folder, accept) = with("1\n");
        assert!(!accept.switch_on().unwrap());
        assert!(!accept.restore().unwrap());
        assert_eq!(fs::read_to_string(&accept.setting).unwrap(), "1\n");
    }
}
