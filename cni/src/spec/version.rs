//! The versions of the specification.
//!
//! Must not know how an answer differs between them.

use std::fmt;

/// A version that we speak. Older ones have other results (`ip4`, `ip6`), and no runtime of today asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.0: interfaces in results.
    V0_3_0,
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: addresses without `version`.
    V1_0_0,
    /// 1.1.0: GC and STATUS.
    V1_1_0,
}

impl Version {
    /// All, oldest first.
    pub const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// What is spoken where nobody says.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version with exactly this text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.text() == text)
    }

    /// All as texts, oldest first.
    pub fn texts() -> [&'static str; 5] {
        Self::ALL.map(Self::text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_texts_are_versions() {
        for version in Version::ALL {
            assert_eq!(Version::parse(version.text()), Some(version));
        }
        for text in ["", "1.0", "v1.0.0", "1.0.0 ", "0.2.0", "1.2.0"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
