//! A call: the verb and the parameters, which come as environment variables.
//!
//! Must not know the network configuration.

use std::{fmt, path::PathBuf};

use thiserror::Error;

use super::{Code, Error};
use crate::record::AttachmentId;

/// Longest name of an interface, bytes (`IFNAMSIZ` without the zero).
const LONGEST_IFNAME: usize = 15;

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Attach a container.
    Add,
    /// Is it still as ADD left it?
    Check,
    /// Detach it.
    Del,
    /// Remove what belongs to no container any more.
    Gc,
    /// Could a container be attached?
    Status,
    /// Which versions are spoken?
    Version,
}

impl Verb {
    const ALL: [Self; 6] = [Self::Add, Self::Check, Self::Del, Self::Gc, Self::Status, Self::Version];

    /// As it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The variables that must not be empty.
    const fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Gc | Self::Status | Self::Version => &[],
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What is wrong with the variables.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// No verb of the specification.
    #[error("CNI_COMMAND: `{0}` is none of ADD, CHECK, DEL, GC, STATUS, VERSION")]
    Verb(String),
    /// Empty or absent.
    #[error("{verb} needs {names}: set what is missing or empty")]
    Missing {
        /// The verb.
        verb: Verb,
        /// All of them.
        names: String,
    },
    /// Not a name that the specification allows.
    #[error(
        "CNI_CONTAINERID: `{0}` must begin with a letter or digit and have only letters, digits, `_`, `.`, `-`"
    )]
    ContainerId(String),
    /// Not a name that the kernel allows.
    #[error("CNI_IFNAME: `{name}` {reason}")]
    Ifname {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        Self::new(Code::Environment, error.to_string())
    }
}

/// A call. Which parameters are filled depends on the verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub verb: Verb,
    /// `CNI_CONTAINERID` and `CNI_IFNAME`.
    pub id: AttachmentId,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// `CNI_ARGS`, not taken apart.
    pub args: String,
    /// `CNI_NETNS_OVERRIDE`: the namespace may be the plugin's own.
    pub any_netns: bool,
}

impl Call {
    /// Reads the variables; `None`: there is no `CNI_COMMAND`, so a person called.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, CallError> {
        let text = |name: &str| variable(name).unwrap_or_default();
        let command = text("CNI_COMMAND");
        if command.is_empty() {
            return Ok(None);
        }
        let verb = Verb::ALL.into_iter().find(|verb| verb.text() == command);
        let verb = verb.ok_or(CallError::Verb(command))?;
        let missing: Vec<_> = verb.needs().iter().copied().filter(|name| text(name).is_empty()).collect();
        if !missing.is_empty() {
            return Err(CallError::Missing { verb, names: missing.join(", ") });
        }
        let call = Self {
            verb,
            id: AttachmentId { container_id: text("CNI_CONTAINERID"), ifname: text("CNI_IFNAME") },
            netns: text("CNI_NETNS").into(),
            args: text("CNI_ARGS"),
            any_netns: matches!(text("CNI_NETNS_OVERRIDE").to_ascii_uppercase().as_str(), "1" | "TRUE"),
        };
        if !verb.needs().is_empty() {
            check_id(&call.id)?;
        }
        Ok(Some(call))
    }
}

fn check_id(id: &AttachmentId) -> Result<(), CallError> {
    if !is_identifier(&id.container_id) {
        return Err(CallError::ContainerId(id.container_id.clone()));
    }
    match ifname_fault(&id.ifname) {
        Some(reason) => Err(CallError::Ifname { name: id.ifname.clone(), reason }),
        None => Ok(()),
    }
}

/// Whether it is a name as the specification wants it of networks and containers.
pub(crate) fn is_identifier(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fits)
}

fn ifname_fault(name: &str) -> Option<&'static str> {
    let wrong = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
    match name {
        // The last two are folders of settings that are no interface's (`/proc/sys/net/ipv4/conf`).
        "." | ".." | "all" | "default" => Some("is no name of an interface"),
        _ if name.contains('%') => Some("must not have `%`, which the kernel replaces by a number"),
        _ if name.len() > LONGEST_IFNAME => Some("is longer than 15 bytes"),
        _ if name.contains(wrong) => Some("must not have `/`, `:` or white space"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Call>, CallError> {
        Call::read(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_a_command_a_person_called() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("CNI_COMMAND", "")]), Ok(None));
    }

    #[test]
    fn all_missing_variables_are_named_at_once_and_empty_is_missing() {
        let names = |variables: &[(&str, &str)]| match read(variables) {
            Err(CallError::Missing { names, .. }) => names,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            names(&[("CNI_COMMAND", "ADD"), ("CNI_NETNS", "")]),
            "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"
        );
        assert_eq!(names(&[("CNI_COMMAND", "DEL"), ("CNI_IFNAME", "eth0")]), "CNI_CONTAINERID");
    }

    #[test]
    fn a_del_needs_no_namespace_and_the_node_wide_verbs_need_nothing() {
        for verb in ["GC", "STATUS"] {
            let empty = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"].map(|name| (name, ""));
            let variables: Vec<_> = empty.into_iter().chain([("CNI_COMMAND", verb)]).collect();
            assert!(read(&variables).unwrap().is_some(), "{verb}");
        }
        let del =
            [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "")];
        assert_eq!(read(&del).unwrap().unwrap().netns, PathBuf::new());
    }

    #[test]
    fn a_version_call_is_not_looked_at() {
        let dummies = [("CNI_COMMAND", "VERSION"), ("CNI_NETNS", "dummy"), ("CNI_IFNAME", "a/b:c")];
        assert_eq!(read(&dummies).unwrap().unwrap().verb, Verb::Version);
    }

    #[test]
    fn wrong_names_are_refused() {
        let verdict = |id: &str, ifname: &str| {
            let netns = ("CNI_NETNS", "/run/netns/a");
            read(&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", id), ("CNI_IFNAME", ifname), netns])
        };
        assert!(verdict("0abc_.-Z", "eth0").is_ok());
        assert!(verdict("a", "123456789012345").is_ok());
        for id in ["-a", ".a", "a/b", "a b", "ä"] {
            assert!(matches!(verdict(id, "eth0"), Err(CallError::ContainerId(_))), "{id}");
        }
        let names =
            [".", "..", "a/b", "a:b", "a b", "a\tb", "1234567890123456", "all", "default", "eth0%d", "%"];
        for ifname in names {
            assert!(matches!(verdict("a", ifname), Err(CallError::Ifname { .. })), "{ifname}");
        }
        assert_eq!(read(&[("CNI_COMMAND", "add")]), Err(CallError::Verb("add".into())));
    }
}
