//! From flags, environment and file to one text per setting, with its origin. Flags win over the environment, that
//! over the file, that over the defaults.
//!
//! Must not know what a text means.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    ConfigError,
    setting::{SETTINGS, Setting, nearest, variable},
};

/// Who set a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody.
    Default,
    /// The configuration file.
    File,
    /// An environment variable.
    Environment,
    /// A flag of the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

/// What a setting was set to, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The setting.
    pub setting: &'static Setting,
    /// Its text; `None` is an absent default.
    pub value: Option<String>,
    /// Who set it.
    pub origin: Origin,
}

/// Everything the user said.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Layers {
    /// Flags by name of the setting.
    pub flags: BTreeMap<String, String>,
    /// The process's environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
}

/// Texts by name of the setting.
type Texts = BTreeMap<&'static str, String>;

impl Layers {
    /// One value for each of [`SETTINGS`], in their order.
    ///
    /// # Errors
    /// The file cannot be read or parsed; the file or the environment has a setting that does not exist.
    pub fn resolve(&self) -> Result<Vec<Resolved>, ConfigError> {
        let environment = from_environment(&self.environment)?;
        let file = match &self.file {
            Some(path) => from_file(path)?,
            None => Texts::new(),
        };
        Ok(SETTINGS.iter().map(|setting| self.resolve_one(setting, &environment, &file)).collect())
    }

    fn resolve_one(&self, setting: &'static Setting, environment: &Texts, file: &Texts) -> Resolved {
        let layers = [
            (self.flags.get(setting.name), Origin::Flag),
            (environment.get(setting.name), Origin::Environment),
            (file.get(setting.name), Origin::File),
        ];
        let set = layers.into_iter().find_map(|(value, origin)| Some((value?.clone(), origin)));
        match set {
            Some((value, origin)) => Resolved { setting, value: Some(value), origin },
            None => Resolved { setting, value: setting.default.text(), origin: Origin::Default },
        }
    }
}

/// The settings among the variables. Other programs' variables are left alone, but every `SHEAVE_...` must be known.
fn from_environment(environment: &BTreeMap<OsString, OsString>) -> Result<Texts, ConfigError> {
    for name in environment.keys().filter_map(|name| name.to_str()) {
        check_variable(name)?;
    }
    let mut texts = Texts::new();
    for setting in SETTINGS {
        let own = variable(setting.name);
        let names = std::iter::once(own.as_str()).chain(setting.also_env.iter().copied());
        let found = names.into_iter().find_map(|name| Some((name, environment.get(&OsString::from(name))?)));
        if let Some((name, value)) = found {
            let value = value.to_str().ok_or_else(|| ConfigError::NotUtf8 { variable: name.to_owned() })?;
            texts.insert(setting.name, value.to_owned());
        }
    }
    Ok(texts)
}

fn check_variable(name: &str) -> Result<(), ConfigError> {
    if !name.starts_with("SHEAVE_") || name == "SHEAVE_CONFIG" || is_service_link(name) {
        return Ok(());
    }
    let known: Vec<String> = SETTINGS.iter().map(|setting| variable(setting.name)).collect();
    if known.iter().any(|known| known == name) {
        return Ok(());
    }
    let nearest = nearest(name, known.iter().map(String::as_str)).unwrap_or_default().to_owned();
    Err(ConfigError::Unknown { key: name.to_owned(), place: "the environment".to_owned(), nearest })
}

/// Whether the kubelet made this variable for a Service called `sheave...`: it gives each container
/// `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT[_PORTNAME]`, `NAME_PORT` and `NAME_PORT_80_TCP[_...]`.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.split_once("_SERVICE_PORT_").is_some_and(|(_, port_name)| !port_name.is_empty())
        || name.rsplit_once("_PORT_").is_some_and(|(_, port)| is_link_port(port))
}

/// Whether this is `80_TCP`, `80_TCP_PROTO`, `80_TCP_PORT` or `80_TCP_ADDR`.
fn is_link_port(text: &str) -> bool {
    let mut parts = text.split('_');
    let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
    let protocol = matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"));
    number
        && protocol
        && matches!((parts.next(), parts.next()), (None | Some("PROTO" | "PORT" | "ADDR"), None))
}

fn from_file(path: &Path) -> Result<Texts, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
    let mut texts = Texts::new();
    for (key, value) in parse_file(path, &text)? {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name == key) else {
            let nearest =
                nearest(&key, SETTINGS.iter().map(|setting| setting.name)).unwrap_or_default().to_owned();
            return Err(ConfigError::Unknown { key, place: path.display().to_string(), nearest });
        };
        let text = text_of(&value).ok_or_else(|| ConfigError::Shape { key, path: path.to_owned() })?;
        texts.insert(setting.name, text);
    }
    Ok(texts)
}

/// A file whose name ends in `.toml` is TOML, any other is YAML (of which JSON is a part).
fn parse_file(path: &Path, text: &str) -> Result<BTreeMap<String, Value>, ConfigError> {
    let (format, parsed) = if path.extension().is_some_and(|extension| extension == "toml") {
        ("TOML", toml::from_str(text).map_err(|error| error.to_string()))
    } else if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(BTreeMap::new());
    } else {
        ("YAML", serde_saphyr::from_str(text).map_err(|error| error.to_string()))
    };
    parsed.map_err(|reason| ConfigError::Syntax { path: path.to_owned(), format, reason })
}

/// A scalar as it would be written after a flag; a list as its parts with commas between.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Array(parts) => {
            parts.iter().map(scalar).collect::<Option<Vec<_>>>().map(|parts| parts.join(","))
        }
        Value::Null | Value::Object(_) => None,
    }
}

fn scalar(value: &Value) -> Option<String> {
    if value.is_array() { None } else { text_of(value) }
}
