//! An error as the runtime reads it.
//!
//! Must not know what went wrong: modules turn their own errors into this one.

use serde_json::{Value, json};

use super::Version;

/// The specification's codes (up to 99, and 999), and ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// `cniVersion` is none of ours.
    IncompatibleVersion = 1,
    /// A key asks for what we do not have.
    Unsupported = 2,
    /// A variable is missing or wrong.
    Environment = 4,
    /// Something cannot be read or written.
    Io = 5,
    /// Not JSON.
    Decode = 6,
    /// The configuration is wrong.
    Config = 7,
    /// The network namespace is missing or the wrong one.
    Netns = 8,
    /// It will work later without anybody doing anything to the pod.
    TryLater = 11,
    /// STATUS: no pod can be added.
    NotReady = 50,
    /// STATUS: no pod can be added, and those there are suffer.
    Broken = 51,
    /// The kernel refused a part of the wiring.
    Wiring = 100,
    /// No address is left.
    Exhausted = 101,
    /// The interface is there already.
    Attached = 102,
    /// CHECK found that something differs.
    Different = 103,
    /// The delegated IPAM plugin failed and did not say how.
    Delegate = 104,
    /// An error of ours.
    Internal = 999,
}

/// An error for the runtime, which shows it to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// [`Code`], or what a delegated plugin said.
    pub code: u32,
    /// What was attempted on what, and what to do.
    pub msg: String,
    /// More; may be empty.
    pub details: String,
}

impl Error {
    /// Without details.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code: code as u32, msg: msg.into(), details: String::new() }
    }

    /// With details.
    pub fn detailed(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { details: details.into(), ..Self::new(code, msg) }
    }

    /// The same with one more sentence in the details.
    pub fn adding(mut self, sentence: &str) -> Self {
        if !self.details.is_empty() {
            self.details.push_str("; ");
        }
        self.details.push_str(sentence);
        self
    }

    /// Both in one sentence.
    pub fn sentence(&self) -> String {
        if self.details.is_empty() { self.msg.clone() } else { format!("{} ({})", self.msg, self.details) }
    }

    /// As the runtime reads it.
    pub fn document(&self, version: Version) -> Value {
        json!({
            "cniVersion": version.text(),
            "code": self.code,
            "msg": self.msg,
            "details": self.details,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_the_version_that_was_asked_for() {
        let error = Error::new(Code::TryLater, "a").adding("b").adding("c");
        assert_eq!(
            error.document(Version::V0_4_0),
            json!({"cniVersion": "0.4.0", "code": 11, "msg": "a", "details": "b; c"})
        );
        assert_eq!(error.sentence(), "a (b; c)");
    }
}
