//! Rules about plain text: the first line, the length of a file, words and places that must not be committed.

use std::env;

use super::Complaint;
use super::sources::Source;
use crate::workspace::Workspace;

/// Lines a file may have without its tests: what a reader holds in mind. The packet path is read more often
/// and by more careful people.
const FILE_LIMIT: usize = 500;
const PACKET_PATH_FILE_LIMIT: usize = 250;

/// Marks of unfinished work, taken apart so that this file does not contain them.
const UNFINISHED: [&str; 7] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
];

/// Folders of somebody's machine.
const PLACES: [&str; 3] = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];

/// Every file says first what it owns and what it must not know.
pub(crate) fn opens_with_module_doc(source: &Source) -> Vec<Complaint> {
    if source.text.starts_with("//!") {
        return Vec::new();
    }
    vec![Complaint::new(
        &source.path,
        1,
        "the file must open with `//!`: what it owns and what it must not know",
    )]
}

/// No file is longer than its limit, its tests not counted.
pub(crate) fn file_length(source: &Source) -> Vec<Complaint> {
    let limit = if source.path.starts_with("proxy-ebpf/") { PACKET_PATH_FILE_LIMIT } else { FILE_LIMIT };
    let lines = if source.is_test { source.text.lines().count() } else { source.production_lines().count() };
    if lines <= limit {
        return Vec::new();
    }
    vec![Complaint::new(&source.path, 0, format!("{lines} lines without tests; the limit is {limit}"))]
}

/// What of this machine must not appear anywhere: the repository's own folder and the home folder.
pub(crate) fn places(workspace: &Workspace) -> Vec<String> {
    let here = Some(workspace.root().to_string_lossy().into_owned());
    let home = env::home_dir().map(|home| home.to_string_lossy().into_owned());
    let own = [here, home].into_iter().flatten().filter(|path| path.matches('/').count() > 1);
    own.chain(PLACES.map(str::to_owned)).collect()
}

/// Complains about unfinished work and about absolute paths of somebody's machine.
pub(crate) fn forbidden_words(file: &str, text: &str, places: &[String]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(word) = UNFINISHED.iter().find(|word| contains_word(line, word)) {
            complaints.push(Complaint::new(file, number, format!("`{word}`: finish it or leave it out")));
        }
        if let Some(place) = places.iter().find(|place| line.contains(place.as_str())) {
            complaints.push(Complaint::new(
                file,
                number,
                format!("`{place}` is a folder of somebody's machine"),
            ));
        }
    }
    complaints
}

/// Whether the word stands there on its own, not as a part of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let is_part = |neighbour: Option<char>| neighbour.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let before = line.get(..at).and_then(|head| head.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|tail| tail.chars().next());
        !is_part(before) && (word.ends_with('(') || !is_part(after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_module_doc_is_named() {
        assert!(opens_with_module_doc(&Source::sample("a.rs", "//! Owns a.\n")).is_empty());
        assert_eq!(opens_with_module_doc(&Source::sample("a.rs", "use b;\n//x\n")).len(), 1);
    }

    #[test]
    fn a_file_may_be_as_long_as_the_limit_and_its_tests_do_not_count() {
        let text = |lines: usize, tests: usize| {
            format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "// x\n".repeat(lines), "// y\n".repeat(tests))
        };
        assert!(file_length(&Source::sample("cni/src/a.rs", &text(500, 300))).is_empty());
        assert_eq!(file_length(&Source::sample("cni/src/a.rs", &text(501, 0))).len(), 1);
        assert!(file_length(&Source::sample("proxy-ebpf/src/a.rs", &text(250, 0))).is_empty());
        assert_eq!(file_length(&Source::sample("proxy-ebpf/src/a.rs", &text(251, 0))).len(), 1);
    }

    #[test]
    fn every_mark_of_unfinished_work_is_found_with_its_line() {
        for word in UNFINISHED {
            let complaints = forbidden_words("a.md", &format!("fine\n  {word} later\n"), &[]);
            assert_eq!(complaints.iter().map(|it| it.line).collect::<Vec<_>>(), [2], "{word}");
        }
    }

    #[test]
    fn a_word_inside_another_is_no_mark() {
        let harmless = format!("my{}list {}S a{}(", UNFINISHED[0], UNFINISHED[0], "todo!");
        assert!(forbidden_words("a.md", &harmless, &[]).is_empty());
    }

    #[test]
    fn a_path_of_somebodys_machine_is_found() {
        let places = places(&Workspace::at("/srv/src/sheave".as_ref()));
        for path in ["see /srv/src/sheave/x", concat!("see /ho", "me/me/x")] {
            assert_eq!(forbidden_words("a.md", path, &places).len(), 1, "{path}");
        }
        assert!(forbidden_words("a.md", "see /sys/fs/bpf/sheave", &places).is_empty());
    }
}
