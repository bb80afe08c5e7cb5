//! Every `unsafe` block and impl says why it is sound, also where clippy does not look (inside macros).

use super::Complaint;
use super::sources::Source;
use super::syntax;

const NOTE: &str = "SAFETY:";

/// Complains about an `unsafe {` or `unsafe impl` whose statement has no note above or beside it.
pub(crate) fn check(source: &Source) -> Vec<Complaint> {
    let lines: Vec<&str> = source.text.lines().collect();
    let tokens = syntax::tokens(&source.text);
    let sites = tokens.iter().zip(tokens.iter().skip(1)).filter(|(first, second)| {
        first.is_ident && first.text == "unsafe" && ["{", "impl"].contains(&second.text.as_str())
    });
    sites
        .filter(|(first, _)| !has_note(&lines, first.line))
        .map(|(first, _)| {
            Complaint::new(&source.path, first.line, format!("unsafe without a `// {NOTE}` note"))
        })
        .collect()
}

/// Looks at the line (from 1) and upwards to where its statement begins, comments above it included.
fn has_note(lines: &[&str], line: usize) -> bool {
    let Some((own, above)) = lines.get(..line).and_then(<[&str]>::split_last) else { return false };
    let mut statement = above.iter().rev().take_while(|line| !ends_a_statement(line));
    own.contains(NOTE) || statement.any(|line| line.contains(NOTE))
}

fn ends_a_statement(line: &str) -> bool {
    let line = line.trim();
    let is_comment = line.starts_with("//");
    line.is_empty() || (!is_comment && line.ends_with([';', '{', '}']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        check(&Source::sample("a.rs", text)).iter().map(|complaint| complaint.line).collect()
    }

    #[test]
    fn an_unsafe_block_or_impl_without_a_note_is_named() {
        assert_eq!(lines("fn f() {\n    unsafe { g() }\n}"), [2]);
        assert_eq!(lines("unsafe impl Send for A {}"), [1]);
        assert_eq!(lines("fn f() {\n    m!(unsafe { g() });\n}"), [2]);
    }

    #[test]
    fn a_note_above_the_statement_counts_for_that_statement_only() {
        assert!(lines("fn f() {\n    // SAFETY: g is sound,\n    // always.\n    let a =\n        unsafe { g() };\n}").is_empty());
        assert_eq!(
            lines("fn f() {\n    // SAFETY: g is sound.\n    unsafe { g() };\n    unsafe { h() };\n}"),
            [4]
        );
    }

    #[test]
    fn an_unsafe_function_and_an_unsafe_attribute_need_no_note_here() {
        assert!(
            lines("unsafe fn f() {}\n#[unsafe(no_mangle)]\nstatic A: u8 = 0;\nunsafe extern \"C\" {}")
                .is_empty()
        );
    }
}
