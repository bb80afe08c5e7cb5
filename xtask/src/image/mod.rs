//! `cargo xtask image`: the container image, as an OCI archive, and its bill of materials.
//!
//! No daemon and no other tool: two static programs in one layer. The same commit and toolchain give the same bytes.
//! Must not know what the programs do.

mod archive;
mod bill;
mod programs;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

pub(crate) use archive::hex;

use crate::ebpf;
use crate::workspace::Workspace;

/// Below the repository: archives and bills.
const FOLDER: &str = "target/image";
/// Names a compiled eBPF object; the agent embeds that one then.
const OBJECT: &str = "SHEAVE_EBPF_OBJECT";
/// What the chart and the manifest name.
const REPOSITORY: &str = "localhost/sheave";

/// What to build.
#[derive(Debug, Clone, Args)]
pub(crate) struct Settings {
    /// Processor to build for
    #[arg(long, value_enum, default_value_t = Arch::host())]
    arch: Arch,
    /// Cargo's profile: release, or dev for an image that is quickly made
    #[arg(long, default_value = "release")]
    profile: String,
}

impl Settings {
    /// For this machine, with what is quick to build.
    pub(crate) fn quick() -> Self {
        Self { arch: Arch::host(), profile: "dev".to_owned() }
    }
}

/// A processor, by the name that images have for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 }
    }

    fn oci(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    fn rust(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    version: String,
    /// The commit, with `-dirty` if files differ from it; empty outside of a git repository.
    revision: String,
    /// Seconds since 1970: when the commit was made, or `SOURCE_DATE_EPOCH`.
    time: u64,
}

/// Builds the archive and the bill of materials, and says where they are.
///
/// # Errors
/// A program does not build or is not static, or a file cannot be written.
pub(crate) fn build(workspace: &Workspace, settings: &Settings) -> Result<PathBuf> {
    let object = match std::env::var_os(OBJECT) {
        Some(object) => PathBuf::from(object),
        None => ebpf::build(workspace)?,
    };
    let programs = programs::build(workspace, settings.arch, &settings.profile)?;
    let origin = Origin::of(workspace)?;
    // A quick build must not be taken for a release.
    let kind = if settings.profile == "release" { String::new() } else { format!("-{}", settings.profile) };
    let name = format!("sheave-{}-{}{kind}", origin.version, settings.arch.oci());
    let reference = format!("{REPOSITORY}:{}", origin.version);
    let archive = archive::image(&archive::Contents {
        programs: &programs.files,
        arch: settings.arch.oci(),
        reference: &reference,
        origin: &origin,
    })?;
    let path = write(workspace, &format!("{name}.tar"), &archive)?;
    let bill = bill::of(workspace, &programs, &object, &origin)?;
    let bill = write(workspace, &format!("{name}.cdx.json"), &bill)?;
    eprintln!("image {reference} ({}, {}): {}", settings.arch.oci(), programs.target, path.display());
    eprintln!("bill of materials: {}", bill.display());
    Ok(path)
}

fn write(workspace: &Workspace, name: &str, contents: &[u8]) -> Result<PathBuf> {
    let folder = workspace.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (path, unfinished) = (folder.join(name), folder.join(format!(".{name}.{}", std::process::id())));
    fs::write(&unfinished, contents).with_context(|| format!("cannot write {}", unfinished.display()))?;
    fs::rename(&unfinished, &path).with_context(|| format!("cannot replace {}", path.display()))?;
    Ok(path)
}

impl Origin {
    fn of(workspace: &Workspace) -> Result<Self> {
        let metadata = workspace.metadata()?;
        let agent = metadata.workspace_packages().into_iter().find(|it| it.name == programs::PACKAGES[0]);
        let version = agent.context("the agent is no member of the workspace")?.version.to_string();
        let git = |arguments: &[&str]| {
            let mut git = std::process::Command::new("git");
            let done = git.current_dir(workspace.root()).args(arguments).output().ok()?;
            done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
        };
        let mut revision = git(&["rev-parse", "HEAD"]).unwrap_or_default();
        if git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty()) {
            revision.push_str("-dirty");
        }
        let committed = || git(&["log", "-1", "--format=%ct"]);
        let time = std::env::var("SOURCE_DATE_EPOCH").ok().or_else(committed).unwrap_or_default();
        Ok(Self { version, revision, time: time.parse().unwrap_or_default() })
    }

    /// As RFC 3339 writes it, in UTC.
    fn written_time(&self) -> String {
        let (days, second) = (self.time / 86_400, self.time % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute) = (second / 3600, second / 60 % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
    }
}

/// Year, month and day of the days since 1970, counted through years of March to February, so that the leap day is last.
fn civil(days: u64) -> (u64, u64, u64) {
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, of_year - (153 * from_march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_a_date_also_on_a_leap_day() {
        let at = |time| Origin { version: String::new(), revision: String::new(), time }.written_time();
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(at(1_795_446_988), "2026-11-23T15:16:28Z");
    }

    #[test]
    fn an_archive_is_called_after_version_and_processor() {
        assert_eq!(Arch::Arm64.oci(), "arm64");
        assert_eq!(Arch::Amd64.rust(), "x86_64");
        let origin = Origin::of(&Workspace::locate().unwrap()).unwrap();
        assert_eq!(origin.version, env!("CARGO_PKG_VERSION"));
    }
}
