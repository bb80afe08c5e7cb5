//! Names of devices with `*` for any text.
//!
//! Must not know which devices there are.

use std::{fmt, str::FromStr};

/// Longest name of a device without its end (`IFNAMSIZ`, linux/if.h).
const LONGEST: usize = 15;

/// A name, or a pattern of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing.
    #[error("a pattern is empty")]
    Empty,
    /// No device can have such a name.
    #[error(
        "no device can be called `{0}`: expected a name of at most 15 letters without `/`, `:` and blanks, or one with `*`"
    )]
    NoName(String),
}

impl FromStr for Pattern {
    type Err = PatternError;

    /// What the kernel admits (net/core/dev.c, `dev_valid_name`), and `*`.
    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let is_impossible = |letter: char| letter == '/' || letter == ':' || letter.is_whitespace();
        let letters = text.bytes().filter(|byte| *byte != b'*').count();
        if letters > LONGEST || text.contains(is_impossible) {
            return Err(PatternError::NoName(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pattern {
    /// Whether a device's name fits.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        // Each part at its first occurrence leaves the most for those that follow.
        let between = parts
            .into_iter()
            .try_fold(rest, |rest, part| rest.find(part).and_then(|start| rest.get(start + part.len()..)));
        between.is_some_and(|rest| rest.ends_with(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text_also_for_none() {
        let cases = [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth0", "eth", false),
            ("eth*", "eth", true),
            ("eth*", "eth12", true),
            ("eth*", "veth1", false),
            ("*eth", "veth", true),
            ("*eth", "veth1", false),
            ("*", "anything", true),
            ("e*0", "eth0", true),
            ("e*0", "e0", true),
            ("e*0", "eth1", false),
            ("a*a", "a", false),
            ("a*b*c", "axbxbxc", true),
            ("a*b*c", "acb", false),
            ("**", "x", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(pattern.parse::<Pattern>().unwrap().matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_no_device_can_be_called_is_refused() {
        for text in ["", "a b", "eth0:1", "a/b", "sixteen-letters-"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
        for text in ["eth0", "*", "fifteen-letters", "lxc*", "sixteen-le*tters"] {
            assert!(text.parse::<Pattern>().is_ok(), "{text}");
        }
    }
}
