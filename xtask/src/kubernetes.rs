//! Builds what a cluster of nodes and Kubernetes' end-to-end tests need beyond the control plane.
//!
//! Owns: the builds of `tests/controlplane`'s other packages and of `tests/coredns` into `target/kubernetes/`, and the
//! decision that an earlier build still fits. Must not know: how the programs are started (`tests/cluster`).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::go::{self, Go};
use crate::process;

/// One program: what it is built from and what it is made of.
struct Program {
    /// Its file in `target/kubernetes`.
    file: &'static str,
    /// The folder of its module.
    module: &'static str,
    /// The package, in Go's notation.
    package: &'static str,
    /// Whether it is a test program.
    is_test: bool,
    /// Sources of ours, beside go.mod and go.sum.
    sources: &'static [&'static str],
    /// Names that it is linked to; it picks what to be from the one it runs under.
    links: &'static [&'static str],
}

const MODULE: &str = "tests/controlplane";
const AGNHOST: &str = "k8s.io/kubernetes/test/images/agnhost";

/// What nodes run, and what is in their images.
const CLUSTER: [Program; 5] = [
    Program {
        file: "node-programs",
        module: MODULE,
        package: "./cluster",
        is_test: false,
        sources: &["cluster/main.go", "cluster/cloud.go"],
        links: &["kubelet", "kube-scheduler", "kubectl", "cloud"],
    },
    Program {
        file: "pause",
        module: MODULE,
        package: "./pause",
        is_test: false,
        sources: &["pause/main.go"],
        links: &[],
    },
    Program { file: "agnhost", module: MODULE, package: AGNHOST, is_test: false, sources: &[], links: &[] },
    Program {
        file: "regression-issue-74839",
        module: MODULE,
        package: "k8s.io/kubernetes/test/images/regression-issue-74839",
        is_test: false,
        sources: &[],
        links: &[],
    },
    Program {
        file: "coredns",
        module: "tests/coredns",
        package: ".",
        is_test: false,
        sources: &["main.go"],
        links: &[],
    },
];

/// The end-to-end tests and what runs them.
const TESTS: [Program; 2] = [
    Program {
        file: "e2e.test",
        module: MODULE,
        package: "./e2e",
        is_test: true,
        sources: &["e2e/e2e_test.go"],
        links: &[],
    },
    Program {
        file: "ginkgo",
        module: MODULE,
        package: "github.com/onsi/ginkgo/v2/ginkgo",
        is_test: false,
        sources: &[],
        links: &[],
    },
];

/// Builds what a cluster needs, unless it is there.
///
/// # Errors
/// No Go that can compile it (the message says what to install), a failed build, or a file error.
pub(crate) fn build(root: &Path) -> Result<()> {
    let out = prepare(root)?;
    CLUSTER.iter().try_for_each(|program| program.build(root, &out))?;
    let go = go::find(&root.join(MODULE))?;
    let mut list = command(&go, &root.join(MODULE));
    let folder = process::output(list.args(["list", "-mod=readonly", "-f", "{{.Dir}}", AGNHOST]))?;
    fs::write(out.join("agnhost-sources"), folder).context("cannot write agnhost-sources")
}

/// Builds the end-to-end tests, unless they are there.
///
/// # Errors
/// As [`build`].
pub(crate) fn build_tests(root: &Path) -> Result<()> {
    let out = prepare(root)?;
    TESTS.iter().try_for_each(|program| program.build(root, &out))
}

fn prepare(root: &Path) -> Result<PathBuf> {
    let out = root.join("target/kubernetes");
    fs::create_dir_all(out.join("stamps")).with_context(|| format!("cannot create {}", out.display()))?;
    Ok(out)
}

fn command(go: &Go, sources: &Path) -> Command {
    let mut command = process::compiler_neutral(&go.program);
    command.current_dir(sources).env("CGO_ENABLED", "0").env_remove("GOFLAGS");
    command
}

impl Program {
    fn build(&self, root: &Path, out: &Path) -> Result<()> {
        let lock = File::create(out.join("stamps/lock"))?;
        lock.lock().context("cannot lock target/kubernetes")?;
        let sources = root.join(self.module);
        let go = go::find(&sources)?;
        let stamp = self.stamp(&sources, &go)?;
        let stamp_file = out.join("stamps").join(self.file);
        let target = out.join(self.file);
        if fs::read_to_string(&stamp_file).is_ok_and(|built| built == stamp)
            && process::is_executable(&target)
        {
            return Ok(());
        }
        eprintln!("building {}: up to minutes, but only the first time", self.file);
        // A build that is broken off must not pass for the one before it.
        let _ = fs::remove_file(&stamp_file);
        self.compile(root, &go, &target)?;
        self.links.iter().try_for_each(|link| relink(out, self.file, link))?;
        fs::write(stamp_file, stamp).context("cannot write a stamp")
    }

    fn compile(&self, root: &Path, go: &Go, target: &Path) -> Result<()> {
        let mut build = command(go, &root.join(self.module));
        build.args(if self.is_test { ["test", "-c"].as_slice() } else { &["build"] });
        build.args(["-trimpath", "-buildvcs=false", "-mod=readonly"]);
        build.arg("-ldflags").arg(self.link_flags(root)?).arg("-o").arg(target);
        process::run(build.arg(self.package))
    }

    /// No symbol tables, and the version that parts of Kubernetes tell each other.
    fn link_flags(&self, root: &Path) -> Result<String> {
        if self.module != MODULE {
            return Ok("-s -w".to_owned());
        }
        let version = go::mod_word(&root.join(MODULE), "k8s.io/kubernetes ")?;
        Ok(format!("-s -w -X k8s.io/component-base/version.gitVersion={version}"))
    }

    /// Everything the program is made of, as text: a build fits if its stamp is the same.
    fn stamp(&self, sources: &Path, go: &Go) -> Result<String> {
        let mut stamp = format!("{}\n{} {:?}\n", go.line, self.package, self.links);
        for name in ["go.mod", "go.sum"].iter().chain(self.sources) {
            stamp += &go::read(&sources.join(name))?;
        }
        Ok(stamp)
    }
}

fn relink(out: &Path, file: &str, link: &str) -> Result<()> {
    let name = out.join(link);
    if name.symlink_metadata().is_ok() {
        fs::remove_file(&name)?;
    }
    std::os::unix::fs::symlink(file, &name).with_context(|| format!("cannot link {}", name.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn every_source_of_ours_is_there_and_part_of_a_stamp() {
        let root = Workspace::locate().unwrap().root().to_owned();
        let go = Go { program: "go".into(), line: "go version".into() };
        for program in CLUSTER.iter().chain(&TESTS) {
            let sources = root.join(program.module);
            let stamp = program.stamp(&sources, &go).unwrap();
            let is_part = |name: &&str| stamp.contains(&go::read(&sources.join(name)).unwrap());
            assert!(program.sources.iter().all(is_part), "{}", program.file);
        }
    }

    #[test]
    fn only_what_is_of_kubernetes_carries_its_version() {
        let root = Workspace::locate().unwrap().root().to_owned();
        for program in CLUSTER.iter().chain(&TESTS) {
            let carries = program.link_flags(&root).unwrap().contains("gitVersion=v1.");
            assert_eq!(carries, program.module == MODULE, "{}", program.file);
        }
    }
}
