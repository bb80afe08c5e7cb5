//! Ranges of ports, and which must not overlap.
//!
//! Must not know where a range is used.

use std::{fmt, str::FromStr};

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// Never 0.
    pub first: u16,
    /// Not below the first.
    pub last: u16,
}

impl PortRange {
    /// How many ports.
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Whether a port is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether the port is in it.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let parse = || {
            let (first, last) = text.split_once('-')?;
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first > 0 && first <= last).then_some(Self { first, last })
        };
        parse().ok_or("expected FIRST-LAST, two ports from 1 to 65535")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_ports_in_order() {
        let range: PortRange = "1024-29999".parse().unwrap();
        assert_eq!((range.first, range.last, range.count()), (1_024, 29_999, 28_976));
        assert_eq!(range.to_string(), "1024-29999");
        for text in ["", "1024", "0-5", "5-4", "1-65536", "a-b", "1024:2048"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_overlap_when_they_share_a_port() {
        let overlap = |a: &str, b: &str| {
            let (a, b): (PortRange, PortRange) = (a.parse().unwrap(), b.parse().unwrap());
            (a.overlaps(b), b.overlaps(a))
        };
        assert_eq!(overlap("1-5", "5-9"), (true, true));
        assert_eq!(overlap("1-9", "3-4"), (true, true));
        assert_eq!(overlap("1-4", "5-9"), (false, false));
    }
}
