//! Which free address comes next: one never given before, else the one that has been free for longest.
//!
//! Must not know who holds an address, nor how a file is written. What is kept here decides about the order only: without
//! it addresses come back earlier, never twice.

use std::{collections::HashSet, fmt, net::IpAddr, str::FromStr};

use super::ranges::{Family, Ranges};

/// How many freed addresses of a family are remembered: all of a /24. In larger ranges what was freed before them comes
/// again when the round reaches it.
pub(super) const FREED: usize = 256;

const TITLE: &str = "sheave addresses 1";
const FREED_TITLE: &str = "freed";
const END: &str = "end";

/// Where the round stands, and what was given back lately.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pool {
    /// Given last by the round, at most one of each family.
    last: Vec<IpAddr>,
    /// Freed ones, the oldest first, each once; an address a line. Every ADD and DEL reads and writes it: as text that
    /// costs a tenth of what parsing and printing each address does.
    freed: String,
}

impl Pool {
    /// A pool whose round goes on after these addresses.
    pub(super) fn after(last: &[IpAddr]) -> Self {
        Self { last: last.to_vec(), freed: String::new() }
    }

    /// Takes the next address of `ranges` that is not in `used`; `None`: there is none.
    pub(super) fn take(&mut self, family: Family, ranges: &Ranges, used: &HashSet<IpAddr>) -> Option<IpAddr> {
        let last = self.last.iter().copied().find(|last| Family::of(*last) == family);
        let freed: HashSet<&str> = self.freed.lines().filter(|line| of_family(line, family)).collect();
        let free =
            |address: &IpAddr| !used.contains(address) && !freed.contains(address.to_string().as_str());
        let Some(fresh) = ranges.after(last).find(free) else { return self.take_oldest(ranges, used) };
        self.last.retain(|last| Family::of(*last) != family);
        self.last.push(fresh);
        Some(fresh)
    }

    fn take_oldest(&mut self, ranges: &Ranges, used: &HashSet<IpAddr>) -> Option<IpAddr> {
        let mut freed = self.freed.lines().filter_map(|line| line.parse().ok());
        let oldest = freed.find(|address| ranges.contains(*address) && !used.contains(address))?;
        self.take_fixed(oldest);
        Some(oldest)
    }

    /// Takes exactly this address.
    pub(super) fn take_fixed(&mut self, address: IpAddr) {
        let address = address.to_string();
        let others: Vec<&str> = self.freed.lines().filter(|line| *line != address).collect();
        self.freed = text(&others);
    }

    /// Gives an address back.
    pub(super) fn free(&mut self, address: IpAddr) {
        let family = Family::of(address);
        let address = address.to_string();
        let mut freed: Vec<&str> = self.freed.lines().filter(|line| *line != address).collect();
        let mut alike = freed.iter().enumerate().filter(|(_, line)| of_family(line, family));
        if let (Some((oldest, _)), Some(_)) = (alike.next(), alike.nth(FREED - 2)) {
            freed.remove(oldest);
        }
        freed.push(&address);
        self.freed = text(&freed);
    }
}

fn of_family(line: &str, family: Family) -> bool {
    line.contains(':') == (family == Family::V6)
}

fn text(lines: &[&str]) -> String {
    let mut text = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{TITLE}")?;
        self.last.iter().try_for_each(|last| writeln!(f, "last {last}"))?;
        writeln!(f, "{FREED_TITLE}\n{}{END}", self.freed)
    }
}

impl FromStr for Pool {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rest =
            text.strip_prefix(TITLE).and_then(|rest| rest.strip_prefix('\n')).ok_or("another title")?;
        let mut last = Vec::new();
        loop {
            let (line, after) = rest.split_once('\n').ok_or("not whole")?;
            rest = after;
            if line == FREED_TITLE {
                break;
            }
            let address = line.strip_prefix("last ").ok_or("an unknown word")?;
            last.push(address.parse().map_err(|_| "not an address")?);
        }
        let freed = rest.strip_suffix('\n').and_then(|rest| rest.strip_suffix(END)).ok_or("not whole")?;
        Ok(Self { last, freed: freed.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Ranges {
        Ranges::new(Family::V4, &[text.parse().unwrap()])
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_freed_address_waits_until_every_other_one_was_given() {
        let (mut pool, ranges) = (Pool::default(), ranges("10.0.0.0/29"));
        let take = |pool: &mut Pool, used: &[u8]| {
            let used = used.iter().map(|last| ip(*last)).collect();
            pool.take(Family::V4, &ranges, &used).unwrap()
        };
        for (expected, used) in [(2, &[][..]), (3, &[]), (4, &[]), (5, &[4]), (6, &[4, 5]), (2, &[4, 5, 6])] {
            assert_eq!(take(&mut pool, used), ip(expected));
            if expected < 4 {
                pool.free(ip(expected));
            }
        }
        assert_eq!(take(&mut pool, &[4, 5, 6]), ip(3), "2 was freed again, after 3");
    }

    #[test]
    fn what_is_freed_twice_counts_from_the_second_time() {
        let (mut pool, ranges, none) = (Pool::default(), ranges("10.0.0.0/31"), HashSet::new());
        [ip(0), ip(1), ip(0)].into_iter().for_each(|address| pool.free(address));
        assert_eq!(pool.take(Family::V4, &ranges, &none), Some(ip(1)));
        assert_eq!(pool.take(Family::V4, &ranges, &HashSet::from([ip(0), ip(1)])), None);
    }

    #[test]
    fn no_more_is_remembered_than_the_limit_of_each_family() {
        let mut pool = Pool::default();
        for n in 0..=u32::try_from(FREED).unwrap() {
            pool.free(IpAddr::V4(n.into()));
            pool.free(IpAddr::V6(u128::from(n).into()));
        }
        assert_eq!(pool.freed.lines().count(), 2 * FREED);
        assert!(!pool.freed.starts_with("0.0.0.0\n"));
        let next =
            pool.take(Family::V4, &Ranges::new(Family::V4, &["0.0.0.0/0".parse().unwrap()]), &HashSet::new());
        assert_eq!(next, Some(IpAddr::V4(257.into())), "the round passes over what was freed lately");
    }

    #[test]
    fn its_text_is_read_back_and_a_damaged_one_is_refused() {
        let mut pool = Pool::after(&[ip(7), "fd00::7".parse().unwrap()]);
        pool.free(ip(3));
        let text = pool.to_string();
        assert_eq!(text.parse(), Ok(pool));
        let whole = text.len();
        assert!((0..whole).all(|end| text[..end].parse::<Pool>().is_err()), "a torn file is not believed");
        assert!(text.replace("last", "lost").parse::<Pool>().is_err());
        assert!(text.replace("10.0.0.7", "10.0.0").parse::<Pool>().is_err());
        assert_eq!(Pool::default().to_string().parse(), Ok(Pool::default()));
    }
}
