//! The CNI project's `cnitool` calls the plugin: a real libcni, with its cache, version choice and capabilities.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use sheave_tests::cni::{IFNAME, Kind, Pod, Stage, Subject, exchange};

use crate::add::addresses_of;
use crate::suite::{Candidate, unchanged};

/// The program and the folders that it is told.
struct Tool<'a> {
    stage: &'a Stage,
    folder: &'a Path,
}

#[test]
fn cnitool_adds_checks_collects_and_removes_pods() {
    let candidate = Candidate::new(Subject::sheave().unwrap()).unwrap();
    let (stage, _) = candidate.stage().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tool = Tool::new(&stage, folder.path(), &["0.4.0", "1.0.0", "1.1.0"]).unwrap();
    tool.life().unwrap();
    tool.collection().unwrap();
}

#[test]
fn cnitool_drives_the_reference_plugin() {
    let candidate = Candidate::new(Subject::reference(Kind::Ptp).unwrap()).unwrap();
    let (stage, _) = candidate.stage().unwrap();
    let folder = tempfile::tempdir().unwrap();
    Tool::new(&stage, folder.path(), &["0.4.0", "1.0.0"]).unwrap().life().unwrap();
}

impl<'a> Tool<'a> {
    fn new(stage: &'a Stage, folder: &'a Path, versions: &[&str]) -> Result<Self> {
        for name in ["net.d", "bin", "var-lib"] {
            fs::create_dir(folder.join(name))?;
        }
        let program = stage.subject.plugin.program();
        symlink(program, folder.join("bin").join(program.file_name().context("no program")?))?;
        let mut plugin = stage.config("");
        for key in ["name", "cniVersion"] {
            plugin.as_object_mut().context("no object")?.remove(key);
        }
        plugin["capabilities"] = json!({ "portMappings": true, "mac": true });
        let list = json!({
            "cniVersion": "0.4.0", "cniVersions": versions, "name": "pods", "loadOnlyInlinedPlugins": true,
            "plugins": [plugin],
        });
        fs::write(folder.join("net.d/05-pods.conflist"), list.to_string())?;
        Ok(Self { stage, folder })
    }

    fn run(&self, verb: &str, pod: &Pod) -> Result<Output> {
        let target = std::env::current_exe()?.ancestors().nth(3).map(Path::to_path_buf);
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target");
        let program = [Some(workspace), target].into_iter().flatten().map(|it| it.join("cnitool/cnitool"));
        let program = program.into_iter().find(|it| it.exists());
        let mut command = Command::new(program.context("no cnitool: run `cargo xtask test cni`")?);
        command.args([verb, "pods"]).arg(&pod.path).env_clear();
        let own = self.folder.join("bin").display().to_string();
        command.env("CNI_PATH", format!("{own}:{}", self.stage.subject.folder.display()));
        command.env("NETCONFPATH", self.folder.join("net.d"));
        command.env("CAP_ARGS", json!({ "portMappings": [], "mac": "0e:00:00:00:00:2c" }).to_string());
        self.stage.node.place(&mut command)?;
        hide_cache(&mut command, self.folder.join("var-lib"));
        Ok(command.output()?)
    }

    fn must(&self, verb: &str, pod: &Pod) -> Result<Option<Value>> {
        let output = self.run(verb, pod)?;
        ensure!(output.status.success(), "cnitool {verb}: {output:?}");
        if output.stdout.is_empty() { Ok(None) } else { Ok(serde_json::from_slice(&output.stdout)?) }
    }

    /// From ADD to a second DEL.
    fn life(&self) -> Result<()> {
        let before = self.stage.census()?;
        let pod = self.stage.pod()?;
        let result = self.must("add", &pod)?.context("add says nothing")?;
        exchange(&self.stage.node, &pod.netns, addresses_of(&result)?[0].parse()?)?;
        self.must("check", &pod)?;
        self.must("del", &pod)?;
        ensure!(!pod.has(IFNAME)?, "{IFNAME} is still there");
        self.must("del", &pod).context("the second time")?;
        unchanged(self.stage, &before)
    }

    /// cnitool names no valid attachments: libcni then removes all that it remembers, and the plugin gets no list.
    fn collection(&self) -> Result<()> {
        let before = self.stage.census()?;
        let pods = [self.stage.pod()?, self.stage.pod()?];
        self.must("status", &pods[0])?;
        for pod in &pods {
            let result = self.must("add", pod)?.context("add says nothing")?;
            ensure!(result["cniVersion"] == "1.1.0", "not the newest version: {result}");
        }
        self.must("gc", &pods[0])?;
        unchanged(self.stage, &before)?;
        self.must("del", &pods[1]).map(drop)
    }
}

/// libcni keeps results below /var/lib/cni: the program sees a folder of the test there.
fn hide_cache(command: &mut Command, folder: PathBuf) {
    let nothing: Option<&str> = None;
    // SAFETY: between fork and exec only unshare(2) and mount(2) are called, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
            mount(Some(&folder), "/var/lib", nothing, MsFlags::MS_BIND, nothing).map_err(io::Error::from)
        });
    }
}
