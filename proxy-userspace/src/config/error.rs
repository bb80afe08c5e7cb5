//! What can be wrong with a configuration, each with the remedy.
//!
//! Must not know how a value is used.

use std::path::PathBuf;

use super::{PortRange, layers::Origin};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("configuration file {path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The configuration file is neither YAML nor TOML, whichever its name says.
    #[error("configuration file {path} is not valid {format}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// `YAML` or `TOML`.
        format: &'static str,
        /// The parser's words, with the line.
        reason: String,
    },
    /// A key that no setting has.
    #[error("unknown setting `{key}` in {place}; did you mean `{nearest}`?")]
    Unknown {
        /// The key.
        key: String,
        /// The file's path or `the environment`.
        place: String,
        /// The nearest valid key.
        nearest: String,
    },
    /// A value in the file that is not a text, number or list of them.
    #[error("setting `{key}` in {path}: expected a text, a number or a list of texts")]
    Shape {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// A variable that is not valid UTF-8.
    #[error("environment variable {variable} is not valid UTF-8")]
    NotUtf8 {
        /// Its name.
        variable: String,
    },
    /// A value that the setting does not admit.
    #[error("setting `{name}` ({origin}) is `{value}`: {reason}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// Who set it.
        origin: Origin,
        /// What to.
        value: String,
        /// What it must be.
        reason: String,
    },
    /// A port for sources may be a NodePort.
    #[error(
        "settings `snat-ports` ({snat_origin}), {snat}, and `node-port-range` ({node_ports_origin}), {node_ports}, \
         overlap: replies to the node would be taken for requests to a NodePort; set `snat-ports` to other ports, \
         or `node-port-range` to the API server's --service-node-port-range"
    )]
    Overlap {
        /// Ports for sources.
        snat: PortRange,
        /// Who set them.
        snat_origin: Origin,
        /// Ports of Services.
        node_ports: PortRange,
        /// Who set them.
        node_ports_origin: Origin,
    },
    /// Two settings that exclude each other.
    #[error(
        "settings `{first}` ({first_origin}) and `{second}` ({second_origin}) exclude each other; set one of them"
    )]
    Conflict {
        /// One.
        first: &'static str,
        /// Who set it.
        first_origin: Origin,
        /// The other.
        second: &'static str,
        /// Who set it.
        second_origin: Origin,
    },
}
