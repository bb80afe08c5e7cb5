//! The kernels: which package brings each, fetched with apt and taken apart. Nothing is installed on this machine.
//!
//! Must not know: what runs in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::packages;
use crate::process;

/// The kernels that the class `kernels` boots, the oldest first: the oldest that is supported, which is Debian 12's
/// own, and the long-term one that Debian 12 offers besides (and Debian 13 has).
pub(super) const KERNELS: &[Release] = &[
    Release { version: "6.1", package: "linux-image-cloud-amd64" },
    Release { version: "6.12", package: "linux-image-6.12-cloud-amd64" },
];

/// A series of kernels.
#[derive(Debug)]
pub(super) struct Release {
    /// What each version of it begins with.
    pub(super) version: &'static str,
    /// Debian's package that depends on the newest one.
    package: &'static str,
}

/// A kernel that was taken out of its package.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The bootable image.
    pub(super) image: PathBuf,
    /// The folder `lib/modules/<version>` in full.
    pub(super) modules: PathBuf,
    /// As `uname -r` says it.
    pub(super) name: String,
}

impl Release {
    /// The newest kernel of this series that apt knows; fetched into `folder` if it is not there yet, in place of older
    /// ones.
    ///
    /// # Errors
    /// apt does not offer one: names what does.
    pub(super) fn fetch(&self, folder: &Path) -> Result<Kernel> {
        ensure!(
            packages::available(self.package),
            "apt offers no package {}: kernel {} comes from Debian 12 (bookworm and bookworm-security)",
            self.package,
            self.version
        );
        let answer =
            process::output(Command::new("apt-cache").args(["depends", "--important", self.package]))?;
        let package = image_package(&answer, self.version).with_context(|| {
            format!(
                "{} brings no kernel {} here: that comes from Debian 12 (bookworm and bookworm-security)",
                self.package, self.version
            )
        })?;
        let place = folder.join(&package);
        if !place.exists() {
            unpack(&package, folder, &place)?;
        }
        Kernel::at(&place, package.trim_start_matches("linux-image-"))
    }
}

impl Kernel {
    fn at(place: &Path, name: &str) -> Result<Self> {
        let modules = place.join("lib/modules").join(name);
        let image = place.join("boot").join(format!("vmlinuz-{name}"));
        if !image.exists() || !modules.exists() {
            bail!("{} is not a whole kernel: remove it and try again", place.display());
        }
        Ok(Self { image, modules, name: name.to_owned() })
    }
}

/// The package of the kernel itself in the answer of `apt-cache depends`. The point after the version keeps 6.1 from
/// being found in 6.12.
fn image_package(answer: &str, version: &str) -> Option<String> {
    let prefix = format!("linux-image-{version}.");
    let dependencies = answer.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    dependencies.map(str::trim).find(|name| name.starts_with(&prefix)).map(str::to_owned)
}

/// Downloads a package and takes it apart; `place` appears when it is whole.
fn unpack(package: &str, folder: &Path, place: &Path) -> Result<()> {
    let part = folder.join(format!("{package}.part"));
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    process::run(Command::new("apt-get").args(["download", "-q", package]).current_dir(&part))?;
    let archive = fs::read_dir(&part)?.next().context("apt-get download left nothing")??.path();
    process::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&part))?;
    fs::remove_file(&archive)?;
    let version = package.trim_start_matches("linux-image-");
    // Debian does this when it installs a kernel.
    process::run(Command::new("depmod").arg("-b").arg(&part).arg(version))?;
    fs::rename(&part, place).with_context(|| format!("cannot make {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_of_the_kernel_is_found_and_one_of_another_series_is_not() {
        let old = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-47-cloud-amd64\n";
        assert_eq!(image_package(old, "6.1").as_deref(), Some("linux-image-6.1.0-47-cloud-amd64"));
        let new = "linux-image-cloud-amd64\n  Depends: linux-image-6.12.90+deb13-cloud-amd64\n";
        assert_eq!(image_package(new, "6.1"), None);
        assert_eq!(image_package(new, "6.12").as_deref(), Some("linux-image-6.12.90+deb13-cloud-amd64"));
    }
}
