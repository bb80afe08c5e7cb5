//! Cuts a text into its YAML documents, before any of them is parsed: a broken one cannot swallow the next.
//!
//! Cuts where Kubernetes' own reader does, at lines that begin with `---`. Must not know what a document means.

/// One document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    /// Its text, without the `---` line that begins it unless something follows on that line.
    pub(super) text: &'a str,
    /// Line of the file on which `text` begins, counted from 1.
    pub(super) first_line: usize,
}

/// The documents that hold something other than blanks, comments and directives.
pub(super) fn documents(text: &str) -> Vec<Document<'_>> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut first_line = 1;
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_separator(line) {
            found.push(Document { text: text.get(start..offset).unwrap_or_default(), first_line });
            // What follows on the line belongs to the new document.
            start = offset + 3;
            first_line = index + 1;
        }
        offset += line.len();
    }
    found.push(Document { text: text.get(start..).unwrap_or_default(), first_line });
    found.retain(|document| !is_empty(document.text));
    found
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn is_empty(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with(['#', '%']) || line == "...")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(usize, &str)> {
        documents(text).into_iter().map(|document| (document.first_line, document.text.trim())).collect()
    }

    #[test]
    fn documents_are_cut_at_separator_lines_and_know_their_first_line() {
        assert_eq!(lines("a: 1\n---\nb: 2\n--- \nc: 3"), [(1, "a: 1"), (2, "b: 2"), (4, "c: 3")]);
    }

    #[test]
    fn a_document_may_begin_on_the_separator_line() {
        assert_eq!(lines("--- {a: 1}\n"), [(1, "{a: 1}")]);
    }

    #[test]
    fn dashes_inside_a_text_do_not_cut() {
        assert_eq!(lines("a: |\n  ---\n  x\n---b: 1\n").len(), 1);
    }

    #[test]
    fn comments_directives_and_blank_lines_alone_are_no_document() {
        assert_eq!(lines(""), []);
        assert_eq!(lines("%YAML 1.2\n---\n# nothing\n\n---\n...\n"), []);
    }
}
