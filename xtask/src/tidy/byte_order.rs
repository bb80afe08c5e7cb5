//! Byte order changes in one file only: everything else carries the network-order newtypes of that file.

use super::Complaint;
use super::sources::Source;
use super::syntax;

/// The one file.
const HOME: &str = "proxy-common/src/addr.rs";

/// Calls that turn bytes around. The `_ne_` forms do not.
const CALLS: [&str; 13] = [
    "to_be",
    "to_le",
    "from_be",
    "from_le",
    "to_be_bytes",
    "to_le_bytes",
    "from_be_bytes",
    "from_le_bytes",
    "swap_bytes",
    "htons",
    "htonl",
    "ntohs",
    "ntohl",
];

/// Packets for tests: what checks the packet path must not read and write with its means.
const SIMULATION: &str = "proxy-packet/src/simulation";

/// Complains about every such call elsewhere; xtask and tests build and read foreign formats and may.
pub(crate) fn check(source: &Source) -> Vec<Complaint> {
    let path = &source.path;
    if path == HOME || path.starts_with("xtask/") || path.starts_with(SIMULATION) {
        return Vec::new();
    }
    let tokens = syntax::tokens(&source.text);
    let calls = tokens.iter().filter(|token| token.is_ident && CALLS.contains(&token.text.as_str()));
    calls
        .filter(|token| !source.is_test_line(token.line))
        .map(|token| {
            let text = format!("`{}`: byte order changes only in {HOME}", token.text);
            Complaint::new(&source.path, token.line, text)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWAP: &str = "fn f(a: u16) -> u16 {\n    a.to_be()\n}\n";

    #[test]
    fn a_swap_outside_its_home_is_named_with_its_line() {
        let complaints = check(&Source::sample("proxy-ebpf/src/parse.rs", SWAP));
        assert_eq!(complaints.iter().map(|it| it.line).collect::<Vec<_>>(), [2]);
        let by_path = "fn f(a: [u8; 2]) -> u16 { u16::from_be_bytes(a) }";
        assert_eq!(check(&Source::sample("proxy-userspace/src/a.rs", by_path)).len(), 1);
    }

    #[test]
    fn the_home_and_tests_may_swap() {
        assert!(check(&Source::sample(HOME, SWAP)).is_empty());
        assert!(check(&Source::sample("proxy-packet/src/simulation/frame.rs", SWAP)).is_empty());
        assert!(!check(&Source::sample("proxy-packet/src/wire.rs", SWAP)).is_empty());
        let tested = format!("#[cfg(test)]\nmod tests {{\n{SWAP}}}");
        assert!(check(&Source::sample("proxy-core/src/a.rs", &tested)).is_empty());
    }

    #[test]
    fn native_order_bytes_are_no_swap() {
        assert!(
            check(&Source::sample("cni/src/a.rs", "fn f(a: u16) -> [u8; 2] { a.to_ne_bytes() }")).is_empty()
        );
    }
}
