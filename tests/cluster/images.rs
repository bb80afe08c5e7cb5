//! The container images that the cluster and the end-to-end tests use: no registry is asked, all are made here.
//!
//! Owns: what is in them, under which names, and that an archive still fits what it was made of. An archive is a tar
//! file of the format of `docker save`, which containerd imports. Must not know: nodes.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::layout::Folders;
use crate::place::output;

/// What Kubernetes' tests expect in their image besides agnhost, by the names of Debian's packages.
const PACKAGES: &str =
    "bash,bind9-dnsutils,curl,iperf,iproute2,iputils-ping,netcat-openbsd,procps,socat,util-linux,wget";
/// What nobody reads in a container.
const USELESS: [&str; 6] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/lib/apt/lists",
    "var/cache/apt",
];
/// The folder of the tests' main image in the release of Kubernetes.
const AGNHOST_SOURCES: &str = "k8s.io/kubernetes/test/images/agnhost";

/// One archive, one layer, several names.
struct Image {
    file: &'static str,
    tags: &'static [&'static str],
    entrypoint: &'static [&'static str],
    command: &'static [&'static str],
    /// Programs of the build that go to the root of the image.
    programs: &'static [(&'static str, &'static str)],
    /// Whether it has a Debian system.
    has_system: bool,
}

const IMAGES: [Image; 3] = [
    Image {
        file: "pause.tar",
        tags: &["registry.k8s.io/pause:3.10.2"],
        entrypoint: &["/pause"],
        command: &[],
        programs: &[("pause", "pause")],
        has_system: false,
    },
    Image {
        file: "agnhost.tar",
        tags: &[
            "registry.k8s.io/e2e-test-images/agnhost:2.66.1",
            "registry.k8s.io/e2e-test-images/agnhost:2.55",
            "registry.k8s.io/e2e-test-images/busybox:1.37.0-2",
            "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.1.1",
            "sheave.invalid/coredns:test",
        ],
        entrypoint: &["/agnhost"],
        command: &["pause"],
        programs: &[("agnhost", "agnhost"), ("coredns", "coredns")],
        has_system: true,
    },
    Image {
        file: "regression-issue-74839.tar",
        tags: &["registry.k8s.io/e2e-test-images/regression-issue-74839:1.5"],
        entrypoint: &["/regression-issue-74839"],
        command: &[],
        programs: &[("regression-issue-74839", "regression-issue-74839")],
        has_system: false,
    },
];

/// Makes the archives that are missing or no longer fit; all of them, for import.
///
/// # Errors
/// A program has not been built, or the packages cannot be fetched.
pub(crate) fn prepare(folders: &Folders) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folders.images())?;
    IMAGES.iter().map(|image| image.prepare(folders)).collect()
}

impl Image {
    fn prepare(&self, folders: &Folders) -> Result<PathBuf> {
        let archive = folders.images().join(self.file);
        let stamp_file = archive.with_extension("stamp");
        let stamp = self.stamp(folders)?;
        if !archive.exists() || fs::read_to_string(&stamp_file).ok().as_ref() != Some(&stamp) {
            eprintln!("making the image {}", self.file);
            self.write(folders, &archive).with_context(|| format!("cannot make the image {}", self.file))?;
            fs::write(stamp_file, stamp)?;
        }
        Ok(archive)
    }

    /// What decides whether an archive still fits.
    fn stamp(&self, folders: &Folders) -> Result<String> {
        let mut stamp = format!("{:?} {:?} {:?} {PACKAGES}\n", self.tags, self.entrypoint, self.command);
        for (program, _) in self.programs {
            let path = folders.program(program);
            let facts = path.metadata().with_context(|| format!("{} has not been built", path.display()))?;
            writeln!(stamp, "{program} {} {:?}", facts.len(), facts.modified()?)?;
        }
        Ok(stamp)
    }

    fn write(&self, folders: &Folders, archive: &Path) -> Result<()> {
        let work = tempfile::Builder::new().prefix("image-").tempdir_in(folders.images())?;
        let root = work.path().join("root");
        fs::create_dir(&root)?;
        if self.has_system {
            add_system(folders, &root)?;
            add_test_files(folders, &root)?;
        }
        for (program, name) in self.programs {
            fs::copy(folders.program(program), root.join(name))?;
        }
        pack(self, work.path(), archive)
    }
}

/// Layer, configuration and manifest, and these three in one archive.
fn pack(image: &Image, work: &Path, archive: &Path) -> Result<()> {
    let [layer, root] = ["layer.tar", "root"].map(|name| work.join(name));
    tar(&root, &layer, &["."])?;
    let sum = output(Command::new("sha256sum").arg(&layer))?;
    let sum = sum.split_whitespace().next().context("sha256sum printed nothing")?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": image.entrypoint,
            "Cmd": image.command,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] },
    });
    fs::write(work.join("config.json"), config.to_string())?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": image.tags, "Layers": ["layer.tar"] }]);
    fs::write(work.join("manifest.json"), manifest.to_string())?;
    tar(work, archive, &["config.json", "manifest.json", "layer.tar"])
}

fn tar(folder: &Path, archive: &Path, names: &[&str]) -> Result<()> {
    let mut command = Command::new("tar");
    command.arg("--create").arg("--file").arg(archive).arg("--directory").arg(folder);
    command.args(["--sort=name", "--numeric-owner"]);
    output(command.args(names)).map(drop)
}

/// As images call it.
fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// A minimal Debian from the archive that apt uses; kept, as making it takes a minute.
fn add_system(folders: &Folders, root: &Path) -> Result<()> {
    let system = folders.images().join("system.tar");
    let stamp = folders.images().join("system.stamp");
    if fs::read_to_string(&stamp).ok().as_deref() != Some(PACKAGES) {
        let work = tempfile::Builder::new().prefix("system-").tempdir_in(folders.images())?;
        let fresh = work.path().join("root");
        debootstrap(&fresh)?;
        for name in USELESS {
            let _ = fs::remove_dir_all(fresh.join(name));
        }
        tar(&fresh, &system, &["."])?;
        fs::write(stamp, PACKAGES)?;
    }
    output(Command::new("tar").arg("--extract").arg("--file").arg(system).arg("--directory").arg(root))
        .map(drop)
}

fn debootstrap(root: &Path) -> Result<()> {
    let os = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let own = os.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let own = own.context("/etc/os-release has no VERSION_CODENAME")?.trim_matches('"');
    let format = ["--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"];
    let targets = output(Command::new("apt-get").arg("indextargets").args(format))?;
    // Among others there may be backports and updates, of which no system can be made.
    let own = targets.lines().filter_map(|line| line.split_once(' ')).find(|(_, release)| *release == own);
    let (archive, release) = own.context("apt has no archive of this system's release")?;
    eprintln!("making a minimal {release} from {archive}: a minute, but only the first time");
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={PACKAGES}"), release]).arg(root).arg(archive);
    output(&mut command).map(drop)
}

/// What else is in upstream's image.
fn add_test_files(folders: &Folders, root: &Path) -> Result<()> {
    let sources = agnhost_sources(folders)?;
    for name in ["localhost.crt", "localhost.key"] {
        fs::copy(sources.join("porter").join(name), root.join(name))?;
    }
    fs::create_dir_all(root.join("uploads"))?;
    symlink("agnhost", root.join("agnhost-2"))?;
    fs::write(root.join("etc/resolv.conf"), "")?;
    Ok(())
}

/// Where Go keeps the sources of agnhost: the build says so.
fn agnhost_sources(folders: &Folders) -> Result<PathBuf> {
    let path = folders.program("agnhost-sources");
    let text = fs::read_to_string(&path).with_context(|| {
        format!("no {}: run `cargo xtask cluster`, which finds {AGNHOST_SOURCES}", path.display())
    })?;
    Ok(PathBuf::from(text.trim()))
}
