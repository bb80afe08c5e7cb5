//! Kernel settings (sysctl) of both ends.
//!
//! Only what differs is written, so that a read-only `/proc/sys` with the right settings is none. A setting below
//! `/proc/sys/net` is that of the namespace of the thread that opens it. What the kernel reads or changes only while nobody
//! changes any device is not here but goes by netlink (`message`): who opens such a setting while somebody does calls the
//! kernel again and again instead of waiting its turn (`restart_syscall`), thousands of times where many pods come at once.
//! So do all that netlink can set: each file of a new device is made when it is looked for, which takes longer than the rest.
//! Must not know the order of the wiring.

use std::{
    fs::{File, OpenOptions},
    io,
    net::IpAddr,
    os::unix::fs::FileExt as _,
};

use super::WireError;
use crate::record::Attachment;

/// No setting of ours is a longer number, bytes.
const LONGEST: usize = 32;

/// A kernel setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Path below `/proc/sys/net`.
    pub(super) key: String,
    /// Value.
    pub(super) value: String,
}

fn setting(key: String, value: &str) -> Setting {
    Setting { key, value: value.to_owned() }
}

fn has_ipv6(attachment: &Attachment) -> bool {
    attachment.addresses.iter().any(IpAddr::is_ipv6)
}

/// What the pod's namespace needs. A pod takes no routes from router advertisements, and its link-local address is usable
/// at once.
pub(super) fn of_pod(attachment: &Attachment) -> Vec<Setting> {
    let device = attachment.id.ifname.as_str();
    let mut settings = Vec::new();
    if has_ipv6(attachment) {
        for part in ["all", "default", "lo", device] {
            settings.push(setting(format!("ipv6/conf/{part}/disable_ipv6"), "0"));
        }
        for (name, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("keep_addr_on_down", "1")] {
            settings.push(setting(format!("ipv6/conf/{device}/{name}"), value));
        }
    }
    settings
}

/// What the host's end needs.
pub(super) fn of_host(attachment: &Attachment) -> Vec<Setting> {
    let device = attachment.host_device.as_str();
    let mut settings = Vec::new();
    if has_ipv6(attachment) {
        for (name, value) in
            [("disable_ipv6", "0"), ("forwarding", "1"), ("accept_ra", "0"), ("accept_dad", "0")]
        {
            settings.push(setting(format!("ipv6/conf/{device}/{name}"), value));
        }
    }
    settings
}

/// Makes settings in this thread's namespace; gives what they were before, those alone that were different. On failure
/// none is changed.
///
/// # Errors
/// One cannot be read or written.
pub(super) fn apply(settings: &[Setting]) -> Result<Vec<Setting>, WireError> {
    let mut before = Vec::new();
    for setting in settings {
        match change(setting) {
            Ok(old) => before.extend(old),
            Err(source) => {
                restore(&before);
                return Err(WireError::Setting {
                    key: setting.key.clone(),
                    value: setting.value.clone(),
                    source,
                });
            }
        }
    }
    Ok(before)
}

/// Sets back what [`apply`] gave, in reverse. A setting of a device that is gone is one that needs no more care.
pub(super) fn restore(before: &[Setting]) {
    for setting in before.iter().rev() {
        let _ = change(setting);
    }
}

fn change(setting: &Setting) -> io::Result<Option<Setting>> {
    let path = format!("/proc/sys/net/{}", setting.key);
    // One opening for both: looking the file up is what takes the time.
    let both = OpenOptions::new().read(true).write(true).open(&path);
    let (file, is_read_only) = match both {
        Ok(file) => (file, None),
        Err(error) => (File::open(&path)?, Some(error)),
    };
    let mut text = [0; LONGEST];
    let length = file.read_at(&mut text, 0)?;
    let old = String::from_utf8_lossy(text.get(..length).unwrap_or_default()).trim().to_owned();
    if old == setting.value {
        return Ok(None);
    }
    if let Some(error) = is_read_only {
        return Err(error);
    }
    // The kernel takes a value as a whole, from the file's beginning only.
    file.write_at(setting.value.as_bytes(), 0)?;
    Ok(Some(Setting { value: old, ..setting.clone() }))
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::wire::sample;

    #[test]
    fn a_pod_without_ipv6_needs_no_setting_of_it() {
        let attachment =
            Attachment { addresses: vec!["10.244.1.5".parse().unwrap()], ..sample::dual_stack() };
        let mut both = of_pod(&attachment).into_iter().chain(of_host(&attachment));
        assert!(both.all(|setting| setting.key.starts_with("ipv4/")));
        assert!(of_pod(&sample::dual_stack()).iter().any(|s| s.key == "ipv6/conf/lo/disable_ipv6"));
    }

    #[test]
    fn a_setting_that_does_not_exist_is_named() {
        let missing = setting("ipv4/conf/nosuch/forwarding".into(), "1");
        let error = apply(std::slice::from_ref(&missing)).unwrap_err().to_string();
        assert!(error.contains("net.ipv4.conf.nosuch.forwarding"), "{error}");
    }

    #[test]
    #[ignore = "needs root: makes a namespace"]
    fn where_one_setting_fails_the_others_are_set_back() {
        let shown = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let (key, missing) = ("ipv4/conf/lo/rp_filter", "ipv4/conf/nosuch/rp_filter");
            let now = || fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap().trim().to_owned();
            let before = now();
            let other = if before == "2" { "1" } else { "2" };
            assert_eq!(apply(&[setting(key.into(), other)]).unwrap(), [setting(key.into(), &before)]);
            assert_eq!(now(), other);
            apply(&[setting(key.into(), &before), setting(missing.into(), "1")]).unwrap_err();
            now() == other
        });
        assert!(shown.join().unwrap());
    }
}
