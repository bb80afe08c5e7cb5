//! The plugin on the node: its binary, and the network configuration that makes a runtime call it.
//!
//! Both are replaced by rename, so that a runtime never sees half of one and a running plugin keeps its file. Must not
//! know when the node is ready for pods.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

/// The plugin's name: its file, and `type` in a network configuration.
pub const PLUGIN: &str = "sheave-cni";
/// What the configuration is called unless said otherwise. Runtimes take the first file by name.
pub const DEFAULT_CONF_NAME: &str = "05-sheave.conflist";

/// For runtimes that do not know `cniVersions`.
const OLDEST_COMMON: &str = "1.0.0";
/// For those that do, which take the highest they know: STATUS and GC come with 1.1.0.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// What a runtime may hand over.
const CAPABILITIES: [&str; 9] = [
    "portMappings",
    "bandwidth",
    "mac",
    "ips",
    "ipRanges",
    "dns",
    "aliases",
    "cgroupPath",
    "io.kubernetes.cri.pod-annotations",
];
/// The endings of what runtimes read as a network configuration.
const CONF_ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
/// The ending of unfinished files: runtimes must not read them.
const UNFINISHED: &str = "temp";

/// Why something could not be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file or folder.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Runtimes would not read it, or it lies in another folder.
    #[error("`{0}` is no name for the configuration: runtimes read a file name that ends in .conflist")]
    ConfName(String),
    /// Somebody else's file.
    #[error(
        "{path} does not name {PLUGIN}, so it is not removed: remove it by hand, or name another --conf-name"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// What came of installing a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is another one than before.
    Written,
    /// It was so already.
    Unchanged,
}

/// Where the plugin goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the runtime looks for plugins.
    pub bin_dir: PathBuf,
    /// Where it looks for network configurations.
    pub conf_dir: PathBuf,
    /// File name of the configuration.
    pub conf_name: String,
}

impl Place {
    /// Path of the plugin.
    pub fn plugin(&self) -> PathBuf {
        self.bin_dir.join(PLUGIN)
    }

    /// Path of the configuration.
    pub fn conf(&self) -> PathBuf {
        self.conf_dir.join(&self.conf_name)
    }

    /// Whether the names make sense.
    ///
    /// # Errors
    /// [`InstallError::ConfName`].
    pub fn check(&self) -> Result<(), InstallError> {
        let name = Path::new(&self.conf_name);
        let is_plain = name.file_name() == Some(name.as_os_str()) && !self.conf_name.starts_with('.');
        if is_plain && name.extension().is_some_and(|ending| ending == "conflist") {
            return Ok(());
        }
        Err(InstallError::ConfName(self.conf_name.clone()))
    }

    /// Puts the program `from` into place. A plugin that runs just now goes on with the file it began with.
    ///
    /// # Errors
    /// See [`InstallError`]; what was there before is there still.
    pub fn install_plugin(&self, from: &Path) -> Result<Outcome, InstallError> {
        let mut program = Vec::new();
        let mut file = File::open(from).map_err(failed("open", from))?;
        file.read_to_end(&mut program).map_err(failed("read", from))?;
        replace(&self.plugin(), &program, 0o755)
    }

    /// Writes the configuration for an agent with this run folder.
    ///
    /// # Errors
    /// See [`InstallError`]; what was there before is there still.
    pub fn install_conf(&self, run_dir: &Path) -> Result<Outcome, InstallError> {
        let text = format!("{:#}\n", conf(run_dir));
        replace(&self.conf(), text.as_bytes(), 0o644)
    }

    /// The configurations that a runtime would take before ours.
    pub fn before_ours(&self) -> Vec<PathBuf> {
        let ours = self.conf();
        let mut earlier: Vec<PathBuf> = files(&self.conf_dir)
            .filter(|path| {
                path < &ours && path.extension().is_some_and(|it| CONF_ENDINGS.iter().any(|end| it == *end))
            })
            .collect();
        earlier.sort();
        earlier
    }

    /// Removes the configuration, then the plugin, and what an installation that was interrupted left. Returns what was
    /// removed; nothing there is no error.
    ///
    /// # Errors
    /// A file cannot be removed, or the configuration is somebody else's.
    pub fn uninstall(&self) -> Result<Vec<PathBuf>, InstallError> {
        self.check_ours()?;
        let leftover = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let stems = [self.conf_name.as_str(), PLUGIN];
            name.ends_with(UNFINISHED) && stems.iter().any(|stem| name.starts_with(&format!(".{stem}.")))
        };
        let unfinished = files(&self.conf_dir).chain(files(&self.bin_dir)).filter(leftover);
        let mut removed = Vec::new();
        for path in [self.conf(), self.plugin()].into_iter().chain(unfinished) {
            match fs::remove_file(&path) {
                Ok(()) => removed.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("remove", &path)(error)),
            }
        }
        Ok(removed)
    }

    /// A file that cannot be read as JSON is taken for ours: it has our name.
    fn check_ours(&self) -> Result<(), InstallError> {
        let path = self.conf();
        let Ok(text) = fs::read(&path) else { return Ok(()) };
        let Ok(value) = serde_json::from_slice::<Value>(&text) else { return Ok(()) };
        let plugins = value.get("plugins").and_then(Value::as_array).into_iter().flatten();
        let is_ours = plugins.into_iter().any(|plugin| plugin.get("type").is_some_and(|it| it == PLUGIN));
        if is_ours { Ok(()) } else { Err(InstallError::Foreign { path }) }
    }
}

/// The network configuration. Nobody else's files are appended to it (`loadOnlyInlinedPlugins`).
fn conf(run_dir: &Path) -> Value {
    let capabilities: serde_json::Map<String, Value> =
        CAPABILITIES.iter().map(|name| ((*name).to_owned(), Value::Bool(true))).collect();
    json!({
        "cniVersion": OLDEST_COMMON,
        "cniVersions": VERSIONS,
        "name": "sheave",
        "loadOnlyInlinedPlugins": true,
        "plugins": [{ "type": PLUGIN, "runDir": run_dir, "capabilities": capabilities }],
    })
}

/// Replaces a file in one step, unless it has these contents and this mode. Both the file and its name are on disk then.
fn replace(path: &Path, contents: &[u8], mode: u32) -> Result<Outcome, InstallError> {
    if is_already(path, contents, mode) {
        return Ok(Outcome::Unchanged);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(failed("make", folder))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // In the same folder: a runtime's watcher takes no notice of what is moved in from elsewhere.
    let fresh = folder.join(format!(".{name}.{}.{UNFINISHED}", std::process::id()));
    let written = write(&fresh, contents, mode).and_then(|()| fs::rename(&fresh, path));
    written.map_err(failed("write", path)).inspect_err(|_| {
        let _ = fs::remove_file(&fresh);
    })?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("write", folder))?;
    Ok(Outcome::Written)
}

fn is_already(path: &Path, contents: &[u8], mode: u32) -> bool {
    let has_mode = |path| fs::metadata(path).is_ok_and(|it| it.permissions().mode() & 0o7777 == mode);
    fs::symlink_metadata(path).is_ok_and(|it| it.is_file())
        && has_mode(path)
        && fs::read(path).is_ok_and(|found| found == contents)
}

fn write(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    // A process of the same number, in another container, may have left it.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(contents)?;
    // Whatever the umask says.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    struct Node {
        dir: tempfile::TempDir,
        place: Place,
        program: PathBuf,
    }

    fn node() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            bin_dir: dir.path().join("opt/cni/bin"),
            conf_dir: dir.path().join("etc/cni/net.d"),
            conf_name: DEFAULT_CONF_NAME.to_owned(),
        };
        let program = dir.path().join("built");
        fs::write(&program, "one").unwrap();
        Node { dir, place, program }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            files(folder).map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_plugin_that_runs_keeps_its_file_when_another_is_installed() {
        let Node { place, program, dir: _dir } = node();
        assert_eq!(place.install_plugin(&program).unwrap(), Outcome::Written);
        let mut running = File::open(place.plugin()).unwrap();
        assert_eq!(fs::metadata(place.plugin()).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(place.install_plugin(&program).unwrap(), Outcome::Unchanged);
        fs::write(&program, "two").unwrap();
        assert_eq!(place.install_plugin(&program).unwrap(), Outcome::Written);
        let mut text = String::new();
        running.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), fs::read(place.plugin()).unwrap()), ("one", b"two".to_vec()));
        assert_eq!(names(&place.bin_dir), [PLUGIN]);
    }

    #[test]
    fn the_configuration_names_the_run_folder_and_is_written_only_when_it_differs() {
        let Node { place, dir: _dir, .. } = node();
        assert_eq!(place.install_conf(Path::new("/run/sheave")).unwrap(), Outcome::Written);
        let before = fs::metadata(place.conf()).unwrap().ino();
        assert_eq!(place.install_conf(Path::new("/run/sheave")).unwrap(), Outcome::Unchanged);
        assert_eq!(fs::metadata(place.conf()).unwrap().ino(), before);
        assert_eq!(place.install_conf(Path::new("/run/other")).unwrap(), Outcome::Written);
        let value: Value = serde_json::from_slice(&fs::read(place.conf()).unwrap()).unwrap();
        assert_eq!(value["plugins"][0]["type"], PLUGIN);
        assert_eq!(value["plugins"][0]["runDir"], "/run/other");
        assert_eq!(value["plugins"][0]["capabilities"]["portMappings"], true);
        assert_eq!(value["cniVersion"], "1.0.0");
        assert!(value["cniVersions"].as_array().unwrap().contains(&json!("1.1.0")));
        assert_eq!(names(&place.conf_dir), [DEFAULT_CONF_NAME]);
    }

    #[test]
    fn a_configuration_that_a_runtime_would_not_read_is_refused() {
        let Node { place, dir: _dir, .. } = node();
        place.check().unwrap();
        for name in ["sheave", "sheave.conf", "a/b.conflist", "../b.conflist", ".conflist", ""] {
            let place = Place { conf_name: name.to_owned(), ..place.clone() };
            assert!(matches!(place.check(), Err(InstallError::ConfName(_))), "{name}");
        }
    }

    #[test]
    fn configurations_that_come_before_ours_are_named() {
        let Node { place, dir: _dir, .. } = node();
        assert!(place.before_ours().is_empty());
        place.install_conf(Path::new("/run/sheave")).unwrap();
        for name in ["00-first.conf", "01-note.txt", "04-x.conflist", "10-later.conflist", ".04.temp"] {
            fs::write(place.conf_dir.join(name), "{}").unwrap();
        }
        let found: Vec<_> = place.before_ours().iter().map(|it| it.file_name().unwrap().to_owned()).collect();
        assert_eq!(found, ["00-first.conf", "04-x.conflist"]);
    }

    #[test]
    fn uninstalled_nothing_is_left_and_a_second_time_is_fine() {
        let Node { place, program, dir: _dir } = node();
        place.install_plugin(&program).unwrap();
        place.install_conf(Path::new("/run/sheave")).unwrap();
        fs::write(place.bin_dir.join(".sheave-cni.12.temp"), "half").unwrap();
        fs::write(place.bin_dir.join("loopback"), "another's").unwrap();
        assert_eq!(place.uninstall().unwrap().len(), 3);
        assert_eq!(names(&place.bin_dir), ["loopback"]);
        assert!(names(&place.conf_dir).is_empty());
        assert!(place.uninstall().unwrap().is_empty());
    }

    #[test]
    fn a_configuration_of_somebody_else_is_not_removed() {
        let Node { place, dir, program } = node();
        place.install_plugin(&program).unwrap();
        fs::create_dir_all(&place.conf_dir).unwrap();
        fs::write(place.conf(), r#"{"name": "x", "plugins": [{"type": "ptp"}]}"#).unwrap();
        assert!(matches!(place.uninstall(), Err(InstallError::Foreign { .. })));
        assert!(place.conf().exists() && place.plugin().exists());
        fs::write(place.conf(), "{").unwrap();
        assert_eq!(place.uninstall().unwrap().len(), 2);
        drop(dir);
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let Node { place, program, dir: _dir } = node();
        place.install_plugin(&program).unwrap();
        assert!(place.install_plugin(Path::new("/nonexistent")).is_err());
        assert_eq!(fs::read(place.plugin()).unwrap(), b"one");
        // Its folder is a file.
        let place = Place { conf_dir: program.clone(), ..place };
        assert!(matches!(place.install_conf(Path::new("/run/sheave")), Err(InstallError::Io { .. })));
    }
}
