//! The network configuration, which comes on standard input.
//!
//! Read in two steps: what every verb needs, and what only ADD needs, so that a DEL does not fail for a key that it has no
//! use for. Must not know what is done with it.

mod args;
mod field;
mod options;
mod runtime;

use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use crate::{
    facts::DEFAULT_RUN_DIR,
    record::AttachmentId,
    spec::{Code, Error, Verb, Version, is_identifier},
};
use field::Field;
pub use options::Options;

/// Keys of the list that GC gets; libcni sends both, the second for plugins of the first days of 1.1.0.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// What this plugin is called where nobody renames it.
const OURSELVES: &str = "sheave-cni";

/// What is wrong with the configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Not JSON.
    #[error("the network configuration on standard input is not JSON: {0}")]
    NotJson(String),
    /// A key is missing.
    #[error("the network configuration has no `{0}`: add it")]
    Missing(&'static str),
    /// A value is not what it should be.
    #[error("network configuration, {field}: {value} is not {expected}")]
    Wrong {
        /// Where.
        field: String,
        /// What is there.
        value: String,
        /// What should be.
        expected: &'static str,
    },
    /// A key asks for what there is not.
    #[error("network configuration, {field}: {value} is not supported: {remedy}")]
    Unsupported {
        /// Where.
        field: String,
        /// What is there.
        value: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Two values do not go together.
    #[error("network configuration, {field}: {reason}")]
    Conflict {
        /// Where.
        field: String,
        /// Why not.
        reason: String,
    },
    /// Not one of our versions.
    #[error("cniVersion {asked} of the network configuration is not spoken by sheave-cni")]
    Version {
        /// What the configuration says.
        asked: String,
    },
    /// The verb came into the specification later.
    #[error("{verb} needs a network configuration of cniVersion {since} or newer, this one is {asked}")]
    VerbVersion {
        /// The verb.
        verb: Verb,
        /// Since when there is one.
        since: Version,
        /// What the configuration says.
        asked: Version,
    },
    /// `CNI_ARGS` cannot be taken apart.
    #[error("CNI_ARGS: `{0}` is not of the form KEY=VALUE")]
    Argument(String),
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        let code = match &error {
            ConfigError::NotJson(_) => Code::Decode,
            ConfigError::Missing(_) | ConfigError::Wrong { .. } | ConfigError::Conflict { .. } => {
                Code::Config
            }
            ConfigError::Unsupported { .. } => Code::Unsupported,
            ConfigError::Version { .. } | ConfigError::VerbVersion { .. } => Code::IncompatibleVersion,
            ConfigError::Argument(_) => Code::Environment,
        };
        let details = match &error {
            ConfigError::Version { asked } => {
                format!("config is {asked:?}, plugin supports {:?}", Version::texts())
            }
            _ => String::new(),
        };
        Self::detailed(code, error.to_string(), details)
    }
}

/// The JSON of a configuration, before anybody looked at it.
#[derive(Clone, Debug)]
pub struct Document(Value);

impl Document {
    /// Takes the bytes apart.
    ///
    /// # Errors
    /// They are not a JSON object.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| ConfigError::NotJson(error.to_string()))?;
        if value.is_object() { Ok(Self(value)) } else { Err(ConfigError::NotJson("no object".into())) }
    }

    /// The version to answer in, as far as it can be known.
    pub fn version(&self) -> Option<Version> {
        Version::parse(self.root().get("cniVersion").ok()??.text().ok()?)
    }

    fn root(&self) -> Field<'_> {
        Field::root(&self.0)
    }
}

/// What every verb needs of a configuration.
#[derive(Clone, Debug)]
pub struct Network {
    /// `cniVersion`.
    pub version: Version,
    /// `name`.
    pub name: String,
    /// `runDir`.
    pub run_dir: PathBuf,
    /// `ipam.type`: who gives addresses; `None`: we.
    pub ipam: Option<String>,
    /// What is wrong and was passed over, as the verb only removes: a sentence each.
    pub overlooked: Vec<String>,
    document: Document,
}

impl Network {
    /// Reads what the verb needs.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(document: Document, verb: Verb) -> Result<Self, ConfigError> {
        let root = document.root();
        let name = name(&root)?;
        let version = version(&root)?;
        let since = match verb {
            Verb::Gc | Verb::Status => Version::V1_1_0,
            Verb::Check => Version::V0_4_0,
            _ => Version::V0_3_0,
        };
        if version < since {
            return Err(ConfigError::VerbVersion { verb, since, asked: version });
        }
        let mut overlooked = Vec::new();
        let run_dir = lenient(verb, &mut overlooked, run_dir(&root), || DEFAULT_RUN_DIR.into())?;
        let ipam = lenient(verb, &mut overlooked, ipam(&root), || None)?;
        Ok(Self { version, name, run_dir, ipam, overlooked, document })
    }

    /// `prevResult`: what the plugins before us, or for CHECK and DEL we ourselves, answered.
    ///
    /// # Errors
    /// It is not an object.
    pub fn previous(&self) -> Result<Option<&Value>, ConfigError> {
        let Some(field) = self.root().get("prevResult")? else { return Ok(None) };
        field.object()?;
        Ok(Some(field.value()))
    }

    /// The attachments that GC must leave alone. `None`: the caller does not know them, which is not the same as none.
    ///
    /// # Errors
    /// There is a list and it cannot be understood.
    pub fn valid_attachments(&self) -> Result<Option<Vec<AttachmentId>>, ConfigError> {
        let root = self.root();
        let present = |key| root.present(key).transpose();
        let Some(field) = VALID_ATTACHMENTS.into_iter().find_map(present).transpose()? else {
            return Ok(None);
        };
        // `null` is how a Go program writes an empty list.
        if field.value().is_null() {
            return Ok(Some(Vec::new()));
        }
        let id = |item: Field<'_>| {
            let container_id = item.need("containerID")?.text()?.to_owned();
            Ok(AttachmentId { container_id, ifname: item.need("ifname")?.text()?.to_owned() })
        };
        field.items()?.into_iter().map(id).collect::<Result<_, _>>().map(Some)
    }

    fn root(&self) -> Field<'_> {
        self.document.root()
    }
}

/// What only removes must not fail because the configuration was spoilt meanwhile: it goes on with what is usual.
fn lenient<T>(
    verb: Verb,
    overlooked: &mut Vec<String>,
    value: Result<T, ConfigError>,
    usual: impl FnOnce() -> T,
) -> Result<T, ConfigError> {
    value.or_else(|error| match verb {
        Verb::Del | Verb::Gc => {
            overlooked.push(format!("{error}; passed over"));
            Ok(usual())
        }
        _ => Err(error),
    })
}

fn name(root: &Field<'_>) -> Result<String, ConfigError> {
    let field = root.get("name")?.ok_or(ConfigError::Missing("name"))?;
    match field.text()? {
        "" => Err(ConfigError::Missing("name")),
        name if is_identifier(name) => Ok(name.to_owned()),
        _ => Err(field.wrong("a name of letters, digits, `_`, `.`, `-` that begins with a letter or digit")),
    }
}

fn version(root: &Field<'_>) -> Result<Version, ConfigError> {
    let field = root.get("cniVersion")?;
    // The specification: what has no version is of the first one.
    let asked = field.as_ref().map_or(Ok("0.1.0"), Field::text)?;
    Version::parse(asked).ok_or_else(|| ConfigError::Version { asked: asked.to_owned() })
}

fn run_dir(root: &Field<'_>) -> Result<PathBuf, ConfigError> {
    let Some(field) = root.get("runDir")? else { return Ok(DEFAULT_RUN_DIR.into()) };
    let path = Path::new(field.text()?);
    if path.is_absolute() { Ok(path.to_owned()) } else { Err(field.wrong("an absolute path")) }
}

/// `type`: what this plugin is installed as.
fn own_type<'a>(root: &Field<'a>) -> Result<Option<&'a str>, ConfigError> {
    root.get("type")?.map(|field| field.text()).transpose()
}

fn ipam(root: &Field<'_>) -> Result<Option<String>, ConfigError> {
    let Some(field) = root.get("ipam")?.map(|ipam| ipam.get("type")).transpose()?.flatten() else {
        return Ok(None);
    };
    match field.text()? {
        "" => Ok(None),
        // It would call itself, and that one itself, without end.
        name if name == OURSELVES || own_type(root)? == Some(name) => {
            Err(field.wrong("another plugin than this"))
        }
        name if name.contains('/') => Err(field.wrong("the name of a plugin: it is looked for in CNI_PATH")),
        name => Ok(Some(name.to_owned())),
    }
}

#[cfg(test)]
mod tests;
